"""The left column of the Search tab: what is searched, and how its widgets become SearchOptions."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from qsched import settings as table
from qsched.comparison.given import checked, quantization_of
from qsched.comparison.result import Settings
from qsched.models.registry import SPECS
from qsched.models.spec import BackboneSpec
from qsched.prompts.builtin import builtin_prompts, choose_prompts
from qsched.prompts.files import SUFFIXES, read_prompts
from qsched.search.options import STRATEGIES, SearchOptions, grid
from qsched.server.engine import Engine
from qsched.server.known import SOURCE
from qsched.settings import Setting
from qsched.ui import values
from qsched.ui.widgets import widget

BUILT_IN, OWN, FILE = "built-in", "own", "file"
SOURCES = [("Built-in", BUILT_IN), ("Own text", OWN), ("File", FILE)]
PAGE_RESOLUTION = replace(table.RESOLUTION, high=51)
"""More cells along a side are no image any more, and a matter for the command line."""
PAGE_SEEDS = replace(table.SEEDS, high=100)
PROMPT_COUNT = Setting(
    "count",
    "How many",
    "how many of the built-in prompts",
    25,
    int,
    low=1,
    noun="The number of built-in prompts",
)


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

    @property
    def settings(self) -> dict[str, gr.components.Component]:
        """What `options_from` reads, by name; how else the denoiser is quantized is set in Compare."""
        names = (
            "backbone bits steps strategy low high resolution shape decoder seeds k source count text file"
        )
        return {name: getattr(self, name) for name in names.split()}


def build_inputs(settings: Settings, backbone: str) -> SearchInputs:
    """Lay out the left column for what a first visitor looks at."""
    spec = _spec(backbone)
    with gr.Column(elem_classes="q-card"):
        backbones = widget(
            gr.Dropdown,
            table.BACKBONE,
            choices=backbone_choices(backbone),
            value=backbone,
            elem_id="search-backbone",
        )
        with gr.Row(elem_classes="q-pair"):
            bits = widget(
                gr.Dropdown,
                table.BITS,
                value=settings.quantization.bits,
                elem_id="search-bits",
                scale=3,
                min_width=120,
            )
            steps = widget(
                gr.Dropdown,
                table.STEPS,
                choices=values.steps_choices(spec),
                value=settings.steps,
                elem_id="search-steps",
                scale=2,
                min_width=90,
            )
        quantizer = gr.HTML("", elem_id="search-quantizer", elem_classes="plain")
        strategy = widget(gr.Radio, table.STRATEGY, value="adaptive", elem_id="search-strategy")
        explanation = gr.HTML(
            explained_strategy("adaptive"), elem_id="search-explanation", elem_classes="plain"
        )
        number = partial(widget, gr.Number, min_width=70)
        with gr.Row(elem_classes="q-pair"):
            low = number(table.LOW, elem_id="search-range-low")
            high = number(table.HIGH, elem_id="search-range-high")
            resolution = number(table.RESOLUTION, elem_id="search-resolution", precision=0)
        shape = widget(gr.Radio, table.PAIR_SHAPE, elem_id="search-shape")
        decoder = gr.Checkbox(
            False,
            label="Tiny decoder: faster, and scores are of its images",
            elem_id="search-decoder",
            visible=False,
        )
        source = gr.Radio(
            SOURCES, value=BUILT_IN, label="Prompts", elem_id="search-prompts", elem_classes="segments"
        )
        count = number(PROMPT_COUNT, label=_how_many(backbone), elem_id="search-prompt-count", precision=0)
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
            seeds = number(table.SEEDS, elem_id="search-seeds", precision=0)
            k = number(table.K, label="k in JAQ", elem_id="search-k")
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


def options_from(engine: Engine, given: Mapping[str, Any]) -> tuple[str, SearchOptions]:
    """(backbone, options) from the values of `SearchTab.asked`, by name.

    Raises:
        ValueError: one sentence about the first thing that is wrong.
    """
    spec = engine.spec(given["backbone"])
    options = SearchOptions(
        quantization_of(given),
        prompts_from(spec.family, given),
        checked(table.STEPS, given),
        seeds=checked(PAGE_SEEDS, given),
        c_range=(checked(table.LOW, given), checked(table.HIGH, given)),
        resolution=checked(PAGE_RESOLUTION, given),
        shape=checked(table.PAIR_SHAPE, given),
        k=checked(table.K, given),
        strategy=checked(table.STRATEGY, given),
        tiny_decoder=bool(given["decoder"]),
    )
    grid(*options.c_range, options.resolution)
    return given["backbone"], options


def prompts_from(family: str, given: Mapping[str, Any]) -> list[str]:
    """The prompts of a search, from `source`, `count`, `text` and `file`.

    Raises:
        ValueError: one sentence, if there are none.
    """
    if given["source"] == BUILT_IN:
        most = len(builtin_prompts(family, "calibration"))
        return choose_prompts(replace(PROMPT_COUNT, high=most).check(given["count"]), family, "calibration")
    if given["source"] == OWN:
        lines = (" ".join(line.split()) for line in (given["text"] or "").splitlines())
        prompts = list(dict.fromkeys(line for line in lines if line))
        if not prompts:
            raise ValueError("Write at least one prompt, one per line.")
        return prompts
    file = given["file"]
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
