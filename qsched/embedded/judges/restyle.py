"""Images redrawn by another hand: bent shapes, other colours, thicker or thinner strokes. What they show
stays the same, and a judge that learns from them knows an emoji by more than the few drawings of it that
there are. They are neither good nor bad: only matching and naming learn from them, not quality.

The observer's disturbances are of other kinds.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BENDS = 5
BEND, STRETCH, SHEAR = 0.07, 0.22, 0.15
TURN = 0.6
"""Radians."""


def bend(images: Tensor) -> Tensor:
    """Stretched by up to a quarter, sheared, and pulled about smoothly by up to some 4 pixels (of 64)."""
    count, device = len(images), images.device
    spread = lambda size: size * (2 * torch.rand(count, device=device) - 1)
    theta = torch.zeros(count, 2, 3, device=device)
    ratio, shear = spread(STRETCH).exp(), spread(SHEAR)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, 0, 1] = ratio, 1 / ratio, shear
    coarse = BEND * torch.randn(count, 2, BENDS, BENDS, device=device).clamp(-1.6, 1.6)
    pull = F.interpolate(coarse, images.shape[-2:], mode="bicubic").permute(0, 2, 3, 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False) + pull
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def recolour(images: Tensor) -> Tensor:
    """Colours turned about the axis of greys by up to TURN (Rodrigues' rotation) and made paler or stronger;
    a red apple must not become a green one.
    """
    angle = TURN * (2 * torch.rand(len(images), 1, 1, 1, device=images.device) - 1)
    gain = 0.4 + torch.rand_like(angle)
    grey = images.mean(1, keepdim=True)
    across = (images.roll(1, 1) - images.roll(-1, 1)) / math.sqrt(3)
    return (grey + gain * (angle.cos() * (images - grey) + angle.sin() * across)).clamp(0, 1)


def restroke(images: Tensor) -> Tensor:
    """Dark strokes a pixel wider or narrower on each side."""
    sign = torch.where(torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5, -1.0, 1.0)
    return sign * F.max_pool2d(sign * images, 3, 1, 1)


WAYS = (bend, recolour, restroke)


def restyle(images: Tensor) -> Tensor:
    """Each image changed in one or more ways, each way with a chance of one half; an image that none falls to
    is bent.

    Args:
        images: (batch, 3, H, W) in [0, 1].
    """
    chosen = torch.rand(len(WAYS), len(images), device=images.device) < 0.5
    chosen[0] |= ~chosen.any(0)
    for way, rows in zip(WAYS, chosen, strict=True):
        if rows.any():
            images = images.clone()
            images[rows] = way(images[rows])
    return images
