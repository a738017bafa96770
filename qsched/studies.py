"""Search points in an Optuna study: one trial per point, in memory, in SQLite, or in a database that machines share.

A trial has the parameters c_x and c_eps, JAQ as its value, and the scores of every image as user attributes, so any
Optuna tool can read a search, and another k re-ranks it without an image. Points that are stored are never repeated.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from qsched.surface import Surface

optuna.logging.set_verbosity(optuna.logging.ERROR)
NOT_FINITE = "an image was not finite"


class StorageError(RuntimeError):
    """A search storage cannot be used; the text is one sentence for the user."""


class Scores(NamedTuple):
    """Alignment and quality of the images of one point; empty for a point that failed."""

    alignment: list[float]
    quality: list[float]


class Study:
    """The points of one search.

    Args:
        storage: an Optuna storage URL such as "sqlite:///search.sqlite3", or None for memory.
        name: tells searches in one storage apart; whoever uses the same name continues the same search.
        identity: everything that the scores depend on (JSON friendly); stored with the study and compared on resuming.
        low, high: range of both coefficients.
    Raises:
        StorageError: if the storage cannot be opened. Later calls raise it too when the storage fails.
    """

    def __init__(self, storage: str | None, name: str, identity: dict[str, Any], low: float, high: float):
        self.shown = _without_password(storage)
        self._range = dict.fromkeys(("c_x", "c_eps"), optuna.distributions.FloatDistribution(low, high))
        with self._errors():
            self._study = optuna.create_study(
                storage=storage, study_name=name, direction="maximize", load_if_exists=True
            )
            stored = self._study.user_attrs.get("search")
            if stored is None:
                self._study.set_user_attr("search", identity)
        if stored not in (None, identity):
            other = ", ".join(key for key in identity if stored.get(key) != identity[key])
            raise StorageError(
                f"The study {name!r} belongs to another search (it differs in {other}); choose another name."
            )

    def finished(self) -> dict[tuple[float, float], Scores]:
        """Scores by (c_x, c_eps), failed points included."""
        with self._errors():
            trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        done = {}
        for trial in trials:
            scores = Scores(trial.user_attrs.get("alignment", []), trial.user_attrs.get("quality", []))
            if trial.state is TrialState.COMPLETE or "failed" in trial.user_attrs:
                done[_point(trial.params)] = scores
        return done

    def running(self) -> set[tuple[float, float]]:
        """Points that another process is working on, or was when it was killed."""
        with self._errors():
            return {_point(t.params) for t in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}

    def claim(self, points: Sequence[tuple[float, float]]) -> list[optuna.Trial]:
        """Start a trial for each (c_x, c_eps)."""
        with self._errors():
            for c_x, c_eps in points:
                self._study.enqueue_trial({"c_x": c_x, "c_eps": c_eps})
            return [self._study.ask(self._range) for _ in points]

    def store(
        self, trial: optuna.Trial, alignment: Sequence[float], quality: Sequence[float], value: float | None
    ) -> None:
        """Finish a trial with its scores; value None means that an image was not finite."""
        with self._errors():
            if value is None:
                trial.set_user_attr("failed", NOT_FINITE)
                self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
                return
            trial.set_user_attr("alignment", list(alignment))
            trial.set_user_attr("quality", list(quality))
            self._study.tell(trial, value, skip_if_finished=True)

    def release(self, trials: Sequence[optuna.Trial]) -> None:
        """Give up unfinished trials, so that whoever comes next computes these points."""
        with self._errors():
            for trial in trials:
                self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ArgumentError:
            raise StorageError(f"{self.shown} is no storage URL; write for example sqlite:///search.sqlite3.") from None
        except ImportError as error:
            raise StorageError(f"The storage {self.shown} needs a database driver: {_first_line(error)}.") from None
        except (SQLAlchemyError, optuna.exceptions.OptunaError, OSError, RuntimeError) as error:
            cause = getattr(error, "orig", None) or error.__cause__ or error
            cause = getattr(cause, "orig", None) or cause
            raise StorageError(f"The storage {self.shown} cannot be used: {_first_line(cause)}.") from None


def record_all(surface: Surface, done: dict[tuple[float, float], Scores]) -> int:
    """Fill a surface with the stored points that lie on its grid; returns how many do."""
    count = 0
    for i, c_eps in enumerate(surface.c_eps):
        for j, c_x in enumerate(surface.c_x):
            if (scores := done.get((c_x, c_eps))) is not None:
                count += 1
                if scores.alignment:
                    surface.record(i, j, scores.alignment, scores.quality)
    return count


def _point(params: dict[str, Any]) -> tuple[float, float]:
    return round(params.get("c_x", 0.0), 6), round(params.get("c_eps", 0.0), 6)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _without_password(storage: str | None) -> str:
    try:
        return "memory" if storage is None else make_url(storage).render_as_string(hide_password=True)
    except ArgumentError:
        return repr(storage)
