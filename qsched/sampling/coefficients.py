"""The coefficients c_x and c_eps as one immutable value, in the shapes that Q-Sched uses (arXiv 2509.01624).

A coefficient is a number (the same at every step), two numbers (a straight line from the first step to the
last) or one number per step. How numbers become steps is defined once, in `qsched.schedulers.expand`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qsched.schedulers import expand, validate

__all__ = ["Coefficients", "expand", "stack"]

SHAPES = ("constant", "ramp", "ends", "per-step")
"""From the least to the most general."""


@dataclass(frozen=True)
class Coefficients:
    """c_x (factor of the noisy sample) and c_eps (factor of the prediction); hashable, JSON friendly.

    Raises:
        ValueError: unless every number is finite and greater than 0.
    """

    c_x: float | tuple[float, ...] = 1.0
    c_eps: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        for name in ("c_x", "c_eps"):
            value = validate(getattr(self, name), name)
            object.__setattr__(self, name, value if isinstance(value, float) else _several(value, name))

    @classmethod
    def identity(cls) -> "Coefficients":
        """c_x = c_eps = 1: the plain scheduler."""
        return cls(1.0, 1.0)

    @classmethod
    def constant(cls, c_x: float, c_eps: float) -> "Coefficients":
        """The same two numbers at every step."""
        return cls(_single(c_x, "c_x"), _single(c_eps, "c_eps"))

    @classmethod
    def ramp(cls, c_x: float, c_eps: float) -> "Coefficients":
        """A straight line from these numbers at the first step to 1 at the last."""
        return cls((_single(c_x, "c_x"), 1.0), (_single(c_eps, "c_eps"), 1.0))

    @classmethod
    def ends(cls, c_x: Sequence[float], c_eps: Sequence[float]) -> "Coefficients":
        """Straight lines between two free end points, (first step, last step) each."""
        c_x, c_eps = _several(c_x, "c_x"), _several(c_eps, "c_eps")
        for name, value in (("c_x", c_x), ("c_eps", c_eps)):
            if len(value) != 2:
                raise ValueError(f"{name} needs two end points (first step, last step), not {len(value)}.")
        return cls(c_x, c_eps)

    @classmethod
    def per_step(cls, c_x: Sequence[float], c_eps: Sequence[float]) -> "Coefficients":
        """One free number per step. Two numbers mean the two ends wherever there are more than two steps."""
        c_x, c_eps = _several(c_x, "c_x"), _several(c_eps, "c_eps")
        if len(c_x) != len(c_eps):
            raise ValueError(f"c_x has {len(c_x)} steps and c_eps has {len(c_eps)}: they must agree.")
        return cls(c_x, c_eps)

    @property
    def shape(self) -> str:
        """What both fit into: "constant", "ramp" (two numbers, the last is 1), "ends" (two numbers) or
        "per-step".
        """
        shapes = {_shape(self.c_x), _shape(self.c_eps)}
        if shapes == {"constant", "ramp"} and not {self.c_x, self.c_eps} & {1.0}:
            return "ends"  # a constant other than 1 does not end at 1
        return max(shapes, key=SHAPES.index)

    @property
    def is_identity(self) -> bool:
        """Whether this is the plain scheduler at every step, in whatever shape it is written."""
        return all(
            set(value if isinstance(value, tuple) else (value,)) == {1.0} for value in (self.c_x, self.c_eps)
        )

    @property
    def first(self) -> tuple[float, float]:
        """c_x and c_eps of the first step."""
        c_x, c_eps = (value[0] if isinstance(value, tuple) else value for value in (self.c_x, self.c_eps))
        return c_x, c_eps

    def with_first(self, c_x: float, c_eps: float) -> "Coefficients":
        """The same with other numbers at the first step: a constant moves as a whole, and of a line the last
        step stays.
        """
        moved = lambda value, to: (to, *value[1:]) if isinstance(value, tuple) else to
        return Coefficients(moved(self.c_x, c_x), moved(self.c_eps, c_eps))

    def expand(self, steps: int) -> tuple[Tensor, Tensor]:
        """c_x and c_eps for each step, two float32 tensors of shape (steps,) on the CPU.

        Raises:
            ValueError: if a coefficient does not fit the number of steps.
        """
        return expand(self.c_x, steps, "c_x"), expand(self.c_eps, steps, "c_eps")

    def to_dict(self) -> dict[str, float | list[float]]:
        """{"c_x": ..., "c_eps": ...} with floats or lists, for JSON and for a scheduler's keyword
        arguments.
        """
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in (("c_x", self.c_x), ("c_eps", self.c_eps))
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Coefficients":
        """The inverse of `to_dict`.

        Raises:
            ValueError: if a key is missing or unknown, or a coefficient is not valid.
        """
        if not isinstance(data, Mapping) or set(data) != {"c_x", "c_eps"}:
            held = ", ".join(map(str, data)) if isinstance(data, Mapping) else repr(data)
            raise ValueError(f"Coefficients need exactly the keys c_x and c_eps, not: {held or 'none'}.")
        return cls(**data)


def stack(candidates: Sequence[Coefficients], steps: int) -> tuple[Tensor, Tensor]:
    """The coefficients of many candidates side by side, for one batch with a sample per candidate.

    Args:
        candidates: at least one.
        steps: the number of steps of the schedule.
    Returns:
        c_x and c_eps, two float32 tensors of shape (steps, batch), for `QSchedMixin.set_coefficients`.
    Raises:
        ValueError: if there is no candidate, or one does not fit the number of steps.
    """
    if not candidates:
        raise ValueError("There are no candidates to stack.")
    c_x, c_eps = zip(*(candidate.expand(steps) for candidate in candidates), strict=True)
    return torch.stack(c_x, dim=1), torch.stack(c_eps, dim=1)


def _single(value: float, name: str) -> float:
    value = validate(value, name)
    if not isinstance(value, float):
        raise ValueError(f"{name} must be a single number here, not {len(value)} of them.")
    return value


def _several(value: Sequence[float] | Tensor, name: str) -> tuple[float, ...]:
    value = validate(value, name)
    if isinstance(value, float):
        raise ValueError(f"{name} must be a list of numbers here, not the single number {value:g}.")
    if isinstance(value, Tensor):
        if value.ndim != 1:
            raise ValueError(
                f"{name} must be one row of numbers; stack() puts several candidates side by side."
            )
        value = value.tolist()
    return tuple(value)


def _shape(value: float | tuple[float, ...]) -> str:
    if isinstance(value, float):
        return "constant"
    if len(value) == 2:
        return "ramp" if value[1] == 1 else "ends"
    return "per-step"
