"""95 % intervals of scores that were measured on several prompts with several seeds, as arrays (seeds,
prompts).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

RESAMPLES = 2000
BOOTSTRAP = f"2.5 to 97.5 % of {RESAMPLES} bootstrap resamples of prompts and seeds"
OVER_SEEDS = "Student's t over the seeds"


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; low and high are None where there are too few measurements for one."""

    mean: float
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, float | None]:
        """{"mean", "low", "high"}."""
        return asdict(self)


def over_seeds(values: np.ndarray) -> Estimate:
    """Mean of one number per seed, shape (seeds,), with Student's t interval: what new noise would change.

    One seed gives no interval.
    """
    values = np.asarray(values, dtype=np.float64)
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return Estimate(mean, None, None)
    half = student(count - 1) * float(values.std(ddof=1)) / count**0.5
    return Estimate(mean, mean - half, mean + half)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t with this many degrees of freedom."""
    return float(stdtrit(freedom, 0.975))


def expanded_tail(count: int) -> float:
    """What to cut from each end of the bootstrap distribution of a mean of `count` values for a 95 %
    interval.

    The plain 2.5 % give intervals that are too narrow for few values: resamples vary by (count - 1) / count
    too little and know nothing of Student's t. The "expanded percentile interval" (Hesterberg 2015, arXiv
    1411.5279) cuts less.
    """
    return float(ndtr(-student(count - 1) * (count / (count - 1)) ** 0.5))


def bootstrap(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], seeds: int, prompts: int
) -> Estimate:
    """A statistic with its percentile interval over resampled prompts and seeds: what new prompts and noise
    would change.

    Whatever the statistic reads is resampled together, so a difference of two columns is a paired difference.
    The resamples are drawn from a fixed seed: the same scores give the same interval.

    Args:
        statistic: (seed weights (resamples, seeds), prompt weights (resamples, prompts)) -> (resamples,);
            each row of the weights sums to 1.
    """
    rng = np.random.default_rng(0)
    weights = lambda n: rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    even = lambda n: np.full((1, n), 1 / n)
    low, high = np.quantile(statistic(weights(seeds), weights(prompts)), [0.025, 0.975])
    mean = float(statistic(even(seeds), even(prompts))[0])
    return Estimate(mean, None, None) if seeds * prompts == 1 else Estimate(mean, float(low), float(high))
