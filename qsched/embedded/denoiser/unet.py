"""The denoiser: a small diffusers UNet2DConditionModel that predicts noise on the pixel-unshuffled image (64
px as 48 x 16 x 16).

Two choices make a noise-predicting U-Net trainable in hours instead of days:

- The noise schedule ends at alpha = 0.2 instead of 0.07, so an error in the noise becomes at most five times
  as large in the image; the last timestep is trained on pure noise, which is where sampling starts.
- The network starts as the identity on its input. `start_as_copy` routes x_t through the last skip connection
  as pairs of channels (+x, -x); because silu(a) - silu(-a) = a, norm, SiLU and conv_out pass it on unchanged.
  What remains to be learnt is the image that has to be subtracted from x_t, and the last group norm supplies
  the gain 1 / sigma_t. A pair lies in one group of that norm, so that the group's mean is zero: a norm that
  took x_t's mean colour away would leave an error that no later step can mend, since x0 inherits the mean of
  x_t. The loss is measured on the image (x0), so all timesteps weigh alike.
"""

import typing

import torch
import torch.nn.functional as F
from diffusers import LCMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from qsched.embedded.data import dataset
from qsched.models.emoji import CHANNELS, PATCH

if typing.TYPE_CHECKING:
    pass

SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.0064,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}
LAST = SCHEDULE["num_train_timesteps"] - 1
WIDTHS = (96, 224)
NORM_GROUPS = 8


def new_scheduler() -> LCMScheduler:
    """The model's scheduler; prediction is not clipped, as latent models are not."""
    return LCMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=True, original_inference_steps=50)


def new_unet(text_width: int = 256) -> UNet2DConditionModel:
    """The architecture, about 12 M parameters, conditioned on the text tower's tokens (cross-attention at 8 x
    8) and on its pooled feature.
    """
    unet = UNet2DConditionModel(
        sample_size=dataset.SIZE // PATCH,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=WIDTHS[-1] // 32,
        norm_num_groups=NORM_GROUPS,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="projection",
        projection_class_embeddings_input_dim=text_width,
    )
    start_as_copy(unet)
    return unet


def to_train(unet: UNet2DConditionModel, where: torch.device) -> UNet2DConditionModel:
    """Move a denoiser to where it is trained, in the layout that is fast there.

    On a CPU, attention is computed by plain matrix products: with 64 tokens, PyTorch's fused attention takes
    seven times as long there, forward and backward (torch 2.15), and the whole step a quarter longer.
    """
    if where.type == "cpu":
        unet.set_attn_processor(AttnProcessor())
    return unet.to(where, memory_format=torch.channels_last)


@torch.no_grad()
def start_as_copy(unet: UNet2DConditionModel) -> None:
    """Initialise so that the output equals the (normalised) input: see the module's text."""
    width, eye = WIDTHS[0], torch.eye(CHANNELS)
    unet.conv_in.weight[:CHANNELS].zero_()
    unet.conv_in.weight[:CHANNELS, :, 1, 1] = eye
    unet.conv_in.bias[:CHANNELS].zero_()
    last = unet.up_blocks[-1].resnets[-1]
    last.conv2.weight.zero_()
    last.conv2.bias.zero_()
    pairs = width // NORM_GROUPS // 2
    source = torch.arange(CHANNELS)
    plus = source // pairs * 2 * pairs + source % pairs
    shortcut = last.conv_shortcut.weight[:, :, 0, 0]
    shortcut.zero_()
    shortcut[plus, width : width + CHANNELS] = eye
    shortcut[plus + pairs, width : width + CHANNELS] = -eye
    last.conv_shortcut.bias.zero_()
    unet.conv_out.weight.zero_()
    unet.conv_out.weight[:, plus, 1, 1] = eye
    unet.conv_out.weight[:, plus + pairs, 1, 1] = -eye
    unet.conv_out.bias.zero_()


def to_latents(images: Tensor) -> Tensor:
    """Images (batch, 3, 64, 64) in [0, 1] -> latents (batch, 48, 16, 16) in [-1, 1]."""
    return F.pixel_unshuffle(images * 2 - 1, PATCH)


def image(latents: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x0 = (x_t - sigma_t * epsilon) / alpha_t (DDIM, Song et al. 2021, eq. 9)."""
    return (latents - sigma * noise) / alpha


def noise_in(latents: Tensor, epsilon: Tensor, timesteps: Tensor) -> Tensor:
    """The noise of x_t (batch, C, H, W): as predicted, but at the last timestep x_t itself. Sampling starts
    at pure noise there, in which the schedule would still find a fifth of an image; a DDIM step that takes
    this share away leaves x_s with almost no image, which no training ever showed (Lin et al. 2024, arXiv
    2305.08891, on schedules that do not end at zero)."""
    return torch.where((timesteps == LAST).view(-1, 1, 1, 1), latents, epsilon)


def pseudo_huber(error: Tensor, width: float = 0.1) -> Tensor:
    """sqrt(e^2 + w^2) - w, averaged per image: less pull from the few pixels that cannot be known
    (batch,).
    """
    return ((error**2 + width**2).sqrt() - width).flatten(1).mean(1)
