"""Between the page's widgets and the maths: shapes, sliders, links."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qsched.hub.fetch import check_names
from qsched.hub.source import BackboneError, Source, pinned
from qsched.models.registry import SPECS
from qsched.models.spec import BackboneSpec
from qsched.quantization import ACTIVATION_SCALES, SCOPES, BitWidth, Quantization
from qsched.quantizers.methods import METHODS
from qsched.sampling.coefficients import Coefficients
from qsched.surfaces.stability import HIGHEST_K

LOW, HIGH, STEP = 0.5, 1.5, 0.005
"""What the sliders show; they widen for coefficients outside."""
LEAST, MOST = 0.05, 5.0
"""What page, links and API accept."""
LARGEST_SEED = 2**31 - 1
K_STEP = 0.1
MOST_STEPS = max(max(spec.steps) for spec in SPECS.values())
SHAPES = {"constant": "Constant", "ramp": "Ramp to 1", "ends": "Two ends", "per-step": "Per step"}
MAIN_BITS = ("w8a8", "w4a8", "w4a4", "w3a8", "w2a8")
DECODERS = ("full", "tiny")
GROUPS = [
    ("one scale per output channel", 0),
    ("groups of 32", 32),
    ("groups of 64", 64),
    ("groups of 128", 128),
]
OTHER_BITS = tuple(f"w{w}a{a}" for w in (8, 4, 3, 2) for a in (16, 8, 4) if f"w{w}a{a}" not in MAIN_BITS)


def bits_choices() -> list[tuple[str, str]]:
    """(label, value) of every bit-width, the common ones first."""
    return [(bits.upper(), bits) for bits in MAIN_BITS + OTHER_BITS]


def method_choices() -> list[tuple[str, str]]:
    """(label, value) of every method of quantizing; those that cannot run here say so, and style.css greys
    them out.
    """
    return [(m.title + (" (not here)" if m.unavailable() else ""), name) for name, m in METHODS.items()]


def method_note() -> str:
    """Why some methods cannot run here, one sentence each; empty if all can."""
    reasons = [method.unavailable() for method in METHODS.values()]
    return " ".join(f"Not here: {reason}" for reason in reasons if reason)


def steps_choices(spec: BackboneSpec) -> list[tuple[str, int]]:
    """(label, value) of every step count the backbone supports."""
    return [("1 step" if n == 1 else f"{n} steps", n) for n in spec.steps]


def coefficients_from(shape: str, c_x: Sequence[float], c_eps: Sequence[float], steps: int) -> Coefficients:
    """Sliders to coefficients. c_x, c_eps: at least `steps` values each, of which the shape uses the first,
    two or all.

    Raises:
        ValueError: unknown shape, or a value out of range.
    """
    if shape not in SHAPES:
        raise ValueError(f"The shape must be {', '.join(SHAPES)}, not {shape!r}.")
    used = {"constant": 1, "ramp": 1, "ends": 2, "per-step": steps}[shape]
    for name, values in (("c_x", c_x), ("c_eps", c_eps)):
        for value in values[:used]:
            _check(name, value)
    if shape == "constant" or (shape == "per-step" and steps == 1):
        return Coefficients.constant(c_x[0], c_eps[0])
    if shape == "ramp":
        return Coefficients.ramp(c_x[0], c_eps[0])
    if shape == "ends":
        return Coefficients.ends(c_x[:2], c_eps[:2])
    return Coefficients.per_step(c_x[:steps], c_eps[:steps])


def in_range(coefficients: Coefficients) -> Coefficients:
    """The coefficients, if page, links and API accept them.

    Raises:
        ValueError: one sentence.
    """
    for name, value in coefficients.to_dict().items():
        for number in value if isinstance(value, list) else [value]:
            _check(name, number)
    return coefficients


def _check(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not LEAST <= value <= MOST:
        raise ValueError(f"{name} must be a number from {LEAST} to {MOST}, not {value}.")


def sliders_from(coefficients: Coefficients, steps: int, shape: str) -> tuple[list[float], list[float]]:
    """Coefficients to the MOST_STEPS sliders of c_x and c_eps that stand for them in this shape (the nearest,
    if they do not fit it).
    """
    rows = []
    for name, row in zip(("c_x", "c_eps"), coefficients.expand(steps), strict=True):
        values, ends = [round(float(value), 6) for value in row], getattr(coefficients, name)
        if shape == "ends":
            values = [values[0], round(ends[-1], 6) if isinstance(ends, tuple) else values[-1]]
        rows.append(values + [1.0] * (MOST_STEPS - len(values)))
    return rows[0], rows[1]


def written(number: float) -> str:
    """A coefficient as links carry it: up to six decimals, as `sliders_from` gives it."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def slider_range(value: float) -> tuple[float, float]:
    """The lowest and highest value of a slider that holds this one, on the grid of its steps."""
    low, high = math.floor(round(value / STEP, 6)) * STEP, math.ceil(round(value / STEP, 6)) * STEP
    return min(LOW, round(low, 6)), max(HIGH, round(high, 6))


def visible_sliders(shape: str, steps: int) -> list[bool]:
    """Which of the MOST_STEPS sliders per coefficient a shape shows."""
    used = {"constant": 1, "ramp": 1, "ends": 2, "per-step": max(steps, 1)}[shape]
    return [index < used for index in range(MOST_STEPS)]


def slider_label(symbol: str, index: int, shape: str) -> str:
    """What a slider is called in a shape, such as "c_x, last step"."""
    if shape == "ramp":
        return f"{symbol}, first step"
    if shape == "ends":
        return f"{symbol}, {'first' if index == 0 else 'last'} step"
    return f"{symbol}, step {index + 1}" if shape == "per-step" else symbol


@dataclass(frozen=True)
class Link:
    """What a deep link asks for; None where it says nothing."""

    backbone: str | None = None
    bits: str | None = None
    prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    shape: str | None = None
    c_x: tuple[float, ...] | None = None
    c_eps: tuple[float, ...] | None = None
    k: float | None = None
    method: str | None = None
    group: int | None = None
    scale: str | None = None
    scope: str | None = None
    keep: bool | None = None
    source: str | None = None
    decoder: str | None = None
    notes: tuple[str, ...] = ()

    def quantization(self, bits: str) -> Quantization:
        """How the link wants the denoiser quantized; `bits` where it does not say to how many."""
        keep = True if self.keep is None else self.keep
        return quantization_from(
            self.bits or bits, self.group, self.scale or ACTIVATION_SCALES[0], self.scope or SCOPES[0], keep,
            self.method or "plain"
        )  # fmt: skip


def read_link(query: Mapping[str, str], default: str = next(iter(SPECS)), *, sources: bool = True) -> Link:
    """Query parameters to a Link; whatever is not understood is left out and named in `notes`.

    default: id of the backbone where the link names none. sources: whether it may say where the backbone
        comes from.
    """
    found, notes = {}, []
    for name, read in _READERS.items():
        if not query.get(name):
            continue
        if name == "source" and not sources:
            notes.append(
                "The link's source is ignored: only somebody at the machine that runs this page "
                "may choose one."
            )
            continue
        try:
            found[name] = read(query[name])
        except (ValueError, KeyError, BackboneError):
            notes.append(f"The link's {name} was not understood and is ignored.")
    spec = SPECS[found.get("backbone", default)]
    if "steps" in found and found["steps"] not in spec.steps:
        notes.append(
            f"{spec.title} does not run in {found.pop('steps')} steps: the link's step count is ignored."
        )
    return Link(**found, notes=tuple(notes))


def _known(value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(value)
    return value


def _numbers(text: str) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split(","))
    if not all(LEAST <= value <= MOST for value in values) or len(values) > MOST_STEPS:
        raise ValueError(text)
    return values


def k_from(value: float) -> float:
    """The slider's k.

    Raises:
        ValueError: if it is no number within the slider's range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= HIGHEST_K:
        raise ValueError(f"k must be a number from 0 to {HIGHEST_K:g}.")
    return round(float(value), 4)


def integer(name: str, value: object, low: int, high: int) -> int:
    """A whole number, as 4 or 4.0.

    Raises:
        ValueError: one sentence, if it is none from low to high.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value != value // 1 or not low <= value <= high:
        given = "left empty" if value is None else str(value)
        raise ValueError(f"The {name} must be a whole number from {low} to {high}, not {given}.")
    return int(value)


def seed_from(value: object) -> int:
    """The seed in a number box.

    Raises:
        ValueError: one sentence, if it is empty, broken or out of range.
    """
    return integer("seed", value, 0, LARGEST_SEED)


def _group(text: str) -> int:
    if int(text) not in dict(GROUPS).values():
        raise ValueError(text)
    return int(text)


def _source(text: str) -> str:
    text = text.strip()
    if not Path(text).expanduser().is_dir():
        repo, revision = pinned(text)
        check_names(Source(repo, revision=revision))
    return text


_READERS = {
    "backbone": lambda text: _known(text, list(SPECS)),
    "bits": lambda text: str(BitWidth.parse(text)),
    "prompt": lambda text: text[:2000],
    "seed": lambda text: seed_from(int(text)),
    "steps": int,
    "shape": lambda text: _known(text, list(SHAPES)),
    "c_x": _numbers,
    "c_eps": _numbers,
    "k": lambda text: k_from(float(text)),
    "method": lambda text: _known(text, list(METHODS)),
    "group": _group,
    "scale": lambda text: _known(text, ACTIVATION_SCALES),
    "scope": lambda text: _known(text, SCOPES),
    "keep": lambda text: _known(text, ("0", "1")) == "1",
    "source": _source,
    "decoder": lambda text: _known(text, DECODERS),
}


def quantization_from(
    bits: str, group_size: int | None, activation_scale: str, scope: str, keep: bool, method: str = "plain"
) -> Quantization:
    """The advanced settings as one value; group size 0 or None is one scale per output channel.

    Raises:
        ValueError: one sentence, if the group size is no whole number.
    """
    size = integer("group size", group_size or 0, 0, 2**16)
    return Quantization(bits, size or None, activation_scale, scope, bool(keep), method)
