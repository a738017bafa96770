"""Coefficients by least squares, without a single scored image, and how much error any correction of this
kind can explain.

At step i both denoisers see the same noisy sample x: E is the full-precision prediction and E_Q the quantized
one. A scheduler's step is affine in both, Phi(x, E) = A x + B E + noise, so the best scalars are those of a
linear regression:

    min || Phi(c_x x, c_eps E_Q) - Phi(x, E) ||   <=>   E ~ p E_Q + q x   with   c_eps = p,  c_x = 1 + q B / A

For LCM, whose step goes through the image estimate, that is c_x = 1 - sigma q. A and B are read off the
scheduler itself. Steps are fitted one after the other on the path that the steps before them have corrected.

All sums go into one matrix of second moments per step, from which richer corrections follow as well: a scalar
and a bias per latent channel, and a matrix that mixes the channels. They show what scalars cannot reach.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from scipy.linalg import lstsq
from scipy.optimize import nnls
from torch import Tensor, nn

from qsched.models.base import Backbone
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.loop import draw_noise, images_per_batch, prepare_scheduler, start_latents, walk

CORRECTIONS = {
    "scalars": "c_x and c_eps",
    "channels": "two scalars and a bias per channel",
    "matrix": "a matrix over all channels",
}
LEAST = 0.01
"""A coefficient has to be positive; the fit may ask for less where E_Q has nothing in common with E."""

PROBE = 0.01
"""What a scheduler is given to read off its step: small, since it may clip."""


@dataclass(frozen=True)
class Moments:
    """Second moments of (E_Q, x, 1, E) over images and positions.

    matrix: float64, shape (3 C + 1, 3 C + 1) for C latent channels.
    """

    matrix: np.ndarray

    @classmethod
    def of(cls, quantized: Tensor, sample: Tensor, full: Tensor) -> "Moments":
        """From E_Q, x and E, each (batch, C, height, width)."""
        parts = (quantized, sample, torch.ones_like(full[:, :1]), full)
        rows = torch.cat(parts, dim=1).double().movedim(1, -1).flatten(0, -2)
        return cls((rows.T @ rows).cpu().numpy())

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.matrix + other.matrix)

    @property
    def channels(self) -> int:
        """Latent channels C."""
        return (len(self.matrix) - 1) // 3

    def correction(self, kind: str) -> np.ndarray:
        """The least-squares weights of E on (E_Q, x, 1), shape (2 C + 1, C).

        Args:
            kind: of CORRECTIONS. The weights of "scalars" and "channels" are zero wherever these have none.
        """
        c = self.channels
        inputs, outputs = self.matrix[: 2 * c + 1, : 2 * c + 1], self.matrix[: 2 * c + 1, 2 * c + 1 :]
        weights = np.zeros((2 * c + 1, c))
        if kind == "matrix":
            return lstsq(inputs, outputs)[0]
        if kind == "channels":
            for j in range(c):
                own = [j, c + j, 2 * c]
                weights[own, j] = lstsq(inputs[np.ix_(own, own)], outputs[own, j])[0]
            return weights
        p, q = lstsq(*self.traces())[0]
        weights[:c], weights[c : 2 * c] = p * np.eye(c), q * np.eye(c)
        return weights

    def traces(self) -> tuple[np.ndarray, np.ndarray]:
        """The normal equations of E ~ p E_Q + q x: a (2, 2) matrix and a right side (2,)."""
        c = self.channels
        at = lambda row, column: float(np.trace(self.matrix[row : row + c, column : column + c]))
        q, x, e = 0, c, 2 * c + 1
        return np.array([[at(q, q), at(q, x)], [at(x, q), at(x, x)]]), np.array([at(q, e), at(x, e)])

    def squared_error(self, weights: np.ndarray | None = None) -> float:
        """Sum of |E - correction|^2; None: of |E - E_Q|^2."""
        c = self.channels
        if weights is None:
            weights = np.concatenate([np.eye(c), np.zeros((c + 1, c))])
        residual = np.concatenate([-weights, np.eye(c)])
        return float(np.sum(residual * (self.matrix @ residual)))


@dataclass(frozen=True)
class StepFit:
    """One step: its coefficients, and the moments on the prompts that were fitted and on those
    that were not.
    """

    c_x: float
    c_eps: float
    fitted: Moments
    held_out: Moments | None

    def explained(self, kind: str) -> float:
        """Which share of the squared error a correction takes away, on the held-out prompts where there are
        some.
        """
        on = self.held_out or self.fitted
        return 1.0 - on.squared_error(self.fitted.correction(kind)) / max(on.squared_error(), 1e-30)


@dataclass(frozen=True)
class Fit:
    """A whole trajectory, step by step."""

    steps: list[StepFit]

    @property
    def coefficients(self) -> Coefficients:
        """One c_x and one c_eps per step."""
        if len(self.steps) == 1:
            return Coefficients.constant(self.steps[0].c_x, self.steps[0].c_eps)
        return Coefficients.per_step([step.c_x for step in self.steps], [step.c_eps for step in self.steps])


@torch.inference_mode()
def fit(
    backbone: Backbone,
    denoiser: nn.Module,
    prompts: Sequence[str],
    steps: int,
    *,
    seed: int = 0,
    held_out: Sequence[str] = (),
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Fit:
    """Fit c_x and c_eps of every step: two denoiser calls per step and prompt.

    Args:
        denoiser: the quantized one.
        prompts: to fit on. held_out: prompts that follow the same path and only measure.
        seed: of the noise, per image as everywhere.
        on_step: called with (steps done, steps in all).
    Raises:
        ValueError: no prompts, or a prediction that is not finite.
    """
    if not prompts:
        raise ValueError("A fit needs at least one prompt.")
    backbone.use(steps)
    texts = [*prompts, *held_out]
    condition, noise = backbone.encode(texts), draw_noise(backbone.latent_shape, seed, range(len(texts)))
    scheduler = prepare_scheduler(backbone, steps, Coefficients.identity())
    size, found = images_per_batch(backbone.device), []

    def predict(index: int, latents: Tensor, seen: Tensor, timestep: Tensor) -> Tensor:
        predictions, fitted, unseen = [], None, None
        for begin in range(0, len(texts), size):
            rows = range(begin, min(begin + size, len(texts)))
            x, asked = latents[rows.start : rows.stop], condition.select(rows)
            quantized = backbone.predict(seen[rows.start : rows.stop], timestep, asked, denoiser)
            full = backbone.predict(seen[rows.start : rows.stop], timestep, asked)
            predictions.append(quantized)
            mine = max(0, min(len(prompts) - begin, len(rows)))
            fitted = _added(fitted, quantized[:mine], x[:mine], full[:mine])
            unseen = _added(unseen, quantized[mine:], x[mine:], full[mine:])
        if not np.isfinite(fitted.matrix).all():
            raise ValueError(f"A prediction at step {index + 1} is not finite: nothing can be fitted.")
        c_x, c_eps = _coefficients(fitted, *_affine(scheduler, backbone, index))
        found.append(StepFit(c_x, c_eps, fitted, unseen))
        scheduler.set_coefficients(*(_at(index, value, steps) for value in (c_x, c_eps)))
        on_step(index + 1, steps)
        return torch.cat(predictions)

    walk(backbone, scheduler, start_latents(backbone, scheduler, noise), noise.generators(), predict)
    return Fit(found)


def _added(sum_: Moments | None, quantized: Tensor, sample: Tensor, full: Tensor) -> Moments | None:
    if not len(full):
        return sum_
    new = Moments.of(quantized.float(), sample.float(), full.float())
    return new if sum_ is None else sum_ + new


def _at(index: int, value: float, steps: int) -> Tensor:
    """The coefficients of all steps of which only one is about to be used."""
    return torch.ones(steps).index_fill(0, torch.tensor(index), value)


def _affine(scheduler: SchedulerMixin, backbone: Backbone, index: int) -> tuple[float, float]:
    """A and B of this step, Phi(x, E) = A x + B E + noise, from three calls on single
    numbers.
    """

    def step(sample: float, prediction: float) -> float:
        probe = copy.deepcopy(scheduler)
        probe.set_coefficients(1.0, 1.0)
        probe.set_begin_index(index)
        probe._step_index = None
        one = torch.ones(1, 1, 1, 1, device=backbone.device)
        options = {"generator": [torch.Generator().manual_seed(0)], **backbone.spec.step_options}
        timestep = probe.timesteps[index]
        return float(probe.step(one * prediction, timestep, one * sample, return_dict=False, **options)[0])

    constant = step(0.0, 0.0)
    return tuple((step(*ends) - constant) / PROBE for ends in ((PROBE, 0.0), (0.0, PROBE)))


def _coefficients(moments: Moments, a: float, b: float) -> tuple[float, float]:
    """The best positive c_x and c_eps of a step whose scheduler is A x + B E + noise."""
    ratio = a / b
    normal, right = moments.traces()
    # c_eps E_Q + c_x (A / B) x ~ E + (A / B) x, in the unknowns (c_eps, c_x)
    scale = np.array([1.0, ratio])
    goal = scale * (right + ratio * normal[:, 1])
    root = np.linalg.cholesky(normal * np.outer(scale, scale))
    c_eps, c_x = nnls(root.T, np.linalg.solve(root, goal))[0]
    return max(float(c_x), LEAST), max(float(c_eps), LEAST)
