"""How sure the optimum of a surface is: would other prompts have chosen the same cell, and is its gain real?

The best of many noisy cells is partly luck. Prompts are resampled (see `qsched.surfaces.uncertainty`) and
each resample chooses its own best cell; the share of resamples that agree, the smallest set of cells that
holds 95 % of them, and the gain that such a choice has on the prompts it did not see ("out of bag", Efron &
Tibshirani 1997) say how much.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qsched.scoring import ALIGNMENT_FLOOR, jaq_values
from qsched.surfaces.intervals import RESAMPLES
from qsched.surfaces.remembering import Remembered
from qsched.surfaces.uncertainty import INTERVAL, blocks, paired, plain_row, replicates, resample, uncertainty

if TYPE_CHECKING:
    from qsched.surfaces.surface import Surface

SHARE = 0.95
FEWEST_CELLS, FEWEST_PROMPTS = 9, 3
"""Scored cells (of a smaller grid: all) and prompts (of one prompt: seeds) that it takes: the first cell of a
search wins every resample, and two prompts have only three different resamples."""
HIGHEST_K = 5.0
KS = tuple(round(0.1 * step, 1) for step in range(round(10 * HIGHEST_K) + 1))
"""0, 0.1, ... 5."""
METHOD = (
    f"{RESAMPLES} bootstrap resamples of the prompts, each with its seeds; the region is the "
    f"smallest set of cells that "
    f"holds {SHARE:.0%} of the resamples' best cells; optimism is by how much the best cell beats "
    f"the resamples' best "
    "cells on the prompts that these did not draw"
).replace("%", " %")

_known: Remembered[dict[str, Any]] = Remembered(32)
_sweeps: Remembered["Sweep"] = Remembered(8)


def stability(surface: "Surface", k: float) -> dict[str, Any]:
    """The optimum's stability, JSON friendly. Numbers that do not exist (a single image, no plain cell) are
    None.

    Returns:
        k, prompts, seeds, resamples, level, method;
        best: {c_x, c_eps, jaq};
        cells: how many have a score;
        wins: share of the resamples whose best cell it is; None, as all that follows but the mean gain, where
            there are fewer than FEWEST_CELLS cells or FEWEST_PROMPTS prompts;
        region: {cells: [[c_x, c_eps, share], ...] the likeliest first, c_x: [lowest, highest], c_eps:
            likewise};
        spread: {c_x: [2.5 %, 97.5 %], c_eps: likewise} of the resamples' best cells;
        gain: {mean, low, high} of JAQ, best minus plain, with the interval of that cell (which forgets that
            it was chosen), and different: whether it differs from plain;
        optimism: how much of the gain is owed to choosing the best of many; gain_out_of_bag: what is left.
    Raises:
        ValueError: if no cell has a score.
    """
    return copy.deepcopy(_known.get((surface.digest(), k), lambda: _stability(surface, k)))


def _stability(surface: "Surface", k: float) -> dict[str, Any]:
    c_x, c_eps, value = surface.best(k)
    alignment, quality, cells = replicates(surface)
    plain, count = plain_row(surface, cells), alignment.shape[1]
    gain = None if plain is None else value - float(jaq_values(alignment[plain], quality[plain], k))
    answer = {
        "k": k,
        "prompts": surface.images // surface.seeds,
        "seeds": surface.seeds,
        "resamples": RESAMPLES,
        "level": SHARE,
        "best": {"c_x": c_x, "c_eps": c_eps, "jaq": value},
        "cells": len(cells),
        "wins": None,
        "region": None,
        "spread": None,
        "gain": None if gain is None else {"mean": gain, "low": None, "high": None, "different": None},
        "optimism": None,
        "gain_out_of_bag": None,
        "method": f"{METHOD}; gain: {INTERVAL}",
    }
    if not _enough(surface, count, len(cells)):
        return answer
    rows = winners(alignment, quality, (k,))[0]
    points = _points(surface, cells[rows])
    best = surface.nearest(c_x, c_eps)
    answer["wins"] = float((cells[rows] == best[0] * len(surface.c_x) + best[1]).mean())
    answer["region"] = _region(surface, cells[rows])
    answer["spread"] = {name: _middle(values) for name, values in zip(("c_x", "c_eps"), points, strict=True)}
    if gain is not None:
        noise = uncertainty(surface, k)
        answer["gain"] |= {
            "low": float(noise.difference_low[best]),
            "high": float(noise.difference_high[best]),
        }
        answer["gain"]["different"] = bool(noise.different[best])
        extra = optimism(alignment, quality, rows, k)
        answer |= {"optimism": extra, "gain_out_of_bag": gain - extra}
    return answer


def too_few(found: dict[str, Any]) -> str:
    """The sentence in place of the numbers that `stability` leaves out."""
    images, cells = found["prompts"] * found["seeds"], found["cells"]
    if images == 1:
        return "One image per cell: how noisy the surface is cannot be said."
    points = "1 point" if cells == 1 else f"{cells} points"
    return f"{points} with {images} images each are too few: how sure the best one is cannot be said yet."


def _enough(surface: "Surface", count: int, cells: int) -> bool:
    """Whether so many prompts and scored cells carry a statement about the best cell."""
    return count >= FEWEST_PROMPTS and cells >= min(FEWEST_CELLS, len(surface.c_x) * len(surface.c_eps))


def winners(alignment: np.ndarray, quality: np.ndarray, ks: Sequence[float]) -> np.ndarray:
    """The best cell of every resample for every k, the first of equals, shape (ks, resamples).

    Args:
        alignment, quality: shape (cells, prompts), all finite.
    """
    weights = resample(alignment.shape[1])
    top = np.full((len(ks), len(weights)), -np.inf)
    chosen = np.zeros(top.shape, np.intp)
    for block in blocks(len(alignment)):
        aligned = np.log(np.maximum(weights @ alignment[block].T, ALIGNMENT_FLOOR))
        good = weights @ quality[block].T
        value = np.empty_like(good)
        for row, k in enumerate(ks):
            np.add(aligned, np.multiply(good, k, out=value), out=value)
            here = value.argmax(axis=1)
            highest = np.take_along_axis(value, here[:, None], axis=1)[:, 0]
            better = highest > top[row]
            top[row, better], chosen[row, better] = highest[better], block.start + here[better]
    return chosen


def optimism(alignment: np.ndarray, quality: np.ndarray, rows: np.ndarray, k: float) -> float:
    """How much of the best cell's JAQ is owed to choosing it on the prompts that judge it.

    On the prompts that a resample left out, the best cell of all prompts (which these prompts helped to
    choose) is set against the resample's own best cell (which they did not); the mean difference is the
    answer. Both are judged on the same prompts, so the log of a mean over few of them biases neither.

    Args:
        alignment, quality: shape (cells, prompts), all finite.
        rows: best cell of every resample, as from `winners`.
    """
    left = (resample(alignment.shape[1]) == 0).astype(float)
    rest = left.sum(axis=1)
    left, rows = left[rest > 0] / rest[rest > 0, None], rows[rest > 0]
    mean = lambda scores, which: (scores[which] * left).sum(axis=1)
    log = lambda which: np.log(np.maximum(mean(alignment, which), ALIGNMENT_FLOOR))
    best = [int(jaq_values(alignment, quality, k).argmax())]
    return float((log(best) - log(rows) + k * (mean(quality, best) - mean(quality, rows))).mean())


@dataclass(frozen=True)
class Sweep:
    """The optimum for every k: one entry per k in each tuple; None where there is no interval or no plain
    cell.

    Attributes:
        c_x, c_eps, jaq, gain: of the best cell; gain is JAQ minus that of the plain cell.
        c_x_low ... c_eps_high: 95 % of the resamples' best cells.
        gain_low, gain_high: 95 % interval of that cell's gain.
        gain_out_of_bag: what is left of the gain on prompts that did not choose.
    """

    ks: tuple[float, ...]
    c_x: tuple[float, ...]
    c_eps: tuple[float, ...]
    jaq: tuple[float, ...]
    gain: tuple[float | None, ...]
    c_x_low: tuple[float | None, ...]
    c_x_high: tuple[float | None, ...]
    c_eps_low: tuple[float | None, ...]
    c_eps_high: tuple[float | None, ...]
    gain_low: tuple[float | None, ...]
    gain_high: tuple[float | None, ...]
    gain_out_of_bag: tuple[float | None, ...]

    def to_rows(self) -> list[dict[str, float | None]]:
        """JSON friendly: one object per k."""
        columns = asdict(self)
        names = ["k", *list(columns)[1:]]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def k_sweep(surface: "Surface", ks: Sequence[float] | None = None) -> Sweep:
    """The best cell for every k (None: `KS`), from the scores that are there: nothing is generated.

    Raises:
        ValueError: if no cell has a score.
    """
    ks = KS if ks is None else tuple(float(k) for k in ks)
    return _sweeps.get((surface.digest(), ks), lambda: _k_sweep(surface, ks))


def _k_sweep(surface: "Surface", ks: tuple[float, ...]) -> Sweep:
    alignment, quality, cells = replicates(surface)
    plain = plain_row(surface, cells)
    drawn = winners(alignment, quality, ks) if _enough(surface, alignment.shape[1], len(cells)) else None
    rows = []
    for index, k in enumerate(ks):
        c_x, c_eps, value = surface.best(k)
        row = dict.fromkeys(Sweep.__annotations__) | {"ks": k, "c_x": c_x, "c_eps": c_eps, "jaq": value}
        if drawn is not None:
            for name, values in zip(("c_x", "c_eps"), _points(surface, cells[drawn[index]]), strict=True):
                row[f"{name}_low"], row[f"{name}_high"] = _middle(values)
        if plain is not None:
            row["gain"] = value - float(jaq_values(alignment[plain], quality[plain], k))
        if plain is not None and drawn is not None:
            i, j = surface.nearest(c_x, c_eps)
            best = int(np.searchsorted(cells, i * len(surface.c_x) + j))
            row["gain_low"], row["gain_high"] = paired(alignment[[best, plain]], quality[[best, plain]], k)
            row["gain_out_of_bag"] = row["gain"] - optimism(alignment, quality, drawn[index], k)
        rows.append(row)
    return Sweep(**{name: tuple(row[name] for row in rows) for name in Sweep.__annotations__})


def _points(surface: "Surface", cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(c_x, c_eps) of flat cell indices."""
    i, j = np.unravel_index(cells, (len(surface.c_eps), len(surface.c_x)))
    return np.asarray(surface.c_x)[j], np.asarray(surface.c_eps)[i]


def _middle(values: np.ndarray) -> list[float]:
    """The values between which 95 % lie; values of the grid themselves."""
    return [float(v) for v in np.quantile(values, [0.025, 0.975], method="nearest")]


def _region(surface: "Surface", cells: np.ndarray) -> dict[str, Any]:
    """The smallest set of cells that holds SHARE of these flat indices."""
    found, counts = np.unique(cells, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    needed = int(np.searchsorted(counts[order].cumsum(), SHARE * len(cells) - 1e-9)) + 1
    order = order[:needed]
    c_x, c_eps = (values.tolist() for values in _points(surface, found[order]))
    shares = (counts[order] / len(cells)).tolist()
    return {
        "cells": [list(row) for row in zip(c_x, c_eps, shares, strict=True)],
        "c_x": [min(c_x), max(c_x)],
        "c_eps": [min(c_eps), max(c_eps)],
    }
