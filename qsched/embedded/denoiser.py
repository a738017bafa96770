"""The denoiser: a small diffusers UNet2DConditionModel that predicts noise on the pixel-unshuffled picture (64 px as 48 x 16 x 16).

Two choices make a noise-predicting U-Net trainable in hours instead of days:

- The noise schedule ends at alpha = 0.2 instead of 0.07, so an error in the noise becomes at most five times as large in the picture; the last timestep is
  trained on pure noise, which is where sampling starts.
- The network starts as the identity on its input. `start_as_copy` routes x_t through the last skip connection as pairs of channels (+x, -x); because
  silu(a) - silu(-a) = a, norm, SiLU and conv_out pass it on unchanged. What remains to be learnt is the picture that has to be subtracted from x_t, and the
  last group norm supplies the gain 1 / sigma_t. A pair lies in one group of that norm, so that the group's mean is zero: a norm that took x_t's mean colour
  away would leave an error that no later step can mend, since x0 inherits the mean of x_t. The loss is measured on the picture (x0), so all timesteps weigh
  alike.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import LCMScheduler, UNet2DConditionModel
from torch import Tensor

from qsched.embedded import clip, dataset, training

PATCH = 4
CHANNELS = 3 * PATCH**2
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
    """The architecture, about 12 M parameters, conditioned on the text tower's tokens (cross-attention at 8 x 8) and on its pooled feature."""
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
    """Pictures (batch, 3, 64, 64) in [0, 1] -> latents (batch, 48, 16, 16) in [-1, 1]."""
    return F.pixel_unshuffle(images * 2 - 1, PATCH)


def to_images(latents: Tensor) -> Tensor:
    """Latents (batch, 48, 16, 16) -> pictures (batch, 3, 64, 64) in [0, 1]."""
    return (F.pixel_shuffle(latents, PATCH) / 2 + 0.5).clamp(0, 1)


def text_condition(model: "clip.CLIP", tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Token states (batch, tokens, width) after the text tower's last norm, and the pooled feature scaled to unit variance (batch, width)."""
    states = model.token_embedding(tokens) + model.positional_embedding
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask))
    pooled = states[torch.arange(len(tokens)), tokens.argmax(-1)] @ model.text_projection
    return states, F.normalize(pooled, dim=-1) * math.sqrt(pooled.shape[-1])


def picture(latents: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x0 = (x_t - sigma_t * epsilon) / alpha_t (DDIM, Song et al. 2021, eq. 9)."""
    return (latents - sigma * noise) / alpha


def pseudo_huber(error: Tensor, width: float = 0.1) -> Tensor:
    """sqrt(e^2 + w^2) - w, averaged per image: less pull from the few pixels that cannot be known (batch,)."""
    return ((error**2 + width**2).sqrt() - width).flatten(1).mean(1)


class Batches:
    """Draws training batches: latents, noise, timesteps and text conditions, with the captions encoded once up front."""

    def __init__(self, data: Path, clip_folder: Path, where: torch.device, seed: int):
        self.emoji, self.where = dataset.load(data), where
        self.rng = np.random.default_rng(seed)
        model, tokenizer = clip.new_clip(clip_folder, self.emoji)
        clip.load_weights(model, clip_folder).eval()
        self.usable = self.emoji.train_indices()
        self.clean = to_latents(self.emoji.pictures(torch.arange(len(self.emoji.images)))).to(where)
        variants = [self.emoji.captions(torch.arange(len(self.clean)), self.rng) for _ in range(16)]
        with torch.no_grad():
            encoded = [text_condition(model, tokenizer(texts)) for texts in variants]
        self.states = torch.stack([e[0] for e in encoded]).to(where)
        self.pooled = torch.stack([e[1] for e in encoded]).to(where)
        self.alphas = new_scheduler().alphas_cumprod.sqrt().to(where)
        self.sigmas = (1 - new_scheduler().alphas_cumprod).sqrt().to(where)
        self.order = np.empty(0, dtype=np.int64)

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Clean latents (count, 48, 16, 16), token states and pooled text; every picture is seen once per epoch."""
        while len(self.order) < count:
            self.order = np.concatenate([self.order, self.rng.permutation(self.usable.numpy())])
        chosen, self.order = torch.from_numpy(self.order[:count]), self.order[count:]
        variant = torch.from_numpy(self.rng.integers(len(self.states), size=count))
        return self.clean[chosen], self.states[variant, chosen], self.pooled[variant, chosen]

    def levels(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t as (count, 1, 1, 1)."""
        return self.alphas[timesteps].view(-1, 1, 1, 1), self.sigmas[timesteps].view(-1, 1, 1, 1)

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x_t, alpha_t and sigma_t; the first third becomes pure noise at the last timestep, where sampling starts.

        timesteps is changed in place for that third.
        """
        pure = torch.arange(len(clean), device=clean.device) < len(clean) // 3
        timesteps[pure] = LAST
        alpha, sigma = self.levels(timesteps)
        return torch.where(pure.view(-1, 1, 1, 1), noise, alpha * clean + sigma * noise), alpha, sigma


def train_denoiser(
    data: Path,
    clip_folder: Path,
    work: Path,
    *,
    steps: int,
    batch: int = 64,
    learning_rate: float = 1.5e-3,
    seed: int = 0,
    device: str = "auto",
    compiled: bool = True,
) -> training.Average:
    """Train the teacher; checkpoints in work/denoiser.pt make it resumable. Returns the averaged weights."""
    where = training.pick_device(device)
    torch.manual_seed(seed)
    batches = Batches(data, clip_folder, where, seed)
    unet = new_unet().to(where, memory_format=torch.channels_last)
    forward = torch.compile(unet) if compiled else unet

    def loss_of(step: int) -> Tensor:
        clean, states, pooled = batches.draw(batch)
        noise = torch.randn_like(clean)
        timesteps = torch.randint(1, LAST + 1, (batch,), device=where)
        noisy, alpha, sigma = batches.noised(clean, noise, timesteps)
        with torch.autocast(where.type, dtype=torch.bfloat16):
            predicted = forward(noisy, timesteps, states, class_labels=pooled, return_dict=False)[0]
        return pseudo_huber(picture(noisy, predicted.float(), alpha, sigma) - clean).mean()

    return training.train(
        unet, loss_of, work / "denoiser.pt", steps=steps, learning_rate=learning_rate, decay=0.997, save_every=200
    )
