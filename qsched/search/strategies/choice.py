"""Strategies: which candidates a search computes next, given what is known.

A strategy remembers nothing: it proposes from the finished candidates alone. So a search that was killed goes
on where it was, and several processes that see the same study follow the same plan.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from qsched.search.options import Candidate, SearchOptions
from qsched.search.strategies.adaptive import Adaptive
from qsched.search.strategies.descent import Descent
from qsched.search.strategies.grid import Grid
from qsched.search.study import Scores

__all__ = ["Strategy", "strategy_of"]


class Strategy(Protocol):
    """Chooses candidates and, in the end, the best one."""

    total: int
    """Candidates in all, as far as can be said beforehand."""

    def propose(self, done: Mapping[Candidate, Scores], busy: set[Candidate], count: int) -> list[Candidate]:
        """Up to `count` candidates to compute next, none of them done or busy.

        An empty list means that there is nothing to do until a busy one is done; with none busy, that all is
        done.
        """
        ...

    def best(self, done: Mapping[Candidate, Scores]) -> Candidate | None:
        """The candidate to recommend; None if none has finite scores."""
        ...

    def modelled(self, done: Mapping[Candidate, Scores]) -> np.ndarray | None:
        """JAQ of every cell as the strategy's model has it, shape (rows, columns);

        None without a model or a score.
        """
        ...

    def missing(self, done: Mapping[Candidate, Scores]) -> int:
        """How many candidates are still to be computed, as far as can be said."""
        ...

    def calls(self, missing: int) -> int:
        """Denoiser calls, counted per image, that `missing` more candidates will cost at most."""
        ...


def strategy_of(options: SearchOptions) -> Strategy:
    """The strategy that checked options ask for."""
    kinds = {"exhaustive": Grid, "shared": Grid, "adaptive": Adaptive, "ends": Descent, "per-step": Descent}
    return kinds[options.strategy](options)
