"""From a pair to more numbers: the adaptive search for a pair (or the whole grid), then one knot's two
numbers at a time.

Knots are the steps, or the two ends of the path with a straight line between them.

From the last knot to the first, the two numbers of a knot move on a 3 x 3 pattern around the best so far,
then to the maximum of the parabola through the pattern. All points of a pattern agree on the steps before, so
they share those: a point of the last step costs no denoiser call, one of the step before a single call, and
so on. Four times, each with half the width of the one before.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from qsched.search.options import Candidate, SearchOptions
from qsched.search.strategies.adaptive import Adaptive
from qsched.search.strategies.grid import Grid, value_of
from qsched.search.study import Scores

WIDTHS = (0.16, 0.08, 0.04, 0.02)
"""Half width of the pattern in each round."""
PATTERN = 9
"""New points per knot: eight around the best so far and the parabola's maximum."""


class Descent:
    """See `qsched.search.strategies.choice.Strategy`."""

    def __init__(self, options: SearchOptions):
        self._options, self._pairs = options, (Grid if options.whole_grid else Adaptive)(options)
        self._ends = options.strategy == "ends"
        self._knots = 2 if self._ends else options.steps
        self.total = self._pairs.total + len(WIDTHS) * self._knots * PATTERN

    def propose(self, done: Mapping[Candidate, Scores], busy: set[Candidate], count: int) -> list[Candidate]:
        """The missing points of the pair search, then those of the pattern that is under way."""
        pairs, pairs_busy = _pairs(done), {candidate for candidate in busy if candidate.is_pair}
        if len(pairs) < self._pairs.total and (
            len(pairs) + len(pairs_busy) < self._pairs.total or pairs_busy
        ):
            return self._pairs.propose(pairs, pairs_busy, count)
        for wanted in self._patterns(done):
            missing = [candidate for candidate in wanted if candidate not in done]
            if missing:
                return [candidate for candidate in missing if candidate not in busy][:count]
        return []

    def best(self, done: Mapping[Candidate, Scores]) -> Candidate | None:
        """Where the descent stands; the pair itself while nothing better is known."""
        pair = self._pairs.best(_pairs(done))
        if pair is None:
            return None
        start = best = self._spread(pair)
        for wanted in self._patterns(done):
            if any(candidate not in done for candidate in wanted):
                break
            best = self._centre
        return pair if best == start else best

    def modelled(self, done: Mapping[Candidate, Scores]) -> np.ndarray | None:
        """As `Adaptive.modelled`, from the pairs."""
        return self._pairs.modelled(_pairs(done))

    def missing(self, done: Mapping[Candidate, Scores]) -> int:
        """At most: a pattern whose parabola has no new summit takes one point less."""
        return max(self.total - len(done), 0) if self.propose(done, set(), 1) else 0

    def calls(self, missing: int) -> int:
        """All rounds in full: a point of step i costs the steps after it, and a pattern the step before its
        own.
        """
        options = self._options
        descent = min(missing, self.total - self._pairs.total)
        after = (options.steps - 2, options.steps - 1) if self._ends else range(options.steps)
        rounds = len(WIDTHS) * options.images * sum(PATTERN * steps + 1 for steps in after)
        share = descent / (self.total - self._pairs.total)
        return self._pairs.calls(missing - descent) + round(rounds * share)

    def _patterns(self, done: Mapping[Candidate, Scores]) -> Iterator[list[Candidate]]:
        """Pattern after pattern, as far as `done` decides what comes next;

        `_centre` is the best after each.
        """
        pair = self._pairs.best(_pairs(done))
        if pair is None:
            return
        start = self._centre = self._spread(pair)
        score = lambda candidate: value_of(done[pair if candidate == start else candidate], self._options.k)
        for width in WIDTHS:
            for knot in reversed(range(self._knots)):
                centre = self._centre
                around = [
                    self._moved(centre, knot, a * width, b * width) for a in (-1, 0, 1) for b in (-1, 0, 1)
                ]
                around = [candidate for candidate in dict.fromkeys(around) if candidate != start]
                yield around
                values = {candidate: score(candidate) for candidate in dict.fromkeys([centre, *around])}
                finite = {candidate: value for candidate, value in values.items() if value is not None}
                summit = self._summit(finite, centre, knot, width)
                if summit is not None and summit not in values and summit != start:
                    yield [summit]
                    value = score(summit)
                    finite |= {} if value is None else {summit: value}
                self._centre = max(finite, key=finite.__getitem__) if finite else centre
                yield []

    def _summit(
        self, finite: Mapping[Candidate, float], centre: Candidate, knot: int, width: float
    ) -> Candidate | None:
        """The maximum of the parabola through the pattern, at most one and a half widths away;

        None if it has none.
        """
        if len(finite) < 6:
            return None
        a = np.array([(candidate.c_x[knot] - centre.c_x[knot]) / width for candidate in finite])
        b = np.array([(candidate.c_eps[knot] - centre.c_eps[knot]) / width for candidate in finite])
        basis = np.stack([np.ones_like(a), a, b, a * a, a * b, b * b], axis=1)
        (_, da, db, aa, ab, bb), *_ = np.linalg.lstsq(basis, np.array(list(finite.values())), rcond=None)
        hessian = np.array([[2 * aa, ab], [ab, 2 * bb]])
        if np.linalg.eigvalsh(hessian).max() >= -1e-9:
            return None
        offset = np.clip(-np.linalg.solve(hessian, [da, db]), -1.5, 1.5)
        return self._moved(centre, knot, *(np.round(offset, 2) * width))

    def _moved(self, centre: Candidate, knot: int, by_c_x: float, by_c_eps: float) -> Candidate:
        low, high = self._options.reach
        place = lambda row, by: (
            *row[:knot],
            round(float(np.clip(row[knot] + by, low, high)), 6),
            *row[knot + 1 :],
        )
        return Candidate(place(centre.c_x, by_c_x), place(centre.c_eps, by_c_eps))

    def _spread(self, pair: Candidate) -> Candidate:
        """A pair written as one number per knot."""
        rows = pair.coefficients(self._options.shape).expand(self._options.steps)
        rows = [row[[0, -1]] if self._ends else row for row in rows]
        return Candidate(*(tuple(round(value, 6) for value in row.tolist()) for row in rows))


def _pairs(done: Mapping[Candidate, Scores]) -> dict[Candidate, Scores]:
    return {candidate: scores for candidate, scores in done.items() if candidate.is_pair}
