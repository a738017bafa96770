"""The loss surface: scores of every image of a grid over c_x and c_eps.

Alignment and quality are kept per image, so another k re-ranks all cells without generating an image. Numbers
are rounded to 4 decimals as they come in: a surface in memory equals the one on disk, and both have the same
best cell.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from qsched.scoring import K_DEFAULT, jaq_values
from qsched.surfaces.stability import Sweep, k_sweep, stability
from qsched.surfaces.uncertainty import Uncertainty, uncertainty


@dataclass(eq=False)
class Surface:
    """Scores of every image of a grid over c_x and c_eps.

    Attributes:
        c_x: the grid's columns j, strictly ascending (the value at the first step, for a ramp).
        c_eps: the grid's rows i, strictly ascending.
        alignment: CLIPScore in [0, 100], array of shape (len(c_eps), len(c_x), images); nested lists are
            accepted. A cell that failed or was not computed is NaN as a whole (None in lists): a mean over
            fewer images is no fair comparison.
        quality: CLIP-IQA in [0, 1], the same shape.
        prompts: how many prompts the images of a cell belong to. Image s * prompts + p is prompt p with noise
            seed s. None: one image per prompt.
        holds_plain: whether its point (1, 1) is the plain scheduler.
    Raises:
        ValueError: for axes or shapes that do not fit.
    """

    c_x: tuple[float, ...]
    c_eps: tuple[float, ...]
    alignment: np.ndarray
    quality: np.ndarray
    prompts: int | None = None
    holds_plain: bool = True

    def __post_init__(self) -> None:
        self.c_x, self.c_eps = _axis(self.c_x, "c_x"), _axis(self.c_eps, "c_eps")
        shape = (len(self.c_eps), len(self.c_x))
        images = max(_images(self.alignment), _images(self.quality))
        self.alignment = _cells(self.alignment, (*shape, images), "alignment")
        self.quality = _cells(self.quality, (*shape, images), "quality")
        failed = ~(np.isfinite(self.alignment) & np.isfinite(self.quality)).all(axis=-1)
        self.alignment[failed] = self.quality[failed] = np.nan
        self.laid_out(self.prompts)

    @classmethod
    def empty(
        cls, c_x: Sequence[float], c_eps: Sequence[float], images: int, prompts: int | None = None
    ) -> "Surface":
        """A surface with no cell computed yet, for a search to fill with `record`."""
        blank = np.full((len(c_eps), len(c_x), images), np.nan)
        return cls(tuple(c_x), tuple(c_eps), blank, blank.copy(), prompts)

    def laid_out(self, prompts: int | None) -> "Surface":
        """This surface, whose images belong to so many prompts (None leaves what it knows).

        Raises:
            ValueError: if its images are no multiple of the prompts.
        """
        if prompts is not None:
            if prompts < 1 or self.images % prompts:
                raise ValueError(
                    f"the surface has {self.images} images per cell, no multiple of the {prompts} prompts"
                )
            self.prompts = prompts
        return self

    @property
    def images(self) -> int:
        """Images per cell."""
        return self.alignment.shape[-1]

    @property
    def seeds(self) -> int:
        """Noise seeds per prompt."""
        return self.images // (self.prompts or self.images)

    def digest(self) -> bytes:
        """Changes whenever a score, an axis or the layout does."""
        layout = repr((self.c_x, self.c_eps, self.images, self.seeds, self.holds_plain)).encode()
        found = hashlib.blake2b(layout, digest_size=16)
        for scores in (self.alignment, self.quality):
            found.update(np.ascontiguousarray(scores))
        return found.digest()

    def record(self, i: int, j: int, alignment: Any, quality: Any) -> None:
        """Store the scores of cell (c_eps[i], c_x[j]), shape (images,) each; a non-finite score fails the
        cell.
        """
        scores = np.stack([_round(np.asarray(row, dtype=np.float64)) for row in (alignment, quality)])
        if scores.shape != (2, self.images):
            raise ValueError(
                f"a cell of this surface takes {self.images} scores, not the shape {scores.shape[1:]}"
            )
        self.alignment[i, j], self.quality[i, j] = (
            scores if np.isfinite(scores).all() else np.full_like(scores, np.nan)
        )

    def jaq(self, k: float = K_DEFAULT) -> np.ndarray:
        """JAQ of every cell, shape (len(c_eps), len(c_x)); NaN where the cell failed."""
        return jaq_values(self.alignment, self.quality, k)

    def best(self, k: float = K_DEFAULT) -> tuple[float, float, float]:
        """(c_x, c_eps, JAQ) of the best cell; the first of equals.

        Raises:
            ValueError: if no cell has a score.
        """
        values = self.jaq(k)
        if not np.isfinite(values).any():
            raise ValueError("no cell of this surface has a finite score")
        i, j = np.unravel_index(np.nanargmax(values), values.shape)
        return self.c_x[j], self.c_eps[i], float(values[i, j])

    def nearest(self, c_x: float, c_eps: float) -> tuple[int, int]:
        """(i, j) of the cell nearest to a point, i over c_eps and j over c_x; a point outside gets an edge
        cell.
        """
        return _closest(self.c_eps, c_eps), _closest(self.c_x, c_x)

    def covers(self, c_x: float, c_eps: float) -> bool:
        """Whether a point lies within the grid's range."""
        return self.c_x[0] <= c_x <= self.c_x[-1] and self.c_eps[0] <= c_eps <= self.c_eps[-1]

    def plain(self) -> tuple[int, int] | None:
        """(i, j) of the plain scheduler's cell: the one nearest to (1, 1). None if the grid does not hold
        it or the cell has no score."""
        cell = self.nearest(1.0, 1.0)
        return (
            cell
            if self.holds_plain and self.covers(1.0, 1.0) and np.isfinite(self.alignment[cell]).all()
            else None
        )

    def uncertainty(self, k: float = K_DEFAULT) -> Uncertainty | None:
        """95 % intervals of every cell, and which cells differ from the plain one;

        None from a single image.
        """
        return uncertainty(self, float(k))

    def stability(self, prompts: int | None = None, k: float = K_DEFAULT) -> dict[str, Any]:
        """How often the best cell stays the best under other prompts, where else it lands, and how much of
        its gain is luck; JSON friendly, see `qsched.surfaces.stability`.

        Args:
            prompts: how many prompts per seed; None is what the surface knows.
        """
        return stability(self.laid_out(prompts), float(k))

    def k_sweep(self, prompts: int | None = None, ks: Sequence[float] | None = None) -> Sweep:
        """How the best cell and its gain move with k, see `qsched.surfaces.stability`."""
        return k_sweep(self.laid_out(prompts), ks)

    def summary(self, k: float = K_DEFAULT, failed: int | None = None) -> dict[str, Any]:
        """The surface in a few numbers, JSON friendly; those that do not exist are None.

        Args:
            failed: how many cells were computed and failed; None: all that have no score.
        Returns:
            k, best, plain (the cell nearest to (1, 1), if the grid covers it), gain (best minus plain),
            worst, median; cells, scored, failed: how many; images: per cell.
        """
        values = self.jaq(k)
        finite = values[np.isfinite(values)]
        plain = math.nan if self.plain() is None else float(values[self.plain()])
        best = dict(zip(("c_x", "c_eps", "jaq"), self.best(k), strict=True)) if finite.size else None
        return {
            "k": k,
            "best": best,
            "plain": plain if math.isfinite(plain) else None,
            "gain": best["jaq"] - plain if best and math.isfinite(plain) else None,
            "worst": float(finite.min()) if finite.size else None,
            "median": float(np.median(finite)) if finite.size else None,
            "cells": values.size,
            "scored": int(finite.size),
            "failed": int(values.size - finite.size) if failed is None else failed,
            "images": self.images,
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON friendly; failed cells are None."""
        cells = lambda array: [
            [cell.tolist() if np.isfinite(cell[0]) else None for cell in row] for row in array
        ]
        return {
            "c_x": list(self.c_x),
            "c_eps": list(self.c_eps),
            "alignment": cells(self.alignment),
            "quality": cells(self.quality),
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Surface) and self.to_dict() == other.to_dict()

    __hash__ = None


def _round(scores: np.ndarray) -> np.ndarray:
    return np.round(scores, 4) + 0.0  # + 0.0 turns -0.0 into 0.0


def _closest(axis: Sequence[float], value: float) -> int:
    return int(np.abs(np.asarray(axis) - value).argmin())


def _axis(values: Any, name: str) -> tuple[float, ...]:
    try:
        axis = tuple(round(float(value), 6) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"the surface's {name} axis must be a list of numbers") from None
    if not axis or not all(math.isfinite(value) and value > 0 for value in axis):
        raise ValueError(f"the surface's {name} axis must hold finite positive numbers")
    if any(b <= a for a, b in pairwise(axis)):
        raise ValueError(f"the surface's {name} axis must ascend")
    return axis


def _images(cells: Any) -> int:
    """Images per cell: the length of the first cell that is not None."""
    if isinstance(cells, np.ndarray):
        return cells.shape[-1] if cells.ndim == 3 else 0
    rows = cells if isinstance(cells, list | tuple) else ()
    lengths = (
        len(c) for row in rows if isinstance(row, list | tuple) for c in row if isinstance(c, list | tuple)
    )
    return next(lengths, 1)


def _cells(values: Any, shape: tuple[int, int, int], name: str) -> np.ndarray:
    """Nested lists, None for a failed cell, to a rounded array of this shape."""
    if not isinstance(values, np.ndarray):
        failed = [math.nan] * shape[-1]
        try:
            values = [[failed if cell is None else cell for cell in row] for row in values]
        except TypeError:
            raise ValueError(f"the surface's {name} must be nested lists [c_eps][c_x][image]") from None
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"the surface's {name} must hold a number per image, the same count in every cell"
        ) from None
    if array.shape != shape or shape[-1] == 0:
        raise ValueError(f"the surface's {name} has the shape {array.shape}; its axes ask for {shape}")
    if np.isinf(array).any():
        raise ValueError(f"the surface's {name} holds an infinite number")
    return _round(array)
