"""One search at a time, in a thread of its own, watched by the page that started it. No gradio here."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

from torch import Tensor

from qsched.comparison.result import Settings
from qsched.plots.working import WorkingCell
from qsched.presets import Preset
from qsched.sampling.loop import images_per_batch
from qsched.scoring import JAQ_DEFINITION, jaq_definition
from qsched.search.job import SearchError
from qsched.search.options import DESCENTS, Candidate, SearchOptions
from qsched.search.run import Plan, Progress, estimate, search
from qsched.search.saved import name_of
from qsched.search.strategies.choice import strategy_of
from qsched.server.device_thread import DeviceThread
from qsched.server.engine import Engine
from qsched.server.searches import Searches
from qsched.surfaces.surface import Surface

log = logging.getLogger("qsched.ui")
FASTEST, SLOWEST = 0.2, 0.4
"""Seconds between two looks at a search: not more often than a browser keeps up with, and often enough for
its clock.
"""
BATCH = {"cpu": 8}
"""Images per batch on a device: small enough that others wait little. Elsewhere the search's own."""
BUSY = (
    "A search is running already, {done} of {total} points are done: wait until it is finished, or "
    "stop it where it was started."
)


class Stopped(BaseException):
    """Ends a search between two batches of one candidate; not an Exception, so that nothing on the way
    catches it.
    """


@dataclass(frozen=True)
class Frame:
    """How a search stands at one moment; nobody changes it.

    surface: None before the first point. fraction: of the work, in [0, 1]. seconds: since it began. rate:
    images per second so far, None before the first. remaining: seconds, None as long as nobody knows. best:
    as in `Progress`, and its image. points: changes with the surface. working: cells that are being computed.
    over: whether this is the end.
    """

    surface: Surface | None = None
    done: int = 0
    total: int = 0
    fraction: float = 0.0
    images: int = 0
    seconds: float = 0.0
    rate: float | None = None
    remaining: float | None = None
    best: tuple[Candidate, float] | None = None
    image: Tensor | None = None
    points: int = 0
    working: tuple[WorkingCell, ...] = ()
    over: bool = False


class Run:
    """A search on its way.

    Attributes:
        session: of the page that started it. backbone: id. options: as checked.
        name: of its study, None until the model is loaded. is_new: whether nobody had begun that study
            before.
        formula: of JAQ in its scorer's terms.
        over: whether it has ended; then `preset` is what it recommends, or None, and `error` what went wrong,
            or None.
    """

    def __init__(self, session: str, backbone: str, options: SearchOptions, total: int):
        self.session, self.backbone, self.options = session, backbone, options
        self.name: str | None = None
        self.is_new = False
        self.formula = JAQ_DEFINITION
        self.preset: Preset | None = None
        self.error: Exception | None = None
        self.over = self.stopping = False
        self._frame, self._begin = Frame(total=total), time.perf_counter()
        self._reported, self._batches, self._batches_per_point = self._begin, 0, 1
        self._stored, self._unfinished = 0, True
        self._changed = threading.Condition()

    def stop(self) -> None:
        """Ask it to end; it does so within a batch, and keeps every point that is done."""
        self.stopping = True

    def frame(self) -> Frame:
        """How it stands now."""
        frame, now = self._frame, time.perf_counter()
        if frame.over:
            return frame
        left = None if frame.remaining is None else max(frame.remaining - (now - self._reported), 0.0)
        return replace(frame, seconds=now - self._begin, remaining=left)

    def frames(self) -> Iterator[Frame]:
        """How it stands, again and again, until it is over; the last one shows the end."""
        shown = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda known=shown: self._frame is not known, SLOWEST)
                shown, frame = self._frame, self.frame()
            yield frame
            if frame.over:
                return
            with self._changed:
                self._changed.wait_for(lambda: self.over, FASTEST)

    def expect(self, batch: int) -> None:
        """How many batches a point takes, for a bar that moves while a point is computed."""
        steps = self.options.steps if self.options.strategy in DESCENTS else 1
        self._batches_per_point = math.ceil(self.options.images / batch) * steps

    def report(self, progress: Progress) -> None:
        """Called by the search after every batch and every point."""
        old = self._frame
        fresh = old.surface is None or progress.done != old.done
        images = progress.images
        if progress.last:
            self._batches, self._stored = 0, images
        self._unfinished = bool(images % progress.images_per_candidate or images == self._stored)
        frame = Frame(
            _copy(progress.surface, len(self.options.prompts)) if fresh else old.surface,
            progress.done,
            max(progress.total, progress.done),
            self._fraction(progress.done, max(progress.total, progress.done)),
            images,
            progress.seconds,
            images / progress.seconds if images else None,
            progress.remaining,
            progress.best,
            progress.image,
            old.points + fresh,
            tuple(
                WorkingCell(point.c_x[0], point.c_eps[0], *so_far)
                for point, so_far in progress.working.items()
                if point.is_pair
            ),
        )
        with self._changed:
            self._frame, self._reported = frame, time.perf_counter()
            self._changed.notify_all()

    def may_go_on(self) -> None:
        """Called before every batch; raises Stopped in the middle of a point that nobody waits
        for any more.
        """
        if self.stopping and self._unfinished:
            raise Stopped

    def went_on(self) -> None:
        """Called after every batch: the bar moves."""
        with self._changed:
            self._batches += 1
            self._frame = replace(self._frame, fraction=self._fraction(self._frame.done, self._frame.total))
            self._changed.notify_all()

    def _fraction(self, done: int, total: int) -> float:
        return min((done + min(self._batches / self._batches_per_point, 1.0)) / max(total, 1), 1.0)

    def end(self, preset: Preset | None, error: Exception | None) -> None:
        """It is over."""
        frame = self.frame()
        if preset is not None:  # also of points that were stored before, and with nothing left to compute
            done = preset.provenance["points_done"]
            complete = not self.stopping or done >= frame.total
            total = done if complete else max(frame.total, done)
            frame = replace(
                frame, surface=preset.surface, done=done, total=total, fraction=done / total,
                remaining=0.0 if complete else None,
                points=frame.points + 1,
            )  # fmt: skip
        with self._changed:
            self.preset, self.error, self._frame, self.over = (
                preset,
                error,
                replace(frame, working=(), over=True),
                True,
            )
            self._changed.notify_all()


class _Device:
    """The device's thread as a running search uses it, batch by batch."""

    def __init__(self, run: Run, thread: DeviceThread):
        self._run, self._thread = run, thread

    def __call__(self, batch: Callable[[], int | None]) -> int | None:
        self._run.may_go_on()
        count = self._thread.run(batch, patient=True)
        self._run.went_on()
        return count


class Runner:
    """Starts and stops searches on an engine's device; they are kept in `searches`."""

    def __init__(self, engine: Engine, searches: Searches):
        self.engine, self.searches = engine, searches
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._rates: dict[tuple, float] = {}

    def running(self) -> Run | None:
        """The search that is under way."""
        run = self._run
        return run if run and not run.over else None

    def running_for(self, session: str | None) -> Run | None:
        """The search that is under way, if this page started it; a request without a session has started
        none.
        """
        run = self.running()
        return run if run and session and run.session == session else None

    def start(self, session: str, backbone: str, options: SearchOptions) -> Run:
        """Start or resume a search.

        Raises:
            ValueError: one is running, or the options cannot be run.
        """
        options = self.checked(backbone, options)
        run = Run(session, backbone, options, strategy_of(options).total)
        with self._lock:
            if busy := self.running():
                frame = busy.frame()
                raise ValueError(BUSY.format(done=frame.done, total=frame.total))
            self._run = run
        threading.Thread(target=self._work, args=(run,), daemon=True, name="search").start()
        return run

    def stop(self, session: str | None) -> Run | None:
        """Ask the search that this page started to end; None if there is none."""
        run = self.running_for(session)
        if run:
            run.stop()
        return run

    def checked(self, backbone: str, options: SearchOptions) -> SearchOptions:
        """The options with everything filled in, without loading the model.

        Raises:
            ValueError: settings that cannot be run.
        """
        tiny = self.engine.has_tiny_decoder(backbone)
        return options.checked(SimpleNamespace(spec=self.engine.spec(backbone), has_tiny_decoder=tiny))

    def planned(self, backbone: str, options: SearchOptions) -> Plan:
        """What a search costs from its beginning; seconds and rate are 0 unless they were measured before."""
        options = self.checked(backbone, options)
        strategy = strategy_of(options)
        images = strategy.total * options.images
        rate = self._rates.get(self._rated(backbone, options), 0.0)
        return Plan(
            strategy.total, 0, images, strategy.calls(strategy.total), images / rate if rate else 0.0, rate
        )

    def measured(self, backbone: str, options: SearchOptions) -> Plan:
        """What is left of a search and how long it takes, measured with a few images while others
        take turns.
        """
        options = self.checked(backbone, options)
        loaded = self._ready(backbone, options)
        plan = estimate(
            loaded, options, storage=self.searches.url, batch_size=BATCH.get(loaded.device.type),
            device=partial(self.engine.device_thread.run, patient=True),
        )  # fmt: skip
        self._rates[self._rated(backbone, options)] = plan.images_per_second
        return plan

    def _work(self, run: Run) -> None:
        preset = error = None
        try:
            backbone = self._ready(run.backbone, run.options)
            run.options = run.options.checked(backbone)
            run.name, run.formula = name_of(backbone, run.options), jaq_definition(backbone.scorer())
            run.is_new = self.searches.get(run.name) is None
            url, batch = self.searches.url, BATCH.get(backbone.device.type)
            run.expect(batch or images_per_batch(backbone.device))
            try:
                preset = search(
                    backbone, run.options, storage=url, batch_size=batch,
                    device=_Device(run, self.engine.device_thread), on_progress=run.report,
                    stop=lambda: run.stopping,
                )  # fmt: skip
            except Stopped:
                preset = self.searches.load(run.name)
        except SearchError as failure:
            error = None if run.stopping else failure  # stopped before the first point: nothing went wrong
        except Exception as failure:
            error = failure
        finally:
            frame = run.frame()
            if frame.rate and not error:
                self._rates[self._rated(run.backbone, run.options)] = frame.rate
            run.end(preset, error)

    def _ready(self, backbone: str, options: SearchOptions):
        """The loaded model with this quantization and its scorer, so that nobody makes them
        without a turn.
        """
        loaded = self.engine.backbone(backbone)
        for _ in self.engine.calibrating(backbone, Settings("-", 0, options.steps, options.quantization)):
            pass

        def prepare() -> None:
            loaded.use(options.steps)
            loaded.quantized(options.quantization)
            loaded.scorer()

        self.engine.device_thread.run(prepare)
        return loaded

    def _rated(self, backbone: str, options: SearchOptions) -> tuple:
        return (
            backbone,
            options.quantization,
            options.steps,
            options.strategy == "exhaustive",
            options.tiny_decoder,
        )


def _copy(surface: Surface, prompts: int) -> Surface:
    return Surface(surface.c_x, surface.c_eps, surface.alignment.copy(), surface.quality.copy(), prompts)
