"""Scores of generated images: JAQ (what the search maximises), similarity to full precision, failure
signatures.

JAQ joins alignment and quality (arXiv 2509.01624): `log(CLIPScore) + k * CLIP-IQA`, maximised. The scales of
both terms depend on the scorer, so a JAQ means nothing without `JAQ_DEFINITION` and the scorer's `name`
beside it.
"""

import importlib
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from qsched.scoring.similarity import Similarity, similarity

__all__ = [
    "ALIGNMENT_FLOOR",
    "JAQ_DEFINITION",
    "K_DEFAULT",
    "QUALITY",
    "ImageScores",
    "Scorer",
    "ScorerError",
    "Similarity",
    "jaq",
    "jaq_definition",
    "jaq_values",
    "load_scorer",
    "quality_name",
    "similarity",
]

K_DEFAULT = 2.0
ALIGNMENT_FLOOR = 0.01  # log of a mean CLIPScore of 0 (pure noise) stays finite: about -4.6
JAQ_DEFINITION = "JAQ = log(CLIPScore) + k * CLIP-IQA"
QUALITY = "CLIP-IQA"
_LATER = {"ScorerError": "weights", "load_scorer": "loading"}


@dataclass(frozen=True)
class ImageScores:
    """Both terms of JAQ, kept per image so that another k needs no new images.

    Attributes:
        alignment: CLIPScore = 100 * max(cos, 0), shape (batch,).
        quality: CLIP-IQA in [0, 1], or what the scorer's `quality_name` says, shape (batch,).
    """

    alignment: Tensor
    quality: Tensor


@runtime_checkable
class Scorer(Protocol):
    """What the search and the page need of a scorer. Images are (batch, 3, height, width) in [0, 1].

    Two more are optional: `quality_name`, where the quality is no CLIP-IQA, and `lpips(images, reference)`,
    the LPIPS distances or None.
    """

    name: str
    """Short name shown beside every score, such as "emoji-clip"."""
    definition: str
    """One line that says which models and prompts the two numbers come from."""

    def alignment(self, images: Tensor, prompts: list[str]) -> Tensor:
        """CLIPScore = 100 * max(cos, 0) of every image with its prompt, shape (batch,)."""
        ...

    def quality(self, images: Tensor) -> Tensor:
        """CLIP-IQA of every image in [0, 1], shape (batch,)."""
        ...

    def score(self, images: Tensor, prompts: list[str]) -> ImageScores:
        """Alignment and quality from one encoding of the images."""
        ...


def __getattr__(name: str) -> Any:
    # Loaded when asked for: these need open_clip, and the backbones, which need this package.
    if name in _LATER:
        return getattr(importlib.import_module(f"qsched.scoring.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def quality_name(scorer: Any) -> str:
    """What a scorer's quality is: CLIP-IQA, unless the scorer says otherwise (its `quality_name`)."""
    return getattr(scorer, "quality_name", QUALITY)


def jaq_definition(scorer: Any) -> str:
    """The formula of JAQ in a scorer's own terms, to stand beside its numbers;

    CLIP-IQA's without a scorer.
    """
    return JAQ_DEFINITION.replace(QUALITY, quality_name(scorer))


def jaq_values(alignment, quality, k: float = K_DEFAULT) -> np.ndarray:
    """JAQ over the last axis: `log(max(mean(alignment), 0.01)) + k * mean(quality)`.

    Args:
        alignment: CLIPScores in [0, 100], array or tensor of shape (..., images).
        quality: CLIP-IQA in [0, 1], the same shape.
        k: weight of the quality term.
    Returns:
        float64 array of shape (...); NaN where any image's score is not finite (a failed cell).
    Raises:
        ValueError: if the shapes differ or there is no image.
    """
    alignment, quality = _array(alignment), _array(quality)
    if alignment.shape != quality.shape or alignment.ndim == 0 or alignment.shape[-1] == 0:
        raise ValueError(
            f"alignment {alignment.shape} and quality {quality.shape} need one number per image each"
        )
    aligned, good = alignment.mean(axis=-1), quality.mean(axis=-1)
    finite = np.isfinite(aligned) & np.isfinite(good)
    # np.where instead of arithmetic on NaN and infinity keeps numpy silent and makes +inf a failure as well
    value = np.log(np.maximum(np.where(finite, aligned, 1.0), ALIGNMENT_FLOOR)) + k * np.where(
        finite, good, 0.0
    )
    return np.where(finite, value, np.nan)


def jaq(alignment, quality, k: float = K_DEFAULT) -> float:
    """JAQ of one set of images: `log(max(mean(alignment), 0.01)) + k * mean(quality)` (arXiv 2509.01624).

    Args:
        alignment: CLIPScores in [0, 100], shape (images,): tensor, array or list.
        quality: CLIP-IQA in [0, 1], shape (images,).
        k: weight of the quality term.
    Raises:
        ValueError: if the shapes differ, are not one-dimensional, or there is no image.
    """
    value = jaq_values(alignment, quality, k)
    if value.ndim != 0:
        raise ValueError(f"jaq takes one row of scores; this has {value.ndim + 1} axes (use jaq_values)")
    return float(value)


def _array(values) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)
