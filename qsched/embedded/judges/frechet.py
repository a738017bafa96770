"""The Frechet distance between two sets of features (Heusel et al. 2017, arXiv 1706.08500, eq. 6), corrected
for the bias of small sets, with an interval.
"""

import numpy as np

from qsched.surfaces.intervals import Estimate

RESAMPLES = 200


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of features (n, width) and (m, width), in float64.

    The trace of the root is the sum of the roots of the eigenvalues of C1 C2, which are real and not
    negative: they are those of R C2 R, R the symmetric root of C1.

    Raises:
        ValueError: if a set has fewer than two members or the widths differ.
    """
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if min(len(one), len(other)) < 2 or one.shape[1:] != other.shape[1:]:
        raise ValueError("The Frechet distance needs two sets of at least two features of one width.")
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    values, vectors = np.linalg.eigh(np.atleast_2d(first))
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(min=0)).sum()
    shift = one.mean(0) - other.mean(0)
    return float(shift @ shift + np.trace(np.atleast_2d(first)) + np.trace(np.atleast_2d(second)) - 2 * cross)


def estimate(one: np.ndarray, other: np.ndarray, groups: np.ndarray) -> Estimate:
    """The distance corrected for the bias of small sets, with its 95 % interval over resampled groups
    (prompts): a group's members, in either set, come or stay away together.

    `frechet` of finite sets is too large, the more the smaller they are, and resamples, which repeat members,
    are too large by as much again; so the bootstrap's correction (Efron 1979: twice the distance minus the
    resamples' mean) and its basic interval (twice the distance minus their quantiles) take that off. No end
    is below 0.

    Args:
        one, other: (n, width); row i of both belongs to group groups[i].
    """
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    values = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        values.append(frechet(one[rows], other[rows]))
    high, low = np.quantile(values, [0.025, 0.975])
    distance = frechet(one, other)
    return Estimate(*(max(0.0, 2 * distance - float(value)) for value in (np.mean(values), low, high)))
