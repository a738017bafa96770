"""The left column of the Search tab: what is searched, and how its widgets become SearchOptions."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from qsched.comparison.comparison import Settings
from qsched.models.registry import SPECS
from qsched.models.spec import BackboneSpec
from qsched.prompts.builtin import builtin_prompts, choose_prompts
from qsched.prompts.files import SUFFIXES, read_prompts
from qsched.search.options import STRATEGIES, SearchOptions, grid
from qsched.server.engine import SOURCE, Engine
from qsched.ui import values
from qsched.ui.compare.controls import Controls

BUILT_IN, OWN, FILE = "built-in", "own", "file"
SOURCES = [("Built-in", BUILT_IN), ("Own text", OWN), ("File", FILE)]
TITLES = {
    "exhaustive": "Exhaustive",
    "shared": "Shared",
    "adaptive": "Adaptive",
    "ends": "Two ends",
    "per-step": "Per step",
}
WIDEST = 51
"""Cells along a side: more are no image any more, and a matter for the command line."""


@dataclass
class SearchInputs:
    """The widgets of the left column."""

    backbone: gr.Dropdown
    bits: gr.Dropdown
    steps: gr.Dropdown
    quantizer: gr.HTML
    strategy: gr.Radio
    explanation: gr.HTML
    low: gr.Number
    high: gr.Number
    resolution: gr.Number
    shape: gr.Radio
    decoder: gr.Checkbox
    seeds: gr.Number
    k: gr.Number
    source: gr.Radio
    count: gr.Number
    text: gr.Textbox
    file: gr.File
    plan: gr.HTML
    cost: gr.Button
    start: gr.Button
    stop: gr.Button

    def settings(self, controls: Controls) -> list[gr.components.Component]:
        """Inputs of `options_from`; the quantizer's advanced options are those of Compare."""
        own = [
            self.backbone,
            self.bits,
            self.steps,
            self.strategy,
            self.low,
            self.high,
            self.resolution,
            self.shape,
        ]
        own += [self.seeds, self.k, self.source, self.count, self.text, self.file]
        return [*own, *controls.quantization[1:], self.decoder]


def build_inputs(settings: Settings, backbone: str) -> SearchInputs:
    """Lay out the left column for what a first visitor looks at."""
    spec = _spec(backbone)
    with gr.Column(elem_classes="q-card"):
        backbones = gr.Dropdown(
            backbone_choices(backbone), value=backbone, label="Backbone", elem_id="search-backbone"
        )
        with gr.Row(elem_classes="q-pair"):
            bits = gr.Dropdown(
                values.bits_choices(), value=settings.quantization.bits, label="Bit-width",
                elem_id="search-bits",
                scale=3, min_width=120,
            )  # fmt: skip
            steps = gr.Dropdown(
                values.steps_choices(spec), value=settings.steps, label="Steps", elem_id="search-steps",
                scale=2, min_width=90,
            )  # fmt: skip
        quantizer = gr.HTML("", elem_id="search-quantizer", elem_classes="plain")
        strategy = gr.Radio(
            [(TITLES[name], name) for name in STRATEGIES], value="adaptive", label="Strategy",
            elem_id="search-strategy",
            elem_classes="segments",
        )  # fmt: skip
        explanation = gr.HTML(
            explained_strategy("adaptive"), elem_id="search-explanation", elem_classes="plain"
        )
        with gr.Row(elem_classes="q-pair"):
            low = _number(0.8, "Lowest", "search-range-low", step=0.01)
            high = _number(1.2, "Highest", "search-range-high", step=0.01)
            resolution = _number(11, "Values each", "search-resolution", precision=0)
        shape = gr.Radio(
            [("Ramp to 1", "ramp"), ("Constant", "constant")], value="ramp", label="Shape over the steps",
            elem_id="search-shape", elem_classes="segments",
        )  # fmt: skip
        decoder = gr.Checkbox(
            False,
            label="Tiny decoder: faster, and scores are of its images",
            elem_id="search-decoder",
            visible=False,
        )
        source = gr.Radio(
            SOURCES, value=BUILT_IN, label="Prompts", elem_id="search-prompts", elem_classes="segments"
        )
        count = _number(25, _how_many(backbone), "search-prompt-count", precision=0)
        text = gr.Textbox(
            "", label="One prompt per line", placeholder="a red fox\na house by the sea", lines=4,
            max_lines=10,
            elem_id="search-prompt-text", visible=False,
        )  # fmt: skip
        file = gr.File(
            label="Text (one per line), CSV, TSV, JSON or YAML", file_types=list(SUFFIXES), height=110,
            elem_id="search-prompt-file", visible=False,
        )  # fmt: skip
        with gr.Row(elem_classes="q-pair"):
            seeds = _number(1, "Seeds per prompt", "search-seeds", precision=0)
            k = _number(SearchOptions.k, "k in JAQ", "search-k", step=0.1)
        plan = gr.HTML("", elem_id="search-plan", elem_classes="plain")
        with gr.Row(elem_classes="q-pair"):
            start = gr.Button("Start", variant="primary", elem_id="search-start", min_width=80, size="md")
            stop = gr.Button("Stop", elem_id="search-stop", min_width=80, size="md", interactive=False)
        cost = gr.Button("What will it cost?", elem_id="search-cost", size="md")
    return SearchInputs(
        backbones, bits, steps, quantizer, strategy, explanation, low, high, resolution, shape, decoder,
        seeds, k, source,
        count, text, file, plan, cost, start, stop,
    )  # fmt: skip


def options_from(
    engine: Engine, backbone, bits, steps, strategy, low, high, resolution, shape, seeds, k, source, count,
    text, file,
    group, scale, scope, keep, method="plain", tiny=False,
) -> tuple[str, SearchOptions]:  # fmt: skip
    """(backbone, options) from the widgets' values.

    Raises:
        ValueError: one sentence about the first thing that is wrong.
    """
    spec = engine.spec(backbone)
    low, high = _real(low, "The lowest coefficient"), _real(high, "The highest coefficient")
    side = _integer(resolution, "The number of values per coefficient", 2, WIDEST)
    grid(low, high, side)
    if low < values.LOW or high > values.HIGH:
        raise ValueError(
            f"The range must lie between {values.LOW} and {values.HIGH}, where Compare can show "
            f"what is found."
        )
    return backbone, SearchOptions(
        values.quantization_from(bits, group, scale, scope, keep, method),
        prompts_from(spec.family, source, count, text, file),
        _integer(steps, "The number of steps", 1, 1000),
        0,
        _integer(seeds, "The number of seeds per prompt", 1, 100),
        (low, high),
        side,
        shape,
        _real(k, "k"),
        strategy,
        bool(tiny),
    )


def prompts_from(family: str, source: str, count: Any, text: str | None, file: str | None) -> list[str]:
    """The prompts of a search.

    Raises:
        ValueError: one sentence, if there are none.
    """
    if source == BUILT_IN:
        most = len(builtin_prompts(family, "calibration"))
        return choose_prompts(
            _integer(count, "The number of built-in prompts", 1, most), family, "calibration"
        )
    if source == OWN:
        lines = (" ".join(line.split()) for line in (text or "").splitlines())
        prompts = list(dict.fromkeys(line for line in lines if line))
        if not prompts:
            raise ValueError("Write at least one prompt, one per line.")
        return prompts
    if not file:
        raise ValueError("Choose a file of prompts first: text with one per line, YAML or JSON.")
    try:
        return read_prompts(file)
    except ValueError as error:
        raise ValueError(str(error).replace(str(file), Path(file).name)) from None


def shown_source(inputs: SearchInputs, source: str) -> dict:
    """Outputs that show the widget of a source of prompts and hide the others."""
    shown = {inputs.count: BUILT_IN, inputs.text: OWN, inputs.file: FILE}
    return {widget: gr.update(visible=source == name) for widget, name in shown.items()}


def filled(inputs: SearchInputs, backbone: str, settings: Settings, tiny: bool = False) -> dict:
    """Outputs that take over what Compare looks at; backbone: as the engine names it, so perhaps from another
    source.

    tiny: whether it has a small decoder.
    """
    return {
        inputs.backbone: gr.update(choices=backbone_choices(backbone), value=backbone),
        inputs.decoder: gr.update(visible=tiny, value=tiny and settings.tiny_decoder),
        inputs.bits: settings.quantization.bits,
        inputs.steps: gr.update(choices=values.steps_choices(_spec(backbone)), value=settings.steps),
        inputs.count: gr.update(label=_how_many(backbone)),
    }


def backbone_choices(backbone: str) -> list[tuple[str, str]]:
    """(label, value) of every backbone, and of the one that Compare has from another source."""
    _, _, source = backbone.partition(SOURCE)
    choices = [(spec.title, spec.id) for spec in SPECS.values()]
    return [*choices, (f"{_spec(backbone).title} from {source}", backbone)] if source else choices


def _spec(backbone: str) -> BackboneSpec:
    return SPECS[backbone.partition(SOURCE)[0]]


def explained_strategy(strategy: str) -> str:
    """What a strategy does, in one line."""
    return f'<p class="fine">{STRATEGIES[strategy][:1].upper() + STRATEGIES[strategy][1:]}.</p>'


EXPLAIN = "(name) => ({0})[name]"
"""JavaScript that shows a strategy's explanation without asking the server; {0} is a table of them."""


def _how_many(backbone: str) -> str:
    return (
        f"How many of the {len(builtin_prompts(_spec(backbone).family, 'calibration'))} calibration prompts"
    )


def _number(value: float, label: str, elem_id: str, **options: Any) -> gr.Number:
    return gr.Number(value, label=label, elem_id=elem_id, min_width=70, **options)


def _real(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number.")
    return float(value)


def _integer(value: Any, name: str, low: int, high: int) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value != int(value)
    ):
        raise ValueError(f"{name} must be a whole number.")
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high}, not {int(value)}.")
    return int(value)
