"""What a user can set, each once: name, kind, range, default, label and help.

The page's widgets, links, the API and the command line are made from these, and check with them what they are
given. Imports next to nothing, so that --help is quick.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qsched.models.registry import SPECS
from qsched.words import one_of


@dataclass(frozen=True)
class Setting:
    """One thing that a user can set.

    Args:
        name: in Python, JSON and the API; on the command line with hyphens.
        label: on the page.
        help: on the command line and in the API.
        default: None where it depends on something else, such as the backbone.
        kind: str, int, float or bool; tuple for one number or several.
        choices: value -> label on the page. With a range too, they are what page and links offer, and API and
            command line accept the whole range.
        low, high: the range, both ends included.
        step: from one value of a widget to the next.
        noun: what an error calls it; None for the name, after "The".
        link: its name in a link; None for `name`.
        flag: its name on the command line; None for `name`.
        fold: what is done to a text first.
    """

    name: str
    label: str
    help: str
    default: Any = None
    kind: type = str
    choices: Mapping[Any, str] = field(default_factory=dict, hash=False)
    low: float = -math.inf
    high: float = math.inf
    step: float | None = None
    noun: str | None = None
    link: str | None = None
    flag: str | None = None
    fold: Callable[[str], str] = str

    @property
    def has_range(self) -> bool:
        """Whether it is a number of a limited range."""
        return self.kind in (int, float, tuple) and self.low > -math.inf

    def check(self, value: Any) -> Any:
        """The value as it is used: an int for 4.0, a tuple for a list or a number.

        Raises:
            ValueError: one sentence, if it is not one that can be set.
        """
        if self.kind is tuple:
            return tuple(map(self._number, value if isinstance(value, list | tuple) else [value]))
        if self.has_range:
            return self._number(value)
        if self.kind is bool:
            return bool(value)
        value = self.fold(value) if isinstance(value, str) else value
        if self.choices and not (isinstance(value, str) and value in self.choices):
            raise ValueError(f"{self._noun} must be {one_of(self.choices)}, not {value!r}.")
        if not isinstance(value, str):
            raise ValueError(f"{self._noun} must be text, not {value!r}.")
        return value

    def _number(self, value: Any) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = self.kind is int
        if not number or not self.low <= value <= self.high or (whole and value != value // 1):
            low, high = (format(end, "d" if whole else "g") for end in (self.low, self.high))
            given = "left empty" if value is None else value
            what = f"a {'whole ' * whole}number from {low} to {high}"
            raise ValueError(f"{self._noun} must be {what}, not {given}.")
        return int(value) if whole else value

    @property
    def _noun(self) -> str:
        return self.noun or f"The {self.name.replace('_', ' ')}"

    def read(self, text: str) -> Any:
        """The value that a link's text stands for.

        Raises:
            ValueError, KeyError: if it stands for none.
        """
        if self.kind is tuple:
            value = [float(part) for part in text.split(",")]
        elif self.kind is bool:
            value = {"0": False, "1": True}[text]
        else:
            value = self.kind(self.fold(text))
        if self.choices and value not in self.choices:
            raise ValueError(text)
        return self.check(value)

    def write(self, value: Any) -> str:
        """The value as a link carries it: numbers with up to six decimals."""
        if self.kind is tuple:
            return ",".join(f"{number:.6f}".rstrip("0").rstrip(".") for number in value)
        return f"{value:g}" if self.kind is float else str(int(value) if self.kind is bool else value)

    @property
    def in_link(self) -> str:
        """Its name in a link."""
        return self.link or self.name

    @property
    def on_command_line(self) -> str:
        """Its name on the command line."""
        return self.flag or "--" + self.name.replace("_", "-")


MAIN_BITS = ("w8a8", "w4a8", "w4a4", "w3a8", "w2a8")
OTHER_BITS = tuple(f"w{w}a{a}" for w in (8, 4, 3, 2) for a in (16, 8, 4) if f"w{w}a{a}" not in MAIN_BITS)
LARGEST_SEED = 2**31 - 1
MOST_STEPS = max(max(spec.steps) for spec in SPECS.values())
COEFFICIENT = {"default": None, "kind": tuple, "low": 0.05, "high": 5.0, "step": 0.005}
_SHAPES = "one number (every step), two (first and last step) or one per step"

BACKBONE = Setting(
    "backbone", "Backbone", "id of the model", "emoji-lcm", choices={s.id: s.title for s in SPECS.values()}
)
SOURCE = Setting(
    "source", "Source", "a folder or a Hub id of the same family in place of the backbone's own", ""
)
BITS = Setting(
    "bits", "Bit-width", "bit-width, such as w8a8, w4a8, w4a4, w3a8, w2a8", "w4a8", fold=str.lower,
    choices={bits: bits.upper() for bits in MAIN_BITS + OTHER_BITS},
)  # fmt: skip
STEPS = Setting(
    "steps", "Steps", "denoiser calls per image", kind=int, low=1, high=1000, noun="The step count"
)
PROMPT = Setting("prompt", "Prompt", "what to draw")
SEED = Setting("seed", "Seed", "of the noise", 0, int, low=0, high=LARGEST_SEED)
SHAPE = Setting(
    "shape", "Shape over the steps", "how the coefficients run over the steps", "constant",
    choices={"constant": "Constant", "ramp": "Ramp to 1", "ends": "Two ends", "per-step": "Per step"},
)  # fmt: skip
C_X = Setting("c_x", "c_x", f"factor of the noisy sample: {_SHAPES}", noun="c_x", **COEFFICIENT)
C_EPS = Setting("c_eps", "c_ε", f"factor of the prediction: {_SHAPES}", noun="c_eps", **COEFFICIENT)
K = Setting("k", "k", "weight of CLIP-IQA in JAQ", 2.0, float, low=0, high=5.0, step=0.1, noun="k")
METHOD = Setting(
    "method", "Method", "of quantizing", "plain",
    choices={
        "plain": "Plain rounding",
        "mixdq": "MixDQ: bits by sensitivity, first token apart",
        "svdquant": "SVDQuant: low-rank branch",
        "torchao": "torchao: paper-style, Linear only",
    },
)  # fmt: skip
GROUP_SIZE = Setting(
    "group_size", "Weight scales", "weights per scale; 0 for one scale per output channel", 0, int,
    choices={0: "one scale per output channel"} | {size: f"groups of {size}" for size in (32, 64, 128)},
    low=0, high=2**16, link="group",
)  # fmt: skip
ACTIVATION_SCALE = Setting(
    "activation_scale", "One activation scale per", "what has an activation scale of its own", "token",
    choices={"token": "token", "tensor": "tensor"}, link="scale",
)  # fmt: skip
SCOPE = Setting(
    "scope", "Quantize", "layers to quantize", "all", choices={"all": "all layers", "linear": "linear only"}
)
KEEP = Setting(
    "keep", "Keep conv_in, conv_out and embeddings in high precision",
    "whether conv_in, conv_out and embeddings keep high precision", True, bool, flag="--quantize-all",
)  # fmt: skip
DECODER = Setting(
    "decoder", "Decoder", "tiny: decode with the small, fast decoder, where the backbone has one", "full",
    choices={"full": "full", "tiny": "tiny"}, flag="--tiny-decoder",
)  # fmt: skip

QUANTIZATION = (BITS, GROUP_SIZE, ACTIVATION_SCALE, SCOPE, KEEP, METHOD)
"""How the denoiser is quantized."""
IN_EVERY_LINK = (BACKBONE, BITS, PROMPT, SEED, STEPS, SHAPE, C_X, C_EPS, K)
IN_SOME_LINKS = (METHOD, GROUP_SIZE, ACTIVATION_SCALE, SCOPE, KEEP, SOURCE, DECODER)
"""Those that a link carries only where they differ from the default."""

STRATEGY = Setting(
    "strategy",
    "Strategy",
    "exhaustive: every point from scratch, the paper's way; shared: the same grid with the work shared; "
    "adaptive: a model of the surface chooses 15 of its points; ends, per-step: adaptive, then a pair for "
    "each end of the path, or one per step",
    "shared",
    choices={
        "exhaustive": "Exhaustive",
        "shared": "Shared",
        "adaptive": "Adaptive",
        "ends": "Two ends",
        "per-step": "Per step",
    },
)  # fmt: skip
LOW = Setting(
    "low", "Lowest", "lowest coefficient", 0.8, float, low=0.5, high=1.5, step=0.01,
    noun="The lowest coefficient",
)  # fmt: skip
HIGH = Setting(
    "high", "Highest", "highest coefficient", 1.2, float, low=0.5, high=1.5, step=0.01,
    noun="The highest coefficient",
)  # fmt: skip
RESOLUTION = Setting(
    "resolution", "Values each", "N x N points", 11, int, low=2, high=1001, flag="--grid",
    noun="The number of values per coefficient",
)  # fmt: skip
PAIR_SHAPE = Setting(
    "shape", "Shape over the steps", "ramp: from the point to 1 over the steps", "ramp",
    choices={"ramp": "Ramp to 1", "constant": "Constant"},
)  # fmt: skip
SEEDS = Setting(
    "seeds", "Seeds per prompt", "noise draws per prompt", 1, int, low=1, high=1000,
    noun="The number of seeds per prompt",
)  # fmt: skip
