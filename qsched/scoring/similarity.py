"""Similarity to the full-precision image: SSIM and PSNR, and LPIPS where a network for it is given.

Scores that see no reference can miss damage (plain W4A4 FLUX-schnell has a better FID than BF16), so these
stand beside JAQ.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

WINDOW = 11  # pixels of the Gaussian window of SSIM
PSNR_CEILING = 100.0  # dB; identical images would be infinite, which no JSON holds


@dataclass(frozen=True)
class Similarity:
    """How close images are to their references.

    Attributes:
        ssim: structural similarity, at most 1 (identical), shape (batch,).
        psnr: peak signal-to-noise ratio in dB, at most 100 (identical), shape (batch,).
        lpips: learned perceptual distance, at least 0 (identical), shape (batch,); None where it cannot be
            had.
    """

    ssim: Tensor
    psnr: Tensor
    lpips: Tensor | None = None


def similarity(
    images: Tensor, reference: Tensor, lpips: Callable[[Tensor, Tensor], Tensor | None] | None = None
) -> Similarity:
    """SSIM, PSNR and LPIPS of images against their references.

    Args:
        images: shape (batch, 3, height, width) in [0, 1], at least 11 pixels on each side.
        reference: the same shape.
        lpips: gives the LPIPS distances, such as a photo scorer's `lpips`; None leaves them out.
    Raises:
        ValueError: wrong shape or range, or two different shapes.
    """
    images, reference = checked(images), checked(reference)
    if images.shape != reference.shape:
        raise ValueError(
            f"the images {tuple(images.shape)} and references {tuple(reference.shape)} differ in shape"
        )
    if min(images.shape[-2:]) < WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {WINDOW} x {WINDOW} pixels, not {tuple(images.shape[-2:])}"
        )
    return Similarity(
        ssim(images, reference), psnr(images, reference), None if lpips is None else lpips(images, reference)
    )


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over all channels, shape (batch,), capped at 100 dB."""
    error = (images - reference).square().mean(dim=(1, 2, 3))
    return (-10 * torch.log10(error.clamp_min(1e-30))).clamp_max(PSNR_CEILING)


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Mean structural similarity over the RGB channels, shape (batch,), by scikit-image with the setting of
    Wang et al. (2004): a Gaussian window of 11 pixels, sigma 1.5, population covariance.
    """
    from skimage.metrics import structural_similarity

    setting = {"channel_axis": 0, "data_range": 1, "gaussian_weights": True, "use_sample_covariance": False}
    pairs = zip(images.cpu().numpy(), reference.cpu().numpy(), strict=True)
    return torch.tensor([structural_similarity(*pair, **setting) for pair in pairs]).to(images)


def checked(images: Tensor) -> Tensor:
    """The images as float32 after a check of shape (batch, 3, height, width) and range [0, 1].

    A wrong range (0 to 255, or -1 to 1) would give silent nonsense in every score, so it is refused. NaN
    passes: what a failed image means is up to the caller.

    Raises:
        ValueError: wrong shape or range.
    """
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"images must have shape (batch, 3, height, width), not {tuple(images.shape)}")
    images = images.detach().float()
    if bool((images < -1e-3).any() | (images > 1 + 1e-3).any()):
        raise ValueError(f"images must lie in [0, 1]; these go from {images.min():.3g} to {images.max():.3g}")
    return images
