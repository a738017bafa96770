"""A loss surface and the coefficients that its points stand for."""

from copy import copy
from dataclasses import dataclass

import torch

from qsched.sampling.coefficients import Coefficients
from qsched.surfaces.surface import Surface


@dataclass(frozen=True, eq=False)
class Slice:
    """A surface through the space of all coefficients.

    Attributes:
        surface: its axes are c_x and c_eps of the first step.
        through: any of its points; what these hold at the other steps stays. A surface of constants, of ramps
            to 1 and a slice through two ends or numbers per step are all of this kind.
        of: which images were scored, for the map's legend.
    """

    surface: Surface
    through: Coefficients
    of: str

    def __post_init__(self) -> None:
        surface = copy(self.surface)  # with the same arrays, which all slices of a preset share
        surface.holds_plain = self.at(1.0, 1.0).is_identity
        object.__setattr__(self, "surface", surface)

    def at(self, c_x: float, c_eps: float) -> Coefficients:
        """The coefficients that a point stands for."""
        return self.through.with_first(c_x, c_eps)

    def holds(self, coefficients: Coefficients, steps: int) -> bool:
        """Whether coefficients are a point of it, within its axes."""
        here, there = self.at(*coefficients.first).expand(steps), coefficients.expand(steps)
        same = all(torch.allclose(one, other, atol=1e-4) for one, other in zip(here, there, strict=True))
        return same and self.surface.covers(*coefficients.first)
