"""Searches in a storage: opened to go on, listed to choose from, and turned into presets at any time."""

import copy
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import optuna
import sqlalchemy

from qsched.evaluation.provenance import made_with, versions
from qsched.models.base import Backbone
from qsched.presets import Preset
from qsched.quantization import Quantization
from qsched.scoring import jaq_definition
from qsched.search.job import SearchError
from qsched.search.options import GRIDS, Candidate, SearchOptions
from qsched.search.strategies.choice import strategy_of
from qsched.search.strategies.grid import value_of
from qsched.search.study import Scores, Study, finished, open_storage, storage_errors, without_password
from qsched.surfaces.remembering import Remembered
from qsched.surfaces.surface import Surface


@dataclass(frozen=True)
class SavedSearch:
    """A search in a storage.

    name: of its study. source: what the backbone was loaded from, None for its own source. done, total:
    candidates. best: the candidate it would recommend now and its JAQ, None before any is finite. begun: date
    and time as ISO text.
    """

    name: str
    backbone: str
    options: SearchOptions
    done: int
    total: int
    best: tuple[Candidate, float] | None
    begun: str
    source: str | None = None


def open_study(
    backbone: Backbone,
    options: SearchOptions,
    storage: str | None,
    study_name: str | None = None,
    resume: bool = True,
) -> Study:
    """The study of a search with checked options: the one that is there, or a new one."""
    name = study_name or name_of(backbone, options)
    if not resume:
        name += f"-{time.time_ns():x}"
    about = _about(backbone, options)
    identity = options.identity(backbone) | {"execution": sorted(about["provenance"]["execution"])}
    return Study(storage, name, identity, options.reach, about)


def name_of(backbone: Backbone, options: SearchOptions) -> str:
    """The name of a study with checked options: readable, and the same for the same search alone."""
    digest = hashlib.sha256(json.dumps(options.identity(backbone), sort_keys=True).encode()).hexdigest()[:12]
    return "-".join(
        [backbone.spec.id, options.quantization.bits, f"{options.steps}steps", options.strategy, digest]
    )


def stored_scores(storage: str, name: str) -> dict[Candidate, Scores]:
    """The finished candidates of a search, none if it has not begun; nothing is written.

    Raises:
        StorageError: the storage cannot be used.
    """
    with storage_errors(without_password(storage)):
        if name not in optuna.get_all_study_names(opened := _opened(storage)):
            return {}
        return finished(optuna.load_study(study_name=name, storage=opened))


def saved_searches(storage: str) -> list[SavedSearch]:
    """All searches in a storage, the latest first; studies that are no searches are left out.

    Raises:
        StorageError: the storage cannot be used.
    """
    with storage_errors(without_password(storage)):
        names = optuna.get_all_study_names(_opened(storage))
    found = [search for name in names if (search := find_search(storage, name)) is not None]
    return sorted(found, key=lambda search: search.begun, reverse=True)


def find_search(storage: str, name: str) -> SavedSearch | None:
    """One search of a storage; None if there is no study of that name, or it is no search.

    Raises:
        StorageError: the storage cannot be used.
    """
    with storage_errors(without_password(storage)):
        try:
            study = optuna.load_study(study_name=name, storage=_opened(storage))
        except KeyError:
            return None
        if (about := study.user_attrs.get("about")) is None:
            return None
        return _found.get(_state(storage, study, about), lambda: _saved(study, about))


def load_search(storage: str, name: str) -> Preset:
    """What a stored search would recommend now, finished or not.

    Raises:
        StorageError: the storage cannot be used, or holds no such search.
        SearchError: no candidate has a finite score yet.
    """
    with storage_errors(without_password(storage)):
        study = optuna.load_study(study_name=name, storage=_opened(storage))
        about = study.user_attrs["about"]
        state = _state(storage, study, about)

    def make() -> Preset:
        with storage_errors(without_password(storage)):
            done = finished(study)
        return preset_of(about, done)

    return copy.deepcopy(_presets.get(state, make))


def delete_search(storage: str, name: str) -> None:
    """Remove a stored search for good.

    Raises:
        StorageError: the storage cannot be used, or holds no such search.
    """
    with storage_errors(without_password(storage)):
        optuna.delete_study(study_name=name, storage=_opened(storage))


def preset_of(
    about: Mapping[str, Any], done: Mapping[Candidate, Scores], cost: Mapping[str, Any] | None = None
) -> Preset:
    """The result of a search: the best coefficients, the surface, and how they came about.

    Args:
        about: what its study says about it.
        done: its finished candidates.
        cost: more to keep in the provenance, such as what this run took.
    Raises:
        SearchError: no candidate has a finite score.
    """
    options = _options(about)
    strategy = strategy_of(options)
    best = strategy.best(done)
    if best is None:
        raise SearchError("The search has no point with finite scores: nothing can be recommended.")
    surface = surface_of(options, done)
    failed = [candidate for candidate, scores in done.items() if not scores.alignment]
    settings = asdict(options.quantization)
    edge = {options.axis[0], options.axis[-1]} if best.is_pair else set(options.reach)
    return Preset(
        backbone=about["backbone"],
        revision=about["revision"],
        bits=settings.pop("bits"),
        steps=options.steps,
        shape=options.shape,
        coefficients=best.coefficients(options.shape),
        surface=surface,
        settings=settings,
        prompts=list(options.prompts),
        provenance={
            **about["provenance"],
            "strategy": options.strategy,
            "source": about.get("source"),
            "decoder": "tiny" if options.tiny_decoder else "full",
            "whole_grid": options.whole_grid or options.strategy in GRIDS,
            "range": list(options.c_range),
            "points": strategy.total,
            "points_done": len(done),
            "failed": len(failed),
            "at_edge": bool(edge & {*best.c_x, *best.c_eps}),
            "best": {"jaq": value_of(done[best], options.k)},
            "summary": surface.summary(options.k, sum(candidate.is_pair for candidate in failed)),
            "stability": surface.stability(prompts=len(options.prompts), k=options.k),
            "k": options.k,
            "seeds": list(range(options.seed, options.seed + options.seeds)),
            **(cost or {}),
        },
    )


def surface_of(options: SearchOptions, done: Mapping[Candidate, Scores]) -> Surface:
    """The finished points of the grid; the other cells have no score."""
    surface = Surface.empty(options.axis, options.axis, options.images, prompts=len(options.prompts))
    for candidate, scores in done.items():
        record(surface, candidate, scores)
    return surface


def record(surface: Surface, candidate: Candidate, scores: Scores) -> None:
    """Enter a candidate, if it is a point of the grid and did not fail."""
    c_x, c_eps = candidate.c_x[0], candidate.c_eps[0]
    if candidate.is_pair and scores.alignment and c_x in surface.c_x and c_eps in surface.c_eps:
        surface.record(surface.c_eps.index(c_eps), surface.c_x.index(c_x), scores.alignment, scores.quality)


_storages: Remembered[optuna.storages.RDBStorage] = Remembered(4)
_found: Remembered[SavedSearch] = Remembered(1000)
_presets: Remembered[Preset] = Remembered(50)


def _opened(storage: str) -> optuna.storages.RDBStorage:
    """A storage to read from, kept open for as long as its file is the same."""
    url = sqlalchemy.make_url(storage)
    file = (
        os.stat(url.database)
        if url.get_backend_name() == "sqlite" and os.path.exists(url.database or "")
        else None
    )
    return _storages.get((storage, file and (file.st_dev, file.st_ino)), lambda: open_storage(storage))


def _state(storage: str, study: optuna.Study, about: Mapping[str, Any]) -> tuple:
    """Changes whenever something that was read from a study may have: a finished trial never changes. The
    trials are counted where they are stored, since reading those of one study takes a hundred times longer.
    """
    trials = sqlalchemy.table("trials", *map(sqlalchemy.column, ("study_id", "state", "trial_id")))
    query = (
        sqlalchemy.select(trials.c.state, sqlalchemy.func.count(), sqlalchemy.func.max(trials.c.trial_id))
        .where(trials.c.study_id == study._study_id)
        .group_by(trials.c.state)
    )
    with _opened(storage).engine.connect() as connection:
        counts = sorted(tuple(row) for row in connection.execute(query) if row[0] in ("COMPLETE", "FAIL"))
    return storage, study.study_name, json.dumps(about, sort_keys=True), *counts


def _saved(study: optuna.Study, about: Mapping[str, Any]) -> SavedSearch:
    options, done = _options(about), finished(study)
    strategy = strategy_of(options)
    best = strategy.best(done)
    value = None if best is None else value_of(done[best], options.k)
    return SavedSearch(
        study.study_name, about["backbone"], options, len(done), len(done) + strategy.missing(done),
        None if best is None else (best, value), about["provenance"]["date"], about.get("source"),
    )  # fmt: skip


def _about(backbone: Backbone, options: SearchOptions) -> dict[str, Any]:
    """Everything a preset needs to know besides the scores; JSON friendly."""
    scorer = backbone.scorer()
    backbone.use(options.steps)
    return {
        "backbone": backbone.spec.id,
        "revision": backbone.revision,
        "source": backbone.spec.chosen,
        "options": asdict(options) | {"bits": asdict(options.quantization)},
        "provenance": {
            "scorer": {"name": scorer.name, "definition": scorer.definition},
            "jaq": jaq_definition(scorer),
            **made_with(backbone, options.quantization, options.steps),
            "versions": versions(optuna=optuna.__version__),
        },
    }


def _options(about: Mapping[str, Any]) -> SearchOptions:
    options = dict(about["options"])
    return SearchOptions(
        **options
        | {
            "bits": Quantization(**options["bits"]),
            "prompts": tuple(options["prompts"]),
            "c_range": tuple(options["c_range"]),
        }
    )
