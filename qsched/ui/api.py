"""What scripts can call: one endpoint that does what the page does and answers with numbers."""

import inspect
import uuid
from collections.abc import Callable
from typing import Any

import gradio as gr
from PIL.Image import Image

from qsched.comparison.given import checked, settings_of
from qsched.comparison.record import record
from qsched.sampling.coefficients import Coefficients
from qsched.server.engine import SOURCE as SEPARATOR
from qsched.server.engine import Engine, named
from qsched.settings import (
    ACTIVATION_SCALE,
    BACKBONE,
    BITS,
    C_EPS,
    C_X,
    DECODER,
    GROUP_SIZE,
    KEEP,
    METHOD,
    PROMPT,
    SCOPE,
    SEED,
    SOURCE,
    STEPS,
    K,
)
from qsched.ui.images import drawn
from qsched.ui.visitors import CHOOSE_SOURCE, require_local

NAMES = ("full_precision", "naive", "qsched")
"""Of the images, as `python -m qsched generate` names its files."""
PARAMETERS = (
    PROMPT, BITS, SEED, STEPS, C_X, C_EPS, BACKBONE, K,
    METHOD, SOURCE, DECODER, GROUP_SIZE, ACTIVATION_SCALE, SCOPE, KEEP,
)  # fmt: skip
"""Of /compare, in this order."""


def public_compare(engine: Engine) -> Callable[..., dict]:
    """The endpoint /compare of an engine."""
    defaults = {"steps": 4, "backbone": engine.default}

    def compare(*values: Any, **named_values: Any) -> dict[str, Any]:
        given = compare.__signature__.bind(*values, **named_values).arguments
        given = {"steps": defaults["steps"]} | given
        settings, k, source = settings_of(given), checked(K, given), given.get("source", "")
        backbone = named(given.get("backbone", engine.default), source)
        if SEPARATOR in backbone:
            require_local(given.get("request"), CHOOSE_SOURCE)
        coefficients = _coefficients(given) or engine.start(backbone, settings, k)
        visit = f"api-{uuid.uuid4().hex}"
        try:
            comparison = engine.compare(visit, backbone, settings, coefficients)
        finally:
            engine.forget(visit)
        images = {name: _file(column.image) for name, column in zip(NAMES, comparison.columns, strict=True)}
        return record(comparison, k) | {"images": images}

    _describe(compare, defaults)
    return compare


def _describe(compare: Callable, defaults: dict[str, Any]) -> None:
    """Give the endpoint named parameters with types, defaults and descriptions, for gradio."""
    parameters = []
    for setting in PARAMETERS:
        kind = list[float] | None if setting.kind is tuple else setting.kind
        default = (
            inspect.Parameter.empty if setting is PROMPT else defaults.get(setting.name, setting.default)
        )
        how = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(inspect.Parameter(setting.name, how, default=default, annotation=kind))
    request = inspect.Parameter("request", how, default=None, annotation=gr.Request | None)
    compare.__signature__ = inspect.Signature([*parameters, request], return_annotation=dict[str, Any])
    compare.__annotations__ = {p.name: p.annotation for p in (*parameters, request)} | {
        "return": dict[str, Any]
    }
    compare.__doc__ = "\n".join([
        "Compare full precision, naive quantization and Q-Sched on one prompt; answers with everything that",
        "reproduces it, and with the images. Coefficients that are left empty are the best known.",
        "",
        "Args:",
        *(f"    {setting.name}: {setting.help}" for setting in PARAMETERS),
    ])  # fmt: skip


def _coefficients(given: dict[str, Any]) -> Coefficients | None:
    """What is given for c_x and c_eps, None for nothing; one that is missing is 1."""
    rows = []
    for setting in (C_X, C_EPS):
        numbers = given.get(setting.name) or ()
        numbers = setting.check([numbers] if isinstance(numbers, int | float) else numbers)
        rows.append(1.0 if not numbers else numbers[0] if len(numbers) == 1 else numbers)
    return Coefficients(*rows) if given.get("c_x") or given.get("c_eps") else None


def _file(image: Image) -> dict[str, Any]:
    """An image as a file that gradio serves and its client downloads."""
    return {"path": drawn(image), "meta": {"_type": "gradio.FileData"}}
