"""What scripts and agents (MCP) can call: what the page does, answered with numbers and files."""

import inspect
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr
from PIL.Image import Image

from qsched import settings as table
from qsched.comparison.given import settings_of
from qsched.comparison.record import record
from qsched.sampling.coefficients import Coefficients
from qsched.server.engine import Engine, named
from qsched.server.known import SOURCE as SEPARATOR
from qsched.server.search_runner import Runner
from qsched.server.searches import Searches
from qsched.settings import Setting
from qsched.ui.compare.links import nothing_known
from qsched.ui.images import drawn
from qsched.ui.search.export_files import scheduler_file
from qsched.ui.visitors import CHOOSE_SOURCE, require_local

NAMES = ("full_precision", "naive", "qsched")
"""Of the images, as `python -m qsched generate` names its files."""
NAMED = replace(table.BACKBONE, choices={})
"""As records name it: with "@" and a source, where that is not its own."""
ADVANCED = (
    table.METHOD,
    table.SOURCE,
    table.DECODER,
    table.GROUP_SIZE,
    table.ACTIVATION_SCALE,
    table.SCOPE,
    table.KEEP,
)


def public_compare(engine: Engine) -> Callable[..., dict]:
    """The endpoint /compare of an engine."""

    def compare(given: dict[str, Any], request: gr.Request | None) -> dict[str, Any]:
        settings, k, source = settings_of(given), given["k"], given["source"]
        backbone = named(given["backbone"], source)
        if SEPARATOR in backbone:
            require_local(request, CHOOSE_SOURCE)
        coefficients = _coefficients(given) or engine.start(backbone, settings, k)
        visit = f"api-{uuid.uuid4().hex}"
        try:
            comparison = engine.compare(visit, backbone, settings, coefficients)
        finally:
            engine.forget(visit)
        images = {name: _image(column.image) for name, column in zip(NAMES, comparison.columns, strict=True)}
        return record(comparison, k) | {"images": images}

    return _described(
        compare,
        "Compare full precision, naive quantization and Q-Sched on one prompt; answers with everything that "
        "reproduces it, its scores, and the images. Coefficients that are left empty are the best known.",
        {
            table.PROMPT: ...,
            table.BITS: "w4a8",
            table.SEED: 0,
            table.STEPS: 4,
            table.C_X: None,
            table.C_EPS: None,
            NAMED: engine.default,
            table.K: 2.0,
        }
        | {setting: setting.default for setting in ADVANCED},
    )


def public_export(engine: Engine) -> Callable[..., dict]:
    """The endpoint /export of an engine."""

    def export(given: dict[str, Any], request: gr.Request | None) -> dict[str, Any]:
        settings = settings_of(given)
        preset = engine.preset(given["backbone"], settings.quantization, settings.steps)
        if preset is None:
            raise ValueError(nothing_known(settings))
        return {
            "coefficients": preset.coefficients.to_dict(),
            "shape": preset.shape,
            "held_out": (preset.held_out or {}).get("differences"),
            "scheduler": _file(scheduler_file(preset, engine)),
        }

    return _described(
        export,
        "The best known coefficients c_x and c_eps for a bit-width and a step count, with a zip that holds a "
        "drop-in diffusers scheduler and the code that uses it.",
        {table.BITS: "w4a8", table.STEPS: 4, NAMED: engine.default}
        | {s: s.default for s in (table.METHOD, table.GROUP_SIZE)},
    )


def public_searches(store: Searches, runner: Runner) -> Callable[[], list]:
    """The endpoint /searches of a page's saved searches."""

    def searches() -> list[dict[str, Any]]:
        """All searches for coefficients, the latest first: what is searched, how far each is, its best point,
        and whether it is running."""
        running = runner.running()
        return [
            {
                "name": search.name,
                "backbone": search.backbone,
                "bits": search.options.quantization.bits,
                "steps": search.options.steps,
                "strategy": search.options.strategy,
                "done": search.done,
                "total": search.total,
                "best": search.best and {"c_x": search.best[0].c_x, "c_eps": search.best[0].c_eps},
                "jaq": search.best and search.best[1],
                "begun": search.begun,
                "running": bool(running and running.name == search.name),
            }
            for search in store.list()
        ]

    return searches


def _described(endpoint: Callable, what: str, parameters: dict[Setting, Any]) -> Callable[..., dict]:
    """An endpoint with named, typed and described parameters, as gradio and MCP clients show them.

    Args:
        endpoint: is called with the values by name, and the request.
        parameters: setting -> default, ... for none.
    """

    def call(*values: Any, **named_values: Any) -> dict[str, Any]:
        bound = signature.bind(*values, **named_values)
        request, given = bound.arguments.pop("request", None), bound.arguments
        for setting, default in parameters.items():
            value = given.get(setting.name)
            left_empty = "" if default is ... else default
            given[setting.name] = left_empty if value is None else setting.check(value)
        return endpoint(given, request)

    how = inspect.Parameter.POSITIONAL_OR_KEYWORD
    made = [
        inspect.Parameter(
            setting.name,
            how,
            default=inspect.Parameter.empty if default is ... else default,
            annotation=list[float] | None if setting.kind is tuple else setting.kind,
        )
        for setting, default in parameters.items()
    ]
    made.append(inspect.Parameter("request", how, default=None, annotation=gr.Request | None))
    signature = call.__signature__ = inspect.Signature(made, return_annotation=dict[str, Any])
    call.__annotations__ = {p.name: p.annotation for p in made} | {"return": dict[str, Any]}
    call.__name__ = endpoint.__name__
    call.__doc__ = "\n".join(
        [what, "", "Args:", *(f"    {setting.name}: {setting.help}" for setting in parameters)]
    )
    return call


def _coefficients(given: dict[str, Any]) -> Coefficients | None:
    """What is given for c_x and c_eps, None for nothing; one that is missing is 1."""
    rows = []
    for setting in (table.C_X, table.C_EPS):
        numbers = given[setting.name]
        rows.append(1.0 if not numbers else numbers[0] if len(numbers) == 1 else numbers)
    return Coefficients(*rows) if given["c_x"] or given["c_eps"] else None


def _image(image: Image) -> dict[str, Any]:
    return _file(drawn(image))


def _file(path: str) -> dict[str, Any]:
    """A file that gradio serves and its client downloads."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}}
