"""Every point of the grid, coarse to fine: the image of the surface is there early, the detail
comes later.
"""

from collections.abc import Mapping

import numpy as np

from qsched.scoring import jaq
from qsched.search.options import Candidate, SearchOptions
from qsched.search.study import Scores


class Grid:
    """See `qsched.search.strategies.choice.Strategy`."""

    def __init__(self, options: SearchOptions):
        self._options = options
        self.points = coarse_to_fine(options.axis)
        self.total = len(self.points)

    def propose(self, done: Mapping[Candidate, Scores], busy: set[Candidate], count: int) -> list[Candidate]:
        """The next points that are missing."""
        return [point for point in self.points if point not in done and point not in busy][:count]

    def best(self, done: Mapping[Candidate, Scores]) -> Candidate | None:
        """The point with the highest JAQ; the first of equals, row by row as in `Surface.best`."""
        rows = sorted(self.points, key=lambda point: (point.c_eps, point.c_x))
        values = {point: value_of(done[point], self._options.k) for point in rows if point in done}
        finite = {point: value for point, value in values.items() if value is not None}
        return max(finite, key=finite.__getitem__) if finite else None

    def modelled(self, done: Mapping[Candidate, Scores]) -> None:
        """Every cell is computed: there is no model."""

    def missing(self, done: Mapping[Candidate, Scores]) -> int:
        """Points of this grid that are not stored."""
        return sum(point not in done for point in self.points)

    def calls(self, missing: int) -> int:
        """Shared: one first prediction for all; exhaustive: every step of every point."""
        options = self._options
        if options.strategy == "exhaustive":
            return missing * options.images * options.steps
        return shared_calls(missing, options)


def shared_calls(missing: int, options: SearchOptions) -> int:
    """Denoiser calls of `missing` pairs that share their first predictions."""
    return options.images * (missing * (options.steps - 1) + bool(missing))


def coarse_to_fine(axis: tuple[float, ...]) -> list[Candidate]:
    """The points of a square grid: first those far apart, counted from the middle, then those between."""
    middle = len(axis) // 2
    level = [_power_of_two(index - middle) for index in range(len(axis))]
    order = [(-min(level[i], level[j]), i, j) for i in range(len(axis)) for j in range(len(axis))]
    return [Candidate.pair(axis[j], axis[i]) for _, i, j in sorted(order)]


def value_of(scores: Scores, k: float) -> float | None:
    """JAQ over the images of one candidate, None if it failed."""
    if not scores.alignment:
        return None
    value = jaq(scores.alignment, scores.quality, k)
    return value if np.isfinite(value) else None


def _power_of_two(offset: int) -> int:
    """The largest power of two that divides an offset; 0 is divided by all."""
    return offset & -offset if offset else 1 << 30
