"""Similarity to the full-precision image: SSIM and PSNR, in torch alone, and LPIPS where a network for it is
given.

Scores that see no reference can miss damage (plain W4A4 FLUX-schnell has a better FID than BF16), so these
stand beside JAQ. SSIM and PSNR are written out because the ready-made ones cost more than they save here:
torchmetrics would be one more dependency, pyiqa would be loaded for every backbone. The test compares SSIM
with scikit-image's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # Gaussian window of Wang et al. (2004)
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
    """Mean structural similarity over the RGB channels, shape (batch,) (Wang et al. 2004, equation 13).

    Gaussian window of 11 pixels, sigma 1.5, population covariance, only positions where the window fits: the
    setting of the paper and of scikit-image's `gaussian_weights=True, use_sample_covariance=False`.
    """
    # the variance of a flat area is a difference of equals
    images, reference = images.double(), reference.double()
    mean_x, mean_y = _window(images), _window(reference)
    var_x = _window(images * images) - mean_x**2
    var_y = _window(reference * reference) - mean_y**2
    covariance = _window(images * reference) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean(dim=(1, 2, 3)).float()


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


def _window(images: Tensor) -> Tensor:
    """Gaussian-weighted local means where the window fits, shape (..., height - 10, width - 10).

    One banded matrix per axis: at 64 pixels a matrix product takes a fraction of a depthwise convolution's
    time.
    """
    rows, columns = (_band(side, images) for side in images.shape[-2:])
    return rows @ images @ columns.T


def _band(side: int, like: Tensor) -> Tensor:
    """(side - 10, side) matrix with the window's weights along its diagonal."""
    offset = (
        torch.arange(side, device=like.device) - torch.arange(side - WINDOW + 1, device=like.device)[:, None]
    )
    distance = (offset - WINDOW // 2).to(like.dtype)
    weights = torch.exp(-(distance**2) / (2 * SIGMA**2)) * ((offset >= 0) & (offset < WINDOW))
    return weights / weights.sum(dim=1, keepdim=True)
