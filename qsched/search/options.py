"""What a search looks for, and a candidate: one set of coefficients that it can try."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np

from qsched.models.base import Backbone
from qsched.presets import SHAPES
from qsched.quantization import BitWidth, Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.settings import HIGH, LOW, PAIR_SHAPE, RESOLUTION, SEEDS, STRATEGY, K

STRATEGIES = {
    "exhaustive": "every point of the grid from scratch, as the paper's code does it",
    "shared": "the same grid, with the first prediction and the text shared and many points in one batch",
    "adaptive": "a model of the surface chooses which few points of the grid to compute",
    "ends": (
        "the first and the last step's c_x and c_eps, straight between, from the adaptive search's "
        "best pair on"
    ),
    "per-step": "one c_x and c_eps per step, from the adaptive search's best pair on",
}
"""Name -> what it does, in one line."""
GRIDS = ("exhaustive", "shared")
"""Strategies that compute every point of the grid."""
DESCENTS = ("ends", "per-step")
"""Strategies that go on from the best pair, and may leave the grid's range for it."""


@dataclass(frozen=True)
class SearchOptions:
    """What to search.

    bits: "w4a8", or a Quantization with all options. prompts: for calibration; image p of seed s uses the
        noise of
    (seed + s, p). steps: None is the backbone's default. seeds: noise draws per prompt. c_range, resolution:
    the grid, the same for both coefficients. shape: how a pair becomes coefficients, "ramp" (to 1 at the last
    step, the paper's) or "constant". k: weight of the quality in JAQ. strategy: one of STRATEGIES.
    tiny_decoder: score the images of the small, fast decoder. whole_grid: DESCENTS start from the best of all
    points of the grid.
    """

    bits: str | Quantization
    prompts: Sequence[str]
    steps: int | None = None
    seed: int = 0
    seeds: int = SEEDS.default
    c_range: tuple[float, float] = (LOW.default, HIGH.default)
    resolution: int = RESOLUTION.default
    shape: str = PAIR_SHAPE.default
    k: float = K.default
    strategy: str = STRATEGY.default
    tiny_decoder: bool = False
    whole_grid: bool = False

    @property
    def quantization(self) -> Quantization:
        """Bit-width and options of the quantizer."""
        return self.bits if isinstance(self.bits, Quantization) else Quantization(str(self.bits))

    @property
    def axis(self) -> tuple[float, ...]:
        """The grid's values."""
        return grid(*self.c_range, self.resolution)

    @property
    def reach(self) -> tuple[float, float]:
        """How far a descent may go: half the grid's width beyond it on either side."""
        low, high = self.c_range
        beyond = (high - low) / 2
        return round(max(low / 2, low - beyond), 6), round(high + beyond, 6)

    @property
    def images(self) -> int:
        """Images per candidate."""
        return len(self.prompts) * self.seeds

    def checked(self, backbone: Backbone) -> "SearchOptions":
        """The same with everything filled in and written in one way.

        Raises:
            ValueError: settings that cannot be run; one sentence.
        """
        quantization = replace(self.quantization, bits=str(BitWidth.parse(self.quantization.bits)))
        prompts = tuple(" ".join(prompt.split()) for prompt in self.prompts)
        steps = backbone.spec.steps_checked(self.steps)
        if not prompts or not all(prompts):
            raise ValueError("A search needs at least one prompt, and none of them empty.")
        if self.shape not in SHAPES:
            raise ValueError(
                f"The shape of the coefficients must be {' or '.join(SHAPES)}, not {self.shape!r}."
            )
        if self.strategy not in STRATEGIES:
            raise ValueError(f"The strategy must be one of {', '.join(STRATEGIES)}, not {self.strategy!r}.")
        if self.strategy in DESCENTS and steps < 2:
            raise ValueError(
                "With a single step, one number per step is what the other strategies search already."
            )
        if self.whole_grid and self.strategy not in DESCENTS:
            raise ValueError(
                f"The whole grid first is a choice of the strategies {' and '.join(DESCENTS)} alone."
            )
        backbone.spec.check_decoder(self.tiny_decoder, backbone.has_tiny_decoder)
        if self.seeds < 1 or self.seed < 0 or self.seed + self.seeds > 2**31:
            raise ValueError(f"The seeds must lie in 0 to {2**31 - 1} and there must be at least one.")
        if not (np.isfinite(self.k) and self.k >= 0):
            raise ValueError(f"k must be a finite number of at least 0, not {self.k}.")
        return replace(
            self, bits=quantization, prompts=prompts, steps=steps, c_range=(self.axis[0], self.axis[-1])
        )

    def identity(self, backbone: Backbone) -> dict:
        """Everything that the stored scores, and for a guided strategy the choice of points, depend on; JSON
        friendly.

        A grid leaves out its range and k: a finer grid or another k takes over the points that are there.
        """
        facts = {
            "strategy": self.strategy,
            "backbone": backbone.spec.id,
            "revision": backbone.revision,
            "dtype": str(backbone.dtype),
            "quantization": asdict(self.quantization),
            "steps": self.steps,
            "shape": self.shape,
            "seeds": [self.seed, self.seeds],
            "prompts": list(self.prompts),
            "scorer": backbone.scorer().definition,
        }
        # left out where it is not used, so that searches begun before it was an option go on
        if self.tiny_decoder:
            facts["decoder"] = "tiny"
        if self.whole_grid:
            facts["whole_grid"] = True
        guided = {"c_range": list(self.c_range), "resolution": self.resolution, "k": self.k}
        return facts if self.strategy in GRIDS else facts | guided


class Candidate(NamedTuple):
    """One set of coefficients to try: a pair whose shape the search decides, two ends each, or one
    number per step each."""

    c_x: tuple[float, ...]
    c_eps: tuple[float, ...]

    @classmethod
    def pair(cls, c_x: float, c_eps: float) -> "Candidate":
        """A point of the grid."""
        return cls((round(c_x, 6),), (round(c_eps, 6),))

    @property
    def is_pair(self) -> bool:
        """Whether this is a point of the grid."""
        return len(self.c_x) == 1

    def coefficients(self, shape: str) -> Coefficients:
        """What it stands for; `shape` is that of pairs."""
        if self.is_pair:
            return SHAPES[shape](self.c_x[0], self.c_eps[0])
        return Coefficients.per_step(self.c_x, self.c_eps)

    def params(self) -> dict[str, float]:
        """Names and numbers as a trial's parameters: c_x, or c_x_0, c_x_1, ..."""
        names = ("c_x", "c_eps")
        if self.is_pair:
            return dict(zip(names, (self.c_x[0], self.c_eps[0]), strict=True))
        return {f"{name}_{step}": value for name in names for step, value in enumerate(getattr(self, name))}

    @classmethod
    def of(cls, params: Mapping[str, float]) -> "Candidate":
        """The inverse of `params`."""
        step = lambda name: int(name.rpartition("_")[2]) if name[-1].isdigit() else 0
        row = lambda name: tuple(
            round(params[key], 6) for key in sorted((key for key in params if key.startswith(name)), key=step)
        )
        return cls(row("c_x"), row("c_eps"))


def grid(low: float, high: float, n: int) -> tuple[float, ...]:
    """n evenly spaced values from low to high, rounded to 6 decimals.

    Raises:
        ValueError: unless 0 < low < high, both finite, and n >= 2.
    """
    if not (np.isfinite([low, high]).all() and 0 < low < high):
        raise ValueError(
            f"The range of the coefficients must satisfy 0 < low < high, not {low:g} to {high:g}."
        )
    if isinstance(n, bool) or not isinstance(n, int) or not 2 <= n <= 1001:
        raise ValueError(f"A grid needs 2 to 1001 values per coefficient, not {n}.")
    axis = tuple(round(float(value), 6) for value in np.linspace(low, high, n))
    if len(set(axis)) < n:
        raise ValueError(f"The range {low:g} to {high:g} is too narrow for {n} different values.")
    return axis
