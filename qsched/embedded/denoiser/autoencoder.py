"""The autoencoder's training: 128 px images to latents of unit variance and back.

The decoder sees its latents with noise on them, so that the small errors of a quantized denoiser hardly show.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor

from qsched.embedded.data import dataset
from qsched.embedded.data.scenes import Scenes
from qsched.embedded.denoiser.batches import MIX, drawn_styles
from qsched.embedded.denoiser.latent import CHANNELS, new_autoencoder
from qsched.embedded.training import loop as training
from qsched.embedded.training.weights import read_weights, start_from

LATENT_NOISE = 0.25
"""Standard deviation of the noise on latents at most, beside latents of unit variance."""
BOUND = 3.0
"""The decoder of an AutoencoderTiny squashes latents beyond it."""
EDGES, COARSE, LATENTS = 0.5, 0.5, 0.05
"""Weights of the losses beside the one on pixels."""
CHECK_COUNT = 64


def reconstruction_loss(error: Tensor) -> Tensor:
    """Mean loss of errors (count, 3, height, width): of pixels, of their differences along rows and columns,
    and of means over 4 x 4.
    """
    pixels = (error.square() + 1e-3).sqrt().mean()
    edges = error.diff(dim=3).abs().mean() + error.diff(dim=2).abs().mean()
    return pixels + EDGES * edges + COARSE * F.avg_pool2d(error, 4).abs().mean()


def latent_loss(latents: Tensor) -> Tensor:
    """How far latents (count, C, height, width) are from zero mean and unit variance per channel, and from
    within BOUND.
    """
    deviation, mean = latents.std((0, 2, 3)), latents.mean((0, 2, 3))
    return (deviation - 1).square().mean() + mean.square().mean() + F.relu(latents.abs() - BOUND).mean()


@torch.no_grad()
def to_unit_variance(autoencoder: AutoencoderTiny, images: Tensor) -> None:
    """Scale the encoder's last layer so that the latents of images (count, 3, height, width) in [-1, 1] have
    unit variance.
    """
    last = autoencoder.encoder.layers[-1]
    last.bias.zero_()
    last.weight.div_(autoencoder.encoder(images).std())


@torch.no_grad()
def quality(autoencoder: AutoencoderTiny, images: Tensor) -> dict[str, float]:
    """PSNR in dB of decoded images (count, 3, height, width) in [0, 1], with clean latents and with noise of
    LATENT_NOISE on them.
    """
    latents = autoencoder.encoder(images * 2 - 1)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)).to(latents.device)

    def psnr(latents: Tensor) -> float:
        decoded = (autoencoder.decoder(latents) / 2 + 0.5).clamp(0, 1)
        return float(-10 * (decoded - images).square().mean((1, 2, 3)).log10().mean())

    return {"psnr": psnr(latents), "psnr_noisy": psnr(latents + LATENT_NOISE * noise)}


def load_trained(path: Path) -> AutoencoderTiny:
    """A trained autoencoder from its weights in any form (`weights.read_weights`), in evaluation mode."""
    weights = read_weights(path)
    autoencoder = new_autoencoder(len(weights["decoder.layers.0.weight"]))
    autoencoder.load_state_dict(weights)
    return autoencoder.eval().requires_grad_(False)


def train_autoencoder(
    data: Path,
    checkpoint: Path,
    *,
    batch: int = 64,
    seed: int = 0,
    device: str = "auto",
    compiled: bool = True,
    start: Path | None = None,
    **options: Any,
) -> training.Average:
    """Train the autoencoder on scenes; its checkpoint makes it resumable. Returns the averaged weights.

    Args:
        start: weights of another one to begin with, unless there is a checkpoint.
        options: of `training.train`, such as steps and minutes.
    """
    where, emoji = training.pick_device(device), dataset.load(data)
    usable = emoji.train_indices(drawn_styles(emoji), unseen=False)
    scenes = Scenes(emoji, usable, mix=MIX, seed=seed, where=where)
    held_out = emoji.held_out.nonzero().flatten()[:CHECK_COUNT]
    checks = emoji.images_of(held_out if len(held_out) else usable[:CHECK_COUNT]).to(where)

    def images_of(step: int) -> Tensor:
        images = scenes.draw(batch, step).images * 2 - 1
        images = images.flip(3) if step % 2 else images
        return images.contiguous(memory_format=torch.channels_last)

    torch.manual_seed(seed)
    autoencoder = new_autoencoder().to(where, memory_format=torch.channels_last)
    if not checkpoint.exists():
        if start is not None:
            start_from(start, autoencoder)
        else:
            to_unit_variance(autoencoder, images_of(0))
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    if compiled:
        encoder, decoder = torch.compile(encoder), torch.compile(decoder)

    def loss_of(step: int) -> Tensor:
        images = images_of(step)
        level = LATENT_NOISE * torch.rand(batch, 1, 1, 1, device=where)
        noise = torch.randn(batch, CHANNELS, *(side // 8 for side in images.shape[2:]), device=where)
        with training.autocast(where):
            latents = encoder(images)
            decoded = decoder(latents + (level * noise).to(latents.dtype))
        return reconstruction_loss(decoded.float() - images) + LATENTS * latent_loss(latents.float())

    return training.train(
        autoencoder,
        loss_of,
        checkpoint,
        weight_decay=1e-4,
        decay=0.998,
        seed=seed,
        report=lambda: quality(autoencoder, checks),
        **{"learning_rate": 2e-3} | options,
    )
