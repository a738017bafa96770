"""A Gaussian process over (c_x, c_eps), small and exact: what fifteen points say about the whole surface.

Matérn-5/2 kernel (Rasmussen & Williams 2006, eq. 4.17) with one length along the diagonal c_x = c_eps and one
across it, since the surfaces of few-step models are ridges along it; lengths and noise maximise the marginal
likelihood (eq. 2.30) with a weak prior. Collapsed points lie so far below the rest that they would rule the
fit, so JAQ enters as -log(1 + distance from the best / median distance).
"""

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import ndtr

STARTS = (0.3, 0.8, 2.0)
_LENGTH, _NOISE = (np.log(0.1), np.log(10.0)), (np.log(1e-6), np.log(1e-1))


def warp(values: np.ndarray) -> np.ndarray:
    """-log(1 + distance from the best / median distance), shape as given; the best is 0."""
    distance = values.max() - values
    return -np.log1p(distance / _typical(values))


def unwarp(warped: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The inverse of `warp(values)`, for any numbers on its scale."""
    return values.max() - _typical(values) * np.expm1(-warped)


class GaussianProcess:
    """A fit to points (n, 2) in units of the half range around its middle, and values (n,); n >= 1."""

    def __init__(self, points: np.ndarray, values: np.ndarray):
        self._points = _rotate(points)
        self._mean, self._scale = float(values.mean()), float(values.std()) or 1.0
        self._values = (values - self._mean) / self._scale
        fits = (
            minimize(
                self._cost,
                np.log([length, length, 1e-3]),
                method="L-BFGS-B",
                bounds=[_LENGTH, _LENGTH, _NOISE],
            )
            for length in STARTS
        )
        self._logs = min(fits, key=lambda fit: fit.fun).x
        self._factor, self._weights, self._variance = self._solve(self._logs)

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation at points (m, 2), both of shape (m,)."""
        cross = self._kernel(_rotate(points), self._points, self._logs)
        half = solve_triangular(self._factor, cross.T, lower=True)
        spread = np.sqrt(np.maximum(1 - (half**2).sum(axis=0), 1e-12) * self._variance)
        return cross @ self._weights * self._scale + self._mean, spread * self._scale

    def expected_improvement(self, points: np.ndarray, best: float) -> np.ndarray:
        """By how much a point will exceed `best` on average (Jones et al. 1998, eq. 15), shape (m,)."""
        mean, spread = self.predict(points)
        z = (mean - best) / spread
        return spread * (z * ndtr(z) + np.exp(-z * z / 2) / np.sqrt(2 * np.pi))

    def _kernel(self, one: np.ndarray, other: np.ndarray, logs: np.ndarray) -> np.ndarray:
        apart = (one[:, None] - other[None]) / np.exp(logs[:2])
        distance = np.sqrt(5 * (apart**2).sum(axis=-1))
        return (1 + distance + distance**2 / 3) * np.exp(-distance)

    def _solve(self, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        count = len(self._values)
        factor = np.linalg.cholesky(
            self._kernel(self._points, self._points, logs) + (np.exp(logs[2]) + 1e-9) * np.eye(count)
        )
        weights = cho_solve((factor, True), self._values)
        return factor, weights, max(float(self._values @ weights) / count, 1e-12)

    def _cost(self, logs: np.ndarray) -> float:
        factor, _, variance = self._solve(logs)
        fit = 0.5 * len(self._values) * np.log(variance) + np.log(np.diag(factor)).sum()
        return float(fit + 0.5 * (logs[:2] ** 2).sum())  # lengths near half the range are likelier


def _rotate(points: np.ndarray) -> np.ndarray:
    """Along and across the diagonal."""
    return np.stack([points[:, 0] + points[:, 1], points[:, 0] - points[:, 1]], axis=1) / np.sqrt(2)


def _typical(values: np.ndarray) -> float:
    return max(float(np.median(values.max() - values)), 1e-4)
