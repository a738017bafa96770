"""Search c_x and c_eps on a grid: every point on every calibration image, the first prediction computed once for all.

    preset = search(backbone, "w4a8", prompts, steps=4)         # arXiv 2509.01624's exhaustive grid
    preset.coefficients, preset.surface.best(k=1.0)

The points live in an Optuna study (see `qsched.studies`), so a search that is stopped or killed goes on where it was,
and several processes that share a database share the work.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qsched.backbones import Backbone, Quantization
from qsched.presets import Preset
from qsched.scoring import K_DEFAULT
from qsched.search_job import Job, SearchError
from qsched.studies import StorageError, record_all
from qsched.surface import Surface

__all__ = ["Plan", "Point", "SearchError", "StorageError", "estimate", "grid", "search"]


@dataclass(frozen=True)
class Point:
    """One finished point, for a progress display. jaq is None if the point failed; done counts out of total."""

    c_x: float
    c_eps: float
    jaq: float | None
    done: int
    total: int


@dataclass(frozen=True)
class Plan:
    """What a search costs. points: of the grid; stored: of them finished before; images, calls (denoiser evaluations,
    counted per image) and seconds: for the rest; images_per_second: as measured here."""

    points: int
    stored: int
    images: int
    calls: int
    seconds: float
    images_per_second: float


def grid(low: float, high: float, n: int) -> tuple[float, ...]:
    """n evenly spaced values from low to high, rounded to 6 decimals.

    Raises:
        ValueError: unless 0 < low < high, both finite, and n >= 2.
    """
    if not (np.isfinite([low, high]).all() and 0 < low < high):
        raise ValueError(f"The range of the coefficients must satisfy 0 < low < high, not {low:g} to {high:g}.")
    if isinstance(n, bool) or not isinstance(n, int) or not 2 <= n <= 1001:
        raise ValueError(f"A grid needs 2 to 1001 values per coefficient, not {n}.")
    axis = tuple(round(float(value), 6) for value in np.linspace(low, high, n))
    if len(set(axis)) < n:
        raise ValueError(f"The range {low:g} to {high:g} is too narrow for {n} different values.")
    return axis


def search(
    backbone: Backbone,
    bits: str | Quantization,
    prompts: Sequence[str],
    *,
    steps: int | None = None,
    seed: int = 0,
    seeds: int = 1,
    c_range: tuple[float, float] = (0.8, 1.2),
    resolution: int = 11,
    shape: str = "ramp",
    k: float = K_DEFAULT,
    storage: str | None = None,
    study_name: str | None = None,
    resume: bool = True,
    on_point: Callable[[Point], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Preset:
    """The best point of an exhaustive grid, with the whole surface and its provenance.

    Args:
        bits: "w4a8", or a Quantization with all options.
        prompts: the calibration prompts; image p of seed s uses the noise of (seed + s, p).
        steps: None is the backbone's default.
        seeds: noise draws per prompt.
        c_range, resolution: of both axes.
        shape: "ramp" (from the point at the first step to 1 at the last, the paper's) or "constant".
        k: weight of the quality in JAQ.
        storage: Optuna storage URL; None keeps the points in memory only.
        study_name: None derives one from everything the scores depend on, so that only the same search is resumed.
        resume: False starts anew under a name of its own, and leaves what is stored alone.
        on_point: called after each point that is computed here.
        stop: asked before every batch; True ends the search with what there is.
    Raises:
        ValueError: settings that cannot be run.
        SearchError: no point has a finite score.
        StorageError: the storage cannot be used; what it holds stays.
    """
    job = Job(backbone, bits, prompts, steps, seed, seeds, grid(*c_range, resolution), shape, k)
    study = job.open(storage, study_name, resume)
    begin, calls = time.perf_counter(), backbone.calls
    stored, surface = study.finished(), Surface.empty(job.axis, job.axis, job.images)
    done = record_all(surface, stored)
    missing = [point for point in job.points if point not in stored]
    while missing and not (stop is not None and stop()):
        elsewhere = study.running()
        missing.sort(key=elsewhere.__contains__)  # stable; points of a process that was killed come last, not never
        chunk = missing[: job.points_per_batch]
        trials = study.claim(chunk)
        try:
            scores = job.compute([(trial.params["c_x"], trial.params["c_eps"]) for trial in trials])
            for trial, (alignment, quality) in zip(trials, scores, strict=True):
                value = job.jaq(alignment, quality)
                study.store(trial, alignment, quality, value)
                done += 1
                if on_point is not None:
                    on_point(Point(trial.params["c_x"], trial.params["c_eps"], value, done, len(job.points)))
        except BaseException:
            study.release(trials)
            raise
        stored = study.finished()
        missing = [point for point in missing if point not in stored]
        done = len(job.points) - len(missing)
    record_all(surface, stored)
    if not np.isfinite(surface.jaq(k)).any():
        raise SearchError("The search has no point with finite images: nothing can be recommended.")
    return job.preset(surface, done, time.perf_counter() - begin, backbone.calls - calls)


def estimate(
    backbone: Backbone,
    bits: str | Quantization,
    prompts: Sequence[str],
    *,
    steps: int | None = None,
    seed: int = 0,
    seeds: int = 1,
    c_range: tuple[float, float] = (0.8, 1.2),
    resolution: int = 11,
    shape: str = "ramp",
    k: float = K_DEFAULT,
    storage: str | None = None,
    study_name: str | None = None,
) -> Plan:
    """What `search` with the same arguments would cost, from one measured batch; nothing is stored.

    Raises:
        ValueError, StorageError: as `search`.
    """
    job = Job(backbone, bits, prompts, steps, seed, seeds, grid(*c_range, resolution), shape, k)
    stored = set() if storage is None else set(job.open(storage, study_name).finished())
    missing = [point for point in job.points if point not in stored]
    batch = job.points[: job.points_per_batch]
    job.compute(batch[:1])  # warm-up; also computes the shared first predictions
    begin = time.perf_counter()
    job.compute(batch)
    rate = len(batch) * job.images / (time.perf_counter() - begin)
    images = len(missing) * job.images
    calls = images * (job.steps - 1) + job.images * bool(missing)
    return Plan(len(job.points), len(job.points) - len(missing), images, calls, images / rate, rate)
