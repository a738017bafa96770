"""A GPU that is lent for seconds, as Hugging Face's ZeroGPU does it: what is asked of it, and for how long.

A lent GPU runs a function in another process: plain data goes in and comes out, of an exception only the name
of its class comes back, and each call costs the visitor's minutes of the day.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qsched.sampling.coefficients import Coefficients

GRID, REACH = 0.02, 2
"""One call computes the points around the sliders' at this distance, so many to either side."""
POINTS = (2 * REACH + 1) ** 2
LOAD_S, BEGIN_S, IMAGE_S = 20, 5, 0.3
"""Seconds to ask for: to load a model that no process holds, to begin, and for each image and step."""
MOST_S = 60


@dataclass(frozen=True)
class Job:
    """One call. name: what is computed; seconds: how long it may take."""

    name: str
    backbone: str
    arguments: tuple[Any, ...]
    seconds: int


def seconds(images: int, steps: int, loaded: bool) -> int:
    """How long to ask for the GPU."""
    return min(MOST_S, round(BEGIN_S + IMAGE_S * images * (steps + 1)) + (0 if loaded else LOAD_S))


def no_answer(error: Exception) -> str | None:
    """One sentence for an error that a call ended with; None where the lender's own message is one, such as
    that no GPU is free.
    """
    title = getattr(error, "title", None)  # the lender's errors are gradio's, which have one
    if title is None:
        return "No GPU could be asked for just now: try again in a minute."
    if title == "ZeroGPU worker error":  # with the name of a class
        return (
            f"Something failed on the lent GPU ({error.message}): the images on the page are still the last "
            "good ones."
        )
    return None


def snapped(coefficients: Coefficients) -> Coefficients:
    """The nearest coefficients on the grid of points that calls compute."""
    return _moved(coefficients, 0, 0)


def neighbours(coefficients: Coefficients) -> Iterator[Coefficients]:
    """The points of the grid around these coefficients, themselves last: the first c_x and c_eps differ."""
    steps = range(-REACH, REACH + 1)
    for x, eps in sorted(
        ((x, eps) for x in steps for eps in steps), key=lambda at: -(at[0] ** 2) - at[1] ** 2
    ):
        yield _moved(coefficients, x, eps)


def _moved(coefficients: Coefficients, x: int, eps: int) -> Coefficients:
    moved = []
    for numbers, by in ((coefficients.c_x, x), (coefficients.c_eps, eps)):
        first, *rest = numbers if isinstance(numbers, tuple) else (numbers,)
        steps = [round(first / GRID) + by, *(round(number / GRID) for number in rest)]
        on_grid = tuple(round(GRID * max(step, 1), 6) for step in steps)
        moved.append(on_grid if isinstance(numbers, tuple) else on_grid[0])
    return Coefficients(*moved)
