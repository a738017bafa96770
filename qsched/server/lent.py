"""A GPU that is lent for seconds, as Hugging Face's ZeroGPU does it: what is asked of it, and for how long.

A lent GPU runs a function in another process: plain data goes in and comes out, of an exception only the name
of its class comes back, and each call costs the visitor's minutes of the day.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from qsched.comparison.result import Column, Comparison, Settings
from qsched.hub.source import BackboneError
from qsched.sampling.coefficients import Coefficients
from qsched.server.sessions import Session, Sessions

log = logging.getLogger("qsched.server")

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


class LentGPU:
    """Comparisons of large backbones, computed in another process that has the GPU for seconds.

    Args:
        lend: such as spaces.GPU: wraps a function so that it runs in that process.
        compare, rescale: what computes there, with a backbone first.
        sessions: where the answers are kept. is_loaded: whether a process can have a backbone already.
    """

    def __init__(
        self,
        lend: Callable[..., Callable],
        compare: Callable[..., Comparison],
        rescale: Callable[[str, Comparison, Coefficients], Comparison],
        sessions: Sessions,
        is_loaded: Callable[[str], bool],
    ):
        self._lent = lend(self._work, duration=lambda job: job.seconds)
        self._compare_there, self._rescale_there = compare, rescale
        self._sessions, self._is_loaded = sessions, is_loaded

    def compare(
        self, session: str, backbone: str, settings: Settings, coefficients: Coefficients
    ) -> Comparison:
        """All three columns for a session, in one call, with settings that have been checked."""
        coefficients.expand(settings.steps)  # a fault here costs no GPU
        with self._sessions.turn(session):
            held = self._sessions.get(session)
            previous = held.comparison if held and held.backbone == backbone else None
            comparison = self._ask("compare", backbone, 3, settings, settings, coefficients, previous)
            self._sessions.keep(session, backbone, comparison)
        return comparison

    def rescale(self, session: str, held: Session, coefficients: Coefficients) -> Comparison:
        """The comparison of a session, whose turn it is, with the nearest coefficients of a grid; one call
        computes those around them, too.
        """
        settings = held.comparison.settings
        coefficients.expand(settings.steps)
        point = coefficients if held.at(coefficients) else snapped(coefficients)
        if point.is_identity:
            comparison = held.comparison.plain()
        elif (comparison := held.at(point)) is None:
            points = tuple(neighbours(point))[-points_kept(held) :]
            columns = self._ask("neighbours", held.backbone, len(points), settings, held.comparison, points)
            for one, column in zip(points, columns, strict=True):
                held.history.add(one, column, held.room)
            comparison = replace(held.comparison, coefficients=point, qsched=columns[-1])
        self._sessions.keep(session, held.backbone, comparison)
        return comparison

    def costs(self, held: Session) -> tuple[int, int, int]:
        """For how many seconds a new image and a drag to new coefficients ask the GPU, and how many points
        the latter computes.
        """
        points, steps = points_kept(held), held.comparison.settings.steps
        loaded = self._is_loaded(held.backbone)
        return seconds(3, steps, loaded), seconds(points, steps, loaded), points

    def _ask(self, name: str, backbone: str, images: int, settings: Settings, *arguments: Any) -> Any:
        """Compute there.

        Raises:
            BackboneError: what went wrong there or with the lender, in one sentence. What the lender says to
                the visitor, such as that no GPU is free.
        """
        asked = seconds(images, settings.steps, self._is_loaded(backbone))
        try:
            failed, answer = self._lent(Job(name, backbone, arguments, asked))
        except Exception as error:
            if (sentence := no_answer(error)) is None:
                raise
            log.error("the lent GPU gave no answer", exc_info=error)
            raise BackboneError(sentence) from error
        if failed:
            raise BackboneError(answer)
        return answer

    def _work(self, job: Job) -> tuple[bool, Any]:
        """What the process that has the GPU does: (whether it failed, the answer or one sentence)."""
        work = {"compare": self._compare_there, "neighbours": self._neighbours_there}[job.name]
        try:
            return False, work(job.backbone, *job.arguments)
        except (ValueError, BackboneError) as error:
            return True, str(error)

    def _neighbours_there(
        self, backbone: str, comparison: Comparison, points: tuple[Coefficients, ...]
    ) -> list[Column]:
        return [self._rescale_there(backbone, comparison, point).qsched for point in points]


def at_hand(held: Session, coefficients: Coefficients) -> bool:
    """Whether a session's image at these coefficients asks for no lent GPU."""
    point = snapped(coefficients)
    return point.is_identity or bool(held.at(coefficients) or held.at(point))


def points_kept(held: Session) -> int:
    """How many of the points around the sliders' a session has room for beside its comparison: no others are
    computed.
    """
    return max(1, min(POINTS, held.room // held.comparison.qsched.nbytes))


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
