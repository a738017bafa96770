"""Images made worse on purpose, each with a strength in [0, 1], so that the tiny CLIP can learn what "good
quality" means.

The kinds follow what quantization and wrong coefficients do to few-step models: noise, blur, colour shift,
over-saturation, posterised tones, ghosts, blocks and washed-out contrast.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _per_image(strength: Tensor) -> Tensor:
    return strength.view(-1, 1, 1, 1)


def _blend(images: Tensor, other: Tensor, strength: Tensor) -> Tensor:
    return images + _per_image(strength) * (other - images)


def add_noise(images: Tensor, strength: Tensor) -> Tensor:
    """Gaussian pixel noise, standard deviation up to 0.4."""
    return images + 0.4 * _per_image(strength) * torch.randn_like(images)


def blotch(images: Tensor, strength: Tensor) -> Tensor:
    """Low-frequency colour noise, as a bent trajectory leaves it."""
    coarse = torch.randn(images.shape[0], 3, 8, 8, device=images.device)
    return images + 0.35 * _per_image(strength) * F.interpolate(coarse, images.shape[-2:], mode="bicubic")


def blur(images: Tensor, strength: Tensor) -> Tensor:
    """Detail removed down to an eighth of the resolution."""
    small = F.interpolate(F.avg_pool2d(images, 8), images.shape[-2:], mode="bicubic")
    middle = F.interpolate(F.avg_pool2d(images, 4), images.shape[-2:], mode="bilinear")
    half = (2 * strength).clamp(max=1)
    return _blend(_blend(images, middle, half), small, (2 * strength - 1).clamp(min=0))


def shift_colour(images: Tensor, strength: Tensor) -> Tensor:
    """A constant added to each colour channel: length up to 0.5 in colour space, in a random direction."""
    direction = F.normalize(torch.randn(images.shape[0], 3, 1, 1, device=images.device), dim=1)
    return images + 0.5 * _per_image(strength) * direction


def saturate(images: Tensor, strength: Tensor) -> Tensor:
    """Chroma and contrast exaggerated up to four times: over-saturation is damage, not beauty."""
    grey = images.mean(1, keepdim=True)
    colourful = grey + (1 + 3 * _per_image(strength)) * (images - grey)
    return 0.5 + (1 + _per_image(strength)) * (colourful - 0.5)


def wash_out(images: Tensor, strength: Tensor) -> Tensor:
    """Contrast and chroma lost towards a flat grey."""
    return _blend(images, torch.full_like(images, 0.6), 0.85 * strength)


def shrink(images: Tensor, strength: Tensor) -> Tensor:
    """Contrast and chroma lost towards the image's own mean colour, as least-squares coefficients do it."""
    return _blend(images, images.mean((2, 3), keepdim=True), 0.85 * strength)


def posterise(images: Tensor, strength: Tensor) -> Tensor:
    """Tones rounded to as few as two levels."""
    levels = 2 + 14 * (1 - _per_image(strength)) ** 2
    return (images * levels).round() / levels


def ghost(images: Tensor, strength: Tensor) -> Tensor:
    """Another image of the batch shining through."""
    return _blend(images, images.roll(1, 0), 0.6 * strength)


def add_blocks(images: Tensor, strength: Tensor) -> Tensor:
    """A brightness error per 4 x 4 patch, the denoiser's grid."""
    patches = torch.randn(
        images.shape[0], 3, images.shape[-2] // 4, images.shape[-1] // 4, device=images.device
    )
    return images + 0.25 * _per_image(strength) * F.interpolate(patches, images.shape[-2:], mode="nearest")


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    f.__name__: f
    for f in (add_noise, blotch, blur, shift_colour, saturate, wash_out, shrink, posterise, ghost, add_blocks)
}


def degrade(images: Tensor, strength: Tensor, kinds: Tensor) -> Tensor:
    """Apply to each image its own kind of damage.

    Args:
        images: (batch, 3, H, W) in [0, 1].
        strength: (batch,) in [0, 1]; 0 leaves the image as it is.
        kinds: int (batch,), index into KINDS.
    """
    out = images.clone()
    for number, kind in enumerate(KINDS.values()):
        chosen = (kinds == number).nonzero().flatten()
        if len(chosen):
            out[chosen] = kind(images[chosen], strength[chosen])
    return out.clamp(0, 1)


def noise_and_flat(count: int, size: int, device: torch.device | str = "cpu") -> Tensor:
    """Images of nothing: half pure noise, half one flat colour (count, 3, size, size)."""
    images = torch.rand(count, 3, size, size, device=device)
    flat = torch.rand(count, 3, 1, 1, device=device).expand_as(images)
    noise = (0.5 + 0.5 * torch.randn_like(images)).clamp(0, 1)
    choice = torch.rand(count, 1, 1, 1, device=device)
    return torch.where(choice < 0.4, noise, torch.where(choice < 0.6, images, flat))
