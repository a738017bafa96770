"""Search points in an Optuna study: one trial per candidate, in memory, in SQLite, or in a database that
machines share.

A trial has the coefficients as parameters (c_x and c_eps, or one per step: c_x_0, c_x_1, ...), JAQ as its
value, and the scores of every image as user attributes, so any Optuna tool can read a search, and another k
re-ranks it without an image.

No point is computed twice: a process claims a candidate by storing a running trial for it. Optuna numbers
trials in the order they are stored, so of two processes that claim the same candidate both see the lower
number, which wins. A process records a heartbeat for each of its claims (Optuna's own,
`RDBStorage.record_heartbeat`); a claim without a new one for GRACE seconds belongs to a process that died,
and is given up. Each process measures these seconds itself: a clock that is set to another time, here or
where the storage is, neither kills a search nor keeps a dead one alive.
"""

import random
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import column, select, table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from qsched.search.options import Candidate

optuna.logging.set_verbosity(optuna.logging.ERROR)
NOT_FINITE = "an image was not finite"
INTERVAL, GRACE = 2, 10
"""Seconds between two heartbeats of a claim, and without a new one until others give it up."""
SQLITE_WAIT = 60
"""Seconds that a process waits for another one's write."""


class StorageError(RuntimeError):
    """A search storage cannot be used; the text is one sentence for the user."""


class Scores(NamedTuple):
    """Alignment and quality of the images of one candidate; empty for one that failed."""

    alignment: list[float]
    quality: list[float]


class Claim(NamedTuple):
    """A candidate that this process computes, and the trial that says so."""

    candidate: Candidate
    trial: FrozenTrial


class Standing(NamedTuple):
    """What a study holds. done: scores by candidate, failed ones included;

    busy: what other living processes compute.
    """

    done: dict[Candidate, Scores]
    busy: set[Candidate]


def _differences(stored: dict[str, Any] | None, identity: dict[str, Any]) -> list[str]:
    """In what a stored search is another one; searches that began before the execution was noted have it of
    any.
    """
    if stored is None:
        return []
    keys = [key for key in (*identity, *(stored.keys() - identity)) if key != "execution" or key in stored]
    return [key for key in keys if stored.get(key) != identity.get(key)]


class Study:
    """The candidates of one search.

    Args:
        storage: an Optuna storage URL such as "sqlite:///search.sqlite3", or None for memory.
        name: tells searches in one storage apart; whoever uses the same name continues the same search.
        identity: everything that the scores depend on (JSON friendly); stored with the study and compared on
            resuming.
        c_range: of all coefficients.
        about: more to keep with it: what a preset needs to know besides the scores. The latest process's
            stays.
    Raises:
        StorageError: if the storage cannot be opened. Later calls raise it too when the storage fails.
    """

    def __init__(
        self,
        storage: str | None,
        name: str,
        identity: dict[str, Any],
        c_range: tuple[float, float],
        about: dict[str, Any],
    ):
        self.shown, self.name, self.about = without_password(storage), name, about
        self._distribution = optuna.distributions.FloatDistribution(*c_range)
        self._claims: set[int] = set()
        self._seen: dict[int, tuple[Any, float]] = {}
        for pause in (0.1, 0.3, 0.5, None):
            try:
                with storage_errors(self.shown):
                    self._storage = open_storage(storage)
                    self._study = optuna.create_study(
                        storage=self._storage, study_name=name, direction="maximize", load_if_exists=True
                    )
                    self._id = self._storage.get_study_id_from_name(name)
                    stored = self._study.user_attrs.get("search")
                    if stored is None:
                        self._study.set_user_attr("search", identity)
                    differs = _differences(stored, identity)
                    if not differs:
                        self._study.set_user_attr("about", about)
                break
            except StorageError:  # perhaps another process has just made the tables or the study
                if pause is None:
                    raise
                time.sleep(pause * (1 + random.random()))
        if differs == ["execution"]:
            here, there = (" and ".join(each["execution"]) for each in (identity, stored))
            raise StorageError(
                f"This search was computed by {there} products, and this machine computes by "
                f"{here}: their scores do not mix. "
                "Go on where it was begun, or start another search."
            )
        if differs:
            raise StorageError(
                f"The study {name!r} belongs to another search (it differs in {', '.join(differs)}); "
                f"choose another name."
            )

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A block in which claims stay alive, however long a point takes: a thread records their
        heartbeats.
        """
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(INTERVAL):
                for trial in tuple(self._claims):
                    with suppress(Exception):  # what matters will fail where it is reported
                        self._beat(trial)

        thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def look(self) -> Standing:
        """How the search stands now. What dead processes left behind is given up first."""
        with storage_errors(self.shown):
            trials = self._study.get_trials(deepcopy=False)
            running = [trial for trial in trials if trial.state is TrialState.RUNNING]
            others = {trial._trial_id: trial for trial in running if trial._trial_id not in self._claims}
            for dead in self._without_heartbeat(others):
                self._fail(dead)
                del others[dead]
            return Standing(_scores(trials), {_candidate(trial) for trial in others.values()})

    def claim(self, candidates: Sequence[Candidate]) -> list[Claim]:
        """Take those of the candidates that no other process has or had; may be none."""
        with storage_errors(self.shown):
            claimed = set()
            for candidate in candidates:
                params = candidate.params()
                trial = optuna.trial.create_trial(
                    state=TrialState.RUNNING,
                    params=params,
                    distributions=dict.fromkeys(params, self._distribution),
                )
                claimed.add(trial := self._storage.create_new_trial(self._id, trial))
                self._claims.add(trial)
            trials = self._study.get_trials(deepcopy=False)
        first: dict[Candidate, FrozenTrial] = {}
        for trial in trials:  # in the order of their numbers
            if _counts(trial):
                first.setdefault(_candidate(trial), trial)
        mine = [trial for trial in trials if trial._trial_id in claimed]
        won = [Claim(_candidate(trial), trial) for trial in mine if first[_candidate(trial)] is trial]
        self.release(
            [Claim(_candidate(trial), trial) for trial in mine if first[_candidate(trial)] is not trial]
        )
        return won

    def store(self, claim: Claim, scores: Scores, value: float | None) -> None:
        """Finish a claim with its scores; value None means that an image was not finite.

        Nothing happens if other processes have taken this one for dead and given the claim up.
        """
        trial, state = claim.trial._trial_id, TrialState.FAIL if value is None else TrialState.COMPLETE
        self._claims.discard(trial)
        notes = {"failed": NOT_FINITE} if value is None else scores._asdict()
        with storage_errors(self.shown), suppress(optuna.exceptions.UpdateFinishedTrialError):
            for key, note in notes.items():
                self._storage.set_trial_user_attr(trial, key, note)
            if not self._storage.set_trial_state_values(trial, state, None if value is None else [value]):
                raise StorageError(f"The storage {self.shown} refuses a result.")

    def release(self, claims: Sequence[Claim]) -> None:
        """Give up unfinished claims, so that whoever comes next computes these candidates."""
        with storage_errors(self.shown):
            for claim in claims:
                self._claims.discard(claim.trial._trial_id)
                self._fail(claim.trial._trial_id)

    def _fail(self, trial: int) -> None:
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_state_values(trial, TrialState.FAIL)

    def _without_heartbeat(self, trials: Collection[int]) -> list[int]:
        """Which of these trials have shown no new heartbeat for GRACE seconds of this process's own clock."""
        now, beats = time.monotonic(), {}
        if trials and isinstance(self._storage, optuna.storages.RDBStorage):
            kept = table("trial_heartbeats", column("trial_id"), column("heartbeat"))
            with self._storage.engine.connect() as connection:
                beats = dict(connection.execute(select(kept).where(kept.c.trial_id.in_(trials))).all())
        for trial in trials:
            if self._seen.get(trial, (None, 0.0))[0] != beats.get(trial, 0):
                self._seen[trial] = beats.get(trial, 0), now
        return [trial for trial in trials if now - self._seen[trial][1] > GRACE]

    def _beat(self, trial: int) -> None:
        if isinstance(self._storage, optuna.storages.RDBStorage):  # a search in memory has no other process
            self._storage.record_heartbeat(trial)


def finished(study: optuna.Study) -> dict[Candidate, Scores]:
    """Scores by candidate of any study that `Study` filled, failed ones included."""
    return _scores(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)))


def _scores(trials: Sequence[FrozenTrial]) -> dict[Candidate, Scores]:
    done = {}
    for trial in trials:
        if trial.state is TrialState.COMPLETE or "failed" in trial.user_attrs:
            attributes = trial.user_attrs
            done[_candidate(trial)] = Scores(attributes.get("alignment", []), attributes.get("quality", []))
    return done


def open_storage(storage: str | None) -> optuna.storages.BaseStorage:
    """An Optuna storage; SQLite made fit for several processes."""
    if storage is None:
        return optuna.storages.InMemoryStorage()
    kwargs: dict[str, Any] = {"pool_pre_ping": True}
    if make_url(storage).get_backend_name() == "sqlite":
        kwargs = {"connect_args": {"timeout": SQLITE_WAIT, "factory": _Connection}}
    for pause in (0.1, 0.2, 0.4, 0.8, 1.6, None):
        try:
            return optuna.storages.RDBStorage(storage, engine_kwargs=kwargs)
        except SQLAlchemyError as error:
            others = isinstance(error, IntegrityError) or "already exists" in str(error)
            if pause is None or not others:  # others: another process is making the tables
                raise
            time.sleep(pause * (1 + random.random()))
    raise AssertionError("the last try returns or raises")


class _Connection(sqlite3.Connection):
    """Readers and a writer at once, and no wait for the disk at every commit: a killed process loses nothing
    that way.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA journal_mode=WAL")
        self.execute("PRAGMA synchronous=NORMAL")


@contextmanager
def storage_errors(shown: str) -> Iterator[None]:
    """Whatever a database does becomes one sentence."""
    try:
        yield
    except StorageError:
        raise
    except KeyError:
        raise StorageError(f"The storage {shown} holds no such search.") from None
    except ArgumentError:
        raise StorageError(
            f"{shown} is no storage URL; write for example sqlite:///search.sqlite3."
        ) from None
    except ImportError as error:
        raise StorageError(f"The storage {shown} needs a database driver: {first_line(error)}.") from None
    except (SQLAlchemyError, optuna.exceptions.OptunaError, OSError, RuntimeError) as error:
        cause = getattr(error, "orig", None) or error.__cause__ or error
        cause = getattr(cause, "orig", None) or cause
        raise StorageError(f"The storage {shown} cannot be used: {first_line(cause)}.") from None


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial has or will have its candidate's scores."""
    return trial.state in (TrialState.COMPLETE, TrialState.RUNNING) or "failed" in trial.user_attrs


def _candidate(trial: FrozenTrial) -> Candidate:
    return Candidate.of(trial.params)


def without_password(storage: str | None) -> str:
    """A storage URL as it may be shown."""
    try:
        return "memory" if storage is None else make_url(storage).render_as_string(hide_password=True)
    except ArgumentError:
        return repr(storage)
