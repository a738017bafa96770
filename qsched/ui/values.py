"""Between the page's sliders and coefficients."""

import math
import re
from collections.abc import Sequence
from typing import Any

from qsched.models.spec import BackboneSpec
from qsched.quantizers.methods import METHODS
from qsched.sampling.coefficients import Coefficients
from qsched.settings import C_EPS, C_X, METHOD, MOST_STEPS, SHAPE
from qsched.words import steps_in_words

LOW, HIGH = 0.5, 1.5
"""What the sliders show; they widen for coefficients outside."""
STEP = C_X.step


def method_choices() -> list[tuple[str, str]]:
    """(label, value) of every method of quantizing; those that cannot run here say so, and style.css greys
    them out.
    """
    return [
        (METHOD.choices[name] + (" (not here)" if m.unavailable() else ""), name)
        for name, m in METHODS.items()
    ]


def method_note() -> str:
    """Why some methods cannot run here, one sentence each; empty if all can."""
    reasons = [method.unavailable() for method in METHODS.values()]
    return " ".join(f"Not here: {reason}" for reason in reasons if reason)


def steps_choices(spec: BackboneSpec) -> list[tuple[str, int]]:
    """(label, value) of every step count the backbone supports."""
    return [(steps_in_words(steps), steps) for steps in spec.steps]


def examples_shown(spec: BackboneSpec) -> dict[str, list]:
    """The backbone's example prompts and their labels, what is drawn alone, as gr.Dataset takes them."""
    subjects = [re.split(r",| (?:on|in|with|at) ", prompt)[0] for prompt in spec.examples]
    labels = [re.sub(r"^an? ", "", subject) for subject in subjects]
    return {"samples": [[prompt] for prompt in spec.examples], "sample_labels": labels}


def coefficients_from(shape: str, c_x: Sequence[float], c_eps: Sequence[float], steps: int) -> Coefficients:
    """Sliders to coefficients. c_x, c_eps: at least `steps` values each, of which the shape uses the first,
    two or all.

    Raises:
        ValueError: unknown shape, or a value out of range.
    """
    used = {"constant": 1, "ramp": 1, "ends": 2, "per-step": steps}[SHAPE.check(shape)]
    C_X.check(c_x[:used])
    C_EPS.check(c_eps[:used])
    if shape == "constant" or (shape == "per-step" and steps == 1):
        return Coefficients.constant(c_x[0], c_eps[0])
    if shape == "ramp":
        return Coefficients.ramp(c_x[0], c_eps[0])
    if shape == "ends":
        return Coefficients.ends(c_x[:2], c_eps[:2])
    return Coefficients.per_step(c_x[:steps], c_eps[:steps])


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


def is_number(value: Any) -> bool:
    """Whether what a page sent is one; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
