"""A few well-chosen points of the grid in place of all: a Gaussian process says where the best one may lie.

Of an 11 x 11 grid from scratch, twelve to fifteen points take less than a tenth of the denoiser calls at up
to eight steps, and a finer grid needs no more of them. What is recommended is the computed point with the
highest *modelled* JAQ: the model smooths out what is luck in a single point.
"""

from collections.abc import Mapping

import numpy as np

from qsched.search.options import Candidate, SearchOptions
from qsched.search.strategies.gaussian_process import GaussianProcess, unwarp, warp
from qsched.search.strategies.grid import shared_calls, value_of
from qsched.search.study import Scores

FEWEST, MOST = 12, 15
"""Points, as many as a tenth of the exhaustive search's denoiser calls pays for."""
ARM = 0.6
"""Where the first points lie: this share of the half range from the middle."""


class Adaptive:
    """See `qsched.search.strategies.choice.Strategy`."""

    def __init__(self, options: SearchOptions):
        self._options = options
        axis = np.asarray(options.axis)
        self._middle, self._half = (axis[0] + axis[-1]) / 2, (axis[-1] - axis[0]) / 2
        self.points = [Candidate.pair(c_x, c_eps) for c_eps in options.axis for c_x in options.axis]
        self.first = self._first(axis)
        calls = len(self.points) * options.steps / 10
        paid = (calls - 1) / (options.steps - 1) if options.steps > 1 else MOST
        self.total = max(min(int(np.clip(paid, FEWEST, MOST)), len(self.points)), len(self.first))

    def propose(self, done: Mapping[Candidate, Scores], busy: set[Candidate], count: int) -> list[Candidate]:
        """The first points, then those of the largest expected improvement, and last the optimum of the
        model.
        """
        count = min(count, self.total - len(done) - len(busy))
        free = [point for point in self.points if point not in done and point not in busy]
        if count <= 0 or not free:
            return []
        if missing := [point for point in self.first if point in free]:
            return missing[:count]
        known = self._known(done)
        if not known:
            return [] if busy else free[:count]
        points, values = np.array(list(known.keys())), warp(np.array(list(known.values())))
        chosen: list[Candidate] = []
        believed = [self._where(point) for point in busy]
        model = GaussianProcess(points, values)
        for _ in range(count):
            if believed:  # what is being computed counts as if it had come out as expected
                values = np.concatenate([values, model.predict(np.array(believed))[0]])
                points = np.concatenate([points, believed])
                model = GaussianProcess(points, values)
            places = np.array([self._where(point) for point in free])
            last = len(done) + len(busy) + len(chosen) + 1 == self.total
            merit = model.predict(places)[0] if last else model.expected_improvement(places, values.max())
            chosen.append(free.pop(int(merit.argmax())))
            believed = [self._where(chosen[-1])]
        return chosen

    def best(self, done: Mapping[Candidate, Scores]) -> Candidate | None:
        """The computed point that the model holds for the best."""
        finite = [point for point, scores in done.items() if value_of(scores, self._options.k) is not None]
        if not finite:
            return None
        known = self._known({point: done[point] for point in finite})
        places = np.array(list(known))
        mean, _ = GaussianProcess(places, warp(np.array(list(known.values())))).predict(places)
        return finite[int(mean.argmax())]

    def modelled(self, done: Mapping[Candidate, Scores]) -> np.ndarray | None:
        """JAQ of every cell as the model has it, shape (resolution, resolution) with c_eps along the rows;
        None before any score is finite."""
        known = self._known(done)
        if not known:
            return None
        values = np.array(list(known.values()))
        places = np.array([self._where(point) for point in self.points])
        mean, _ = GaussianProcess(np.array(list(known)), warp(values)).predict(places)
        return unwarp(mean, values).reshape(len(self._options.axis), -1)

    def missing(self, done: Mapping[Candidate, Scores]) -> int:
        """What is left of the budget."""
        return max(self.total - len(done), 0)

    def calls(self, missing: int) -> int:
        """The first prediction is shared by all."""
        return shared_calls(missing, self._options)

    def _first(self, axis: np.ndarray) -> list[Candidate]:
        nearest = lambda value: float(axis[np.abs(axis - value).argmin()])
        middle, low, high = (nearest(self._middle + offset * self._half) for offset in (0, -ARM, ARM))
        plus = [(middle, middle), (low, middle), (high, middle), (middle, low), (middle, high)]
        plain = [(nearest(1.0), nearest(1.0))] if axis[0] <= 1 <= axis[-1] else []
        return list(dict.fromkeys(Candidate.pair(*point) for point in plain + plus))

    def _known(self, done: Mapping[Candidate, Scores]) -> dict[tuple[float, float], float]:
        """Place -> JAQ; a point that failed counts as the worst that was seen."""
        values = {point: value_of(scores, self._options.k) for point, scores in done.items()}
        finite = [value for value in values.values() if value is not None]
        if not finite:
            return {}
        return {
            self._where(point): min(finite) if value is None else value for point, value in values.items()
        }

    def _where(self, point: Candidate) -> tuple[float, float]:
        """In units of the half range around its middle."""
        return (point.c_x[0] - self._middle) / self._half, (point.c_eps[0] - self._middle) / self._half
