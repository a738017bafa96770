"""Failure signatures: three ways in which a quantized, rescaled trajectory goes wrong, each a number with a
limit.

The paper (arXiv 2509.01624) names them: colour distortion and hallucination when c_eps is too high, blur and
lost detail when c_x is too high, mode collapse at extreme values. Colour and detail are measured against the
full-precision image of the same prompt and noise; collapse is seen in the image alone. A collapse of many
prompts onto one image cannot be seen in one image and is not claimed here.

Images are brought to at most 256 pixels first, so that one limit serves a 64-pixel and a 1024-pixel model.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from qsched.scoring.similarity import checked

COMMON_SIZE = 256


@dataclass(frozen=True)
class Badge:
    """One failure that was found: the measured value, the limit it broke, and what it usually means."""

    name: str
    value: float
    threshold: float
    explanation: str


@dataclass(frozen=True)
class Signature:
    """One failure signature.

    Attributes:
        key: name of the measure, unique.
        badge: name shown to the user; two measures may share one.
        measure: (lab, reference_lab) -> float, or (lab) -> float if `needs_reference` is False; see `to_lab`.
        needs_reference: whether the full-precision image is needed.
        worse: "above" if values above the threshold are failures, "below" if values below it are.
        threshold: the limit, in the measure's unit.
        explanation: one sentence for the user, after the paper.
        calibration: how the threshold was found.
    """

    key: str
    badge: str
    measure: Callable[..., float]
    needs_reference: bool
    worse: str
    threshold: float
    explanation: str
    calibration: str

    def value(self, lab: Tensor, reference: Tensor | None = None) -> float:
        """The measured number for one CIELAB image (3, height, width)."""
        return self.measure(lab, reference) if self.needs_reference else self.measure(lab)

    def fails(self, value: float) -> bool:
        """Whether a measured number is beyond the threshold."""
        return value > self.threshold if self.worse == "above" else value < self.threshold


def to_lab(image: Tensor) -> Tensor:
    """CIELAB under D65 of an sRGB image by scikit-image, on the CPU, brought to at most 256 pixels on the
    longer side.

    Args:
        image: shape (3, height, width) in [0, 1].
    Returns:
        float32, (3, height, width): L* in 0 to 100, a* and b* about -100 to 100.
    """
    from skimage.color import rgb2lab

    image = image.detach().to("cpu", torch.float32).clamp(0, 1)
    longest = max(image.shape[-2:])
    if longest > COMMON_SIZE:
        size = [max(1, round(side * COMMON_SIZE / longest)) for side in image.shape[-2:]]
        image = F.interpolate(image[None], size=size, mode="area")[0]
    return torch.from_numpy(rgb2lab(image.numpy(), channel_axis=0))


def colour_shift(lab: Tensor, reference: Tensor) -> float:
    """How far the colours moved, in CIELAB units (about 2 is just visible): the 1-Wasserstein distance
    between the two images' a* values, joined with that of their b* values.

    A tint, a changed hue and a gained or lost saturation all raise it; moving the same colours about does
    not.

    Args:
        lab, reference: CIELAB images of one shape (3, height, width), from `to_lab`.
    """
    chroma, expected = (x[1:].flatten(1).sort(dim=1).values for x in (lab, reference))
    return float((chroma - expected).abs().mean(dim=1).norm())


def detail_ratio(lab: Tensor, reference: Tensor) -> float:
    """Energy of the Laplacian of lightness relative to the reference: 1 is equal detail, towards 0 blur,
    above 1 noise.

    Args:
        lab, reference: CIELAB images of one shape (3, height, width), from `to_lab`.
    """
    energy, expected = (_laplacian(x[0]).square().mean() for x in (lab, reference))
    # L* is 0 to 100: the offset only matters for constant images
    return float((energy + 1e-3) / (expected + 1e-3))


def contrast(lab: Tensor) -> float:
    """Spread of all colours in CIELAB units: 0 for a constant image, tens for an image.

    Args:
        lab: CIELAB image of shape (3, height, width), from `to_lab`.
    """
    return float(lab.flatten(1).var(dim=1, correction=0).sum().sqrt())


def noise_likeness(lab: Tensor) -> float:
    """1 minus the correlation of neighbouring pixels' lightness: near 0 for shapes, 1 for noise, 0 for a
    constant.

    Args:
        lab: CIELAB image of shape (3, height, width), from `to_lab`.
    """
    light = lab[0]
    light = light - light.mean()
    variance = light.square().mean()
    if variance < 1e-6:
        return 0.0
    across, down = (light[:, 1:] * light[:, :-1]).mean(), (light[1:] * light[:-1]).mean()
    return float(1 - (across + down) / (2 * variance))


_IMAGES = (
    "429 images of the embedded model (158 prompts at full precision and at w8a8, w4a8, w3a8, w4a4 "
    "and w2a8, 4 steps) in "
    "which the tiny CLIP still ranks the asked concept first among all names and gives a CLIP-IQA "
    "above one half"
)
_QUANTILE = f"99 % of {_IMAGES} measure at most this"
_MARGIN = (
    "set well below what any of them shows, since quantization of this model brings noise and "
    "colour, rarely blur or "
    "blankness; all of 60 drawn emoji break it when blurred by 1 pixel or faded to 4 % of their contrast"
)

SIGNATURES: tuple[Signature, ...] = (
    Signature(
        key="contrast",
        badge="collapse",
        measure=contrast,
        needs_reference=False,
        worse="below",
        threshold=3.0,
        explanation="The image is nearly constant: mode collapse, usual at extreme c_x or c_eps.",
        calibration=f"99 % of {_IMAGES} measure at least 10; {_MARGIN}",
    ),
    Signature(
        key="noise_likeness",
        badge="collapse",
        measure=noise_likeness,
        needs_reference=False,
        worse="above",
        threshold=0.64,
        explanation="The image looks like noise: mode collapse, usual at extreme c_x or c_eps.",
        calibration=_QUANTILE,
    ),
    Signature(
        key="colour_shift",
        badge="colour distortion",
        measure=colour_shift,
        needs_reference=True,
        worse="above",
        threshold=13.8,
        explanation=(
            "Colours left full precision: colour distortion or hallucination, usual when c_eps is too high."
        ),
        calibration=_QUANTILE,
    ),
    Signature(
        key="detail_ratio",
        badge="lost detail",
        measure=detail_ratio,
        needs_reference=True,
        worse="below",
        threshold=0.25,
        explanation="Fine detail of the full-precision image is gone: blur, usual when c_x is too high.",
        calibration=f"99 % of {_IMAGES} measure at least 1.0; {_MARGIN}",
    ),
)
"""The one table of limits."""


def failure_badges(image: Tensor, reference: Tensor | None = None) -> list[Badge]:
    """The failures seen in one image, worst first; an empty list is a clean bill.

    A collapsed image gets only its collapse badge: comparing its colour or detail would say nothing more.

    Args:
        image: shape (3, height, width) or (1, 3, height, width) in [0, 1].
        reference: the full-precision image of the same prompt and noise, the same shape; None checks for
            collapse only.
    Raises:
        ValueError: wrong shape or range.
    """
    image = _single(image)
    reference = None if reference is None else _single(reference)
    if reference is not None and reference.shape != image.shape:
        raise ValueError(
            f"the image {tuple(image.shape)} and its reference {tuple(reference.shape)} differ in shape"
        )
    if not bool(torch.isfinite(image).all()):
        return [
            Badge(
                "collapse", float("nan"), 0.0, "The image holds numbers that are not finite: it overflowed."
            )
        ]
    lab, reference_lab = to_lab(image), None if reference is None else to_lab(reference)
    found: list[Badge] = []
    for signature in sorted(SIGNATURES, key=lambda s: s.needs_reference):
        if signature.needs_reference and (
            reference is None or any(badge.name == "collapse" for badge in found)
        ):
            continue
        value = signature.value(lab, reference_lab)
        if signature.fails(value):
            found.append(Badge(signature.badge, value, signature.threshold, signature.explanation))
    return found


def _single(image: Tensor) -> Tensor:
    images = checked(image[None] if image.ndim == 3 else image)
    if len(images) != 1:
        raise ValueError(f"badges are given to one image at a time, not {len(images)}")
    return images[0]


def _laplacian(light: Tensor) -> Tensor:
    """The 5-point Laplacian of a (height, width) image, inner pixels only."""
    return light[:-2, 1:-1] + light[2:, 1:-1] + light[1:-1, :-2] + light[1:-1, 2:] - 4 * light[1:-1, 1:-1]
