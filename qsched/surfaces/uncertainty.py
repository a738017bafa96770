"""How sure a surface is: an interval for every cell, and which cells differ from the plain scheduler.

Everything comes from one set of bootstrap resamples, the same for all cells, so differences are paired. What
is drawn are prompts, each with all its seeds: every image has its own noise, so other prompts bring other
noise as well, and the intervals cover both. (A surface of one prompt draws its seeds instead.) JAQ is a
function of two means, and a resample of means is a product: weights (resamples, prompts) times scores
(prompts, cells).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import betainc
from scipy.stats import false_discovery_control

from qsched.scoring import ALIGNMENT_FLOOR, jaq_values
from qsched.surfaces.intervals import RESAMPLES, expanded_tail
from qsched.surfaces.remembering import Remembered

if TYPE_CHECKING:
    from qsched.surfaces.surface import Surface

FALSE_DISCOVERIES = 0.05
INTERVAL = (
    f"95 % expanded percentile interval of {RESAMPLES} bootstrap resamples of the prompts, each with "
    f"its seeds"
)
DIFFERENT = (
    "different from plain: bootstrap-t test of the paired difference in JAQ, Benjamini-Hochberg "
    "over all cells "
    f"(at most {FALSE_DISCOVERIES:.0%} false discoveries expected)"
).replace("%", " %")
_BLOCK = 256  # cells at a time: arrays of 4 MB, which stay in the cache whatever the grid


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Noise of a surface at one k. Arrays of shape (len(c_eps), len(c_x)); NaN where a cell has no score.

    Attributes:
        low, high: 95 % interval of JAQ.
        difference, difference_low, difference_high: JAQ minus that of the plain cell, paired, with its 95 %
            interval; all None if the surface has no plain cell.
        p: probability of so large a difference if there were none, for each cell by itself.
        different: cells that differ from plain when the number of cells is accounted for (`DIFFERENT`).
    """

    low: np.ndarray
    high: np.ndarray
    difference: np.ndarray | None = None
    difference_low: np.ndarray | None = None
    difference_high: np.ndarray | None = None
    p: np.ndarray | None = None
    different: np.ndarray | None = None

    @property
    def alike(self) -> np.ndarray:
        """Cells with a score that do not differ from plain: what is hatched.

        All False without a plain cell.
        """
        return np.zeros(self.low.shape, bool) if self.p is None else np.isfinite(self.p) & ~self.different


_known: Remembered[Uncertainty | None] = Remembered(32)


def uncertainty(surface: "Surface", k: float) -> Uncertainty | None:
    """Intervals and significance of every cell;

    None if there is only one image, which says nothing about noise.
    """
    return _known.get((surface.digest(), k), lambda: _uncertainty(surface, k))


def _uncertainty(surface: "Surface", k: float) -> Uncertainty | None:
    alignment, quality, cells = replicates(surface)
    count = alignment.shape[1]
    if count < 2 or not cells.size:
        return None
    weights, tail = resample(count), expanded_tail(count)
    found = {name: np.full((len(surface.c_eps), len(surface.c_x)), np.nan) for name in _FIELDS}
    put = lambda name, block, values: found[name].flat.__setitem__(cells[block], values)
    value = jaq_values(alignment, quality, k)
    plain = plain_row(surface, cells)
    for block in blocks(len(cells)):
        resampled = jaq_of(alignment[block], quality[block], weights, k)
        low, high = _quantiles(resampled, tail)
        put("low", block, low)
        put("high", block, high)
        if plain is None:
            continue
        resampled -= jaq_of(alignment[[plain]], quality[[plain]], weights, k)
        low, high = _quantiles(resampled, tail)
        put("difference_low", block, low)
        put("difference_high", block, high)
        difference = value[block] - value[plain]
        put("difference", block, difference)
        own = _influence(alignment[block], quality[block], k) - _influence(
            alignment[[plain]], quality[[plain]], k
        )
        put("p", block, _p_values(difference, own, weights))
    if plain is None:
        return Uncertainty(found["low"], found["high"])
    different = np.zeros(found["p"].shape, bool)
    # Benjamini & Hochberg 1995; valid for the positively dependent tests that neighbouring cells are
    different.flat[cells] = false_discovery_control(found["p"].flat[cells]) <= FALSE_DISCOVERIES
    return Uncertainty(**found, different=different)


_FIELDS = ("low", "high", "difference", "difference_low", "difference_high", "p")


def replicates(surface: "Surface") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(alignment, quality, cells): scores of what is resampled, shape (cells with a score, prompts), averaged
    over the seeds (of one prompt: its seeds), and the flat indices of these cells."""
    cells = np.nonzero(np.isfinite(surface.alignment).all(axis=-1).ravel())[0]
    prompts = surface.images // surface.seeds
    rows = []
    for scores in (surface.alignment, surface.quality):
        chosen = scores.reshape(-1, surface.seeds, prompts)[cells]
        rows.append(chosen.mean(axis=1) if prompts > 1 else chosen[..., 0])
    return *rows, cells


def plain_row(surface: "Surface", cells: np.ndarray) -> int | None:
    """Which of the cells with a score is the plain one."""
    plain = surface.plain()
    return None if plain is None else int(np.searchsorted(cells, plain[0] * len(surface.c_x) + plain[1]))


@lru_cache(maxsize=8)
def resample(count: int) -> np.ndarray:
    """How often each of `count` things is drawn, as shares, shape (RESAMPLES, count).

    The same at every call.
    """
    return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count


def blocks(cells: int) -> Iterator[slice]:
    """Slices that cover the cells."""
    return (slice(start, min(start + _BLOCK, cells)) for start in range(0, cells, _BLOCK))


def jaq_of(alignment: np.ndarray, quality: np.ndarray, weights: np.ndarray, k: float) -> np.ndarray:
    """JAQ of cells (cells, prompts) under weights (resamples, prompts): shape (cells, resamples)."""
    value = np.log(np.maximum(alignment @ weights.T, ALIGNMENT_FLOOR))
    value += k * (quality @ weights.T)
    return value


def paired(alignment: np.ndarray, quality: np.ndarray, k: float) -> tuple[float, float]:
    """95 % interval of the difference in JAQ of two cells, first minus second; scores of shape
    (2, prompts).
    """
    one, other = jaq_of(alignment, quality, resample(alignment.shape[1]), k)
    low, high = _quantiles((one - other)[None], expanded_tail(alignment.shape[1]))
    return float(low[0]), float(high[0])


def _quantiles(resampled: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """The values that cut this share from both ends of each row."""
    last = resampled.shape[1] - 1
    first = round(tail * last)
    ordered = np.sort(resampled, axis=1)  # twice as fast as np.partition
    return ordered[:, first], ordered[:, last - first]


def _influence(alignment: np.ndarray, quality: np.ndarray, k: float) -> np.ndarray:
    """What each prompt adds to JAQ to first order, shape (cells, prompts), mean 0 over the prompts: the
    derivative of log(mean) is 1 / mean, and 0 where the floor holds it."""
    mean = alignment.mean(axis=1, keepdims=True)
    slope = np.where(mean > ALIGNMENT_FLOOR, 1 / np.maximum(mean, ALIGNMENT_FLOOR), 0.0)
    return (alignment - mean) * slope + k * (quality - quality.mean(axis=1, keepdims=True))


def _p_values(difference: np.ndarray, influence: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Two-sided bootstrap-t: how often a resample's own |t| around the truth it was drawn from is as large as
    the one observed. Beyond the farthest resample the tail goes on from there as Student's does: with more
    cells than resamples, a p of one resample at least would never be small enough."""
    count = influence.shape[1]
    squared, variance = np.square(influence @ weights.T), np.square(influence).mean(axis=1)
    spread = np.square(influence) @ weights.T - squared
    # a resample of one prompt alone knows no spread: its |t| is infinite, which keeps few prompts from
    # proving anything
    spread[spread < 1e-9 * variance[:, None]] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.divide(squared, spread, out=squared)  # t squared, divided by the degrees of freedom
        observed = np.square(difference) / variance
    beaten = (t >= observed[:, None] * (1 - 1e-9)).sum(axis=1)
    p = (1 + beaten) / (1 + weights.shape[0])
    # every prompt differs by the same amount: certain, unless that amount is nothing
    constant = variance <= 1e-18
    beyond = (beaten == 0) & ~constant
    tail = lambda ratio: betainc((count - 1) / 2, 0.5, 1 / (1 + ratio))  # of Student's t squared / freedom
    p[beyond] *= tail(observed[beyond]) / tail(t[beyond].max(axis=1))
    return np.where(constant, np.where(np.abs(difference) > 1e-9, 2.0 ** (1 - count), 1.0), p)
