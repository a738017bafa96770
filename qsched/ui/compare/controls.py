"""The left column: what is generated, and the two coefficients."""

from dataclasses import dataclass

import gradio as gr

from qsched import settings as table
from qsched.comparison.result import Settings
from qsched.models.registry import SPECS
from qsched.sampling.coefficients import Coefficients
from qsched.ui import values
from qsched.ui.compare.fit import FitWidgets, fit_button, fit_line
from qsched.ui.widgets import widget


@dataclass
class Controls:
    """The widgets of the left column. c_x, c_eps: one slider per possible step; the first of each is always
    shown.
    """

    backbone: gr.Dropdown
    bits: gr.Dropdown
    steps: gr.Dropdown
    prompt: gr.Textbox
    examples: gr.Dataset
    seed: gr.Number
    dice: gr.Button
    generate: gr.Button
    shape: gr.Radio
    c_x: list[gr.Slider]
    c_eps: list[gr.Slider]
    hint: gr.HTML
    best: gr.Button
    fit: FitWidgets
    reset: gr.Button
    share: gr.Button
    group_size: gr.Dropdown
    activation_scale: gr.Radio
    scope: gr.Radio
    keep: gr.Checkbox
    method: gr.Dropdown
    device: gr.HTML
    download_note: gr.HTML
    download: gr.Button
    source: gr.Textbox
    use_source: gr.Button
    decoder: gr.Radio
    drafts: gr.Checkbox
    refine: gr.Button
    state: gr.HTML
    sync: gr.Button
    search: gr.Button
    advanced: gr.Accordion

    @property
    def quantization(self) -> dict[str, gr.components.Component]:
        """The widgets of how the denoiser is quantized, by the names of their settings."""
        return {setting.name: getattr(self, setting.name) for setting in table.QUANTIZATION}

    @property
    def settings(self) -> dict[str, gr.components.Component]:
        """Everything that decides the first two images, likewise."""
        own = (table.BACKBONE, table.PROMPT, table.SEED, table.STEPS, table.SOURCE, table.DECODER)
        return {setting.name: getattr(self, setting.name) for setting in own} | self.quantization

    @property
    def sliders(self) -> list[gr.Slider]:
        """All sliders, c_x first."""
        return self.c_x + self.c_eps


def build_controls(settings: Settings, coefficients: Coefficients, backbone: str) -> Controls:
    """Lay out the left column with what a first visitor sees."""
    spec = SPECS[backbone]
    with gr.Column(elem_classes="q-card"):
        backbones = widget(gr.Dropdown, table.BACKBONE, value=backbone)
        download_note = gr.HTML("", elem_id="download-note", elem_classes="plain", visible=False)
        download = gr.Button(
            "Download", elem_id="download", elem_classes="local-only", size="md", visible=False
        )
        with gr.Row(elem_classes="q-pair"):
            bits = widget(gr.Dropdown, table.BITS, value=settings.quantization.bits, scale=3, min_width=120)
            steps = widget(
                gr.Dropdown,
                table.STEPS,
                choices=values.steps_choices(spec),
                value=settings.steps,
                scale=2,
                min_width=90,
            )
        prompt = widget(
            gr.Textbox,
            table.PROMPT,
            value=settings.prompt,
            placeholder="What should be drawn?",
            lines=1,
            max_lines=4,
        )
        examples = gr.Dataset(
            components=[prompt],
            **values.examples_shown(spec),
            label="Examples",
            show_label=False,
            elem_id="examples",
            samples_per_page=20,
        )
        with gr.Row(elem_classes="q-pair q-bottom"):
            seed = widget(gr.Number, table.SEED, value=settings.seed, scale=3, min_width=100)
            dice = gr.Button("Dice", elem_id="dice", elem_classes="dice", scale=1, min_width=64, size="md")
            generate = gr.Button(
                "Generate", variant="primary", elem_id="generate", scale=3, min_width=110, size="md"
            )
    with gr.Column(elem_classes="q-card"):
        gr.HTML(
            (
                '<h3>Coefficients</h3><p class="fine"><b>c<sub>x</sub></b> scales the noisy image, '
                "<b>c<sub>ε</sub></b> the prediction.</p>"
            ),
            elem_classes="plain",
        )
        shape = widget(gr.Radio, table.SHAPE)
        c_x, c_eps = _sliders(coefficients, settings.steps)
        hint = gr.HTML("", elem_id="hint", elem_classes="plain")
        search = gr.Button("Search for these settings", elem_id="search-these", size="md", visible=False)
        refine = gr.Button("Draw in full", elem_id="refine")  # the browser presses it, nobody sees it
        sync = gr.Button("Show the newest", elem_id="sync")  # likewise
        state = gr.HTML("", elem_id="state")
        with gr.Row(elem_classes="q-pair"):
            best = gr.Button("Best known", elem_id="best", min_width=80, size="md")
            fit = fit_button()
        with gr.Row(elem_classes="q-pair"):
            reset = gr.Button("Reset to 1", elem_id="reset", min_width=80, size="md")
            share = gr.Button("Copy link", elem_id="share", min_width=80, size="md")
        fit = FitWidgets(fit, fit_line())
    with gr.Accordion("Advanced", open=False, elem_id="advanced", elem_classes="q-card") as advanced:
        method = widget(
            gr.Dropdown, table.METHOD, choices=values.method_choices(), info=values.method_note() or None
        )
        group_size = widget(gr.Dropdown, table.GROUP_SIZE)
        activation_scale = widget(gr.Radio, table.ACTIVATION_SCALE)
        scope = widget(gr.Radio, table.SCOPE)
        keep = widget(gr.Checkbox, table.KEEP)
        decoder = widget(
            gr.Radio, table.DECODER, info="Tiny: faster, less detail; in all three images.", visible=False
        )
        drafts = gr.Checkbox(
            True,
            label="Tiny decoder while dragging",
            info="The full one draws the image as soon as you stop.",
            elem_id="drafts",
            visible=False,
        )
        with gr.Row(elem_classes=["q-pair", "q-bottom", "local-only"]):
            source = widget(
                gr.Textbox,
                table.SOURCE,
                info=(
                    "A folder on this machine or a Hub id of the same family, such as a fine-tune; "
                    "empty: its own."
                ),
                placeholder="folder or OWNER/NAME",
                lines=1,
                scale=3,
                min_width=140,
            )
            use_source = gr.Button("Load", elem_id="load-source", size="md", scale=1, min_width=70)
    device = gr.HTML("", elem_id="device", elem_classes="plain")
    return Controls(
        backbones,
        bits,
        steps,
        prompt,
        examples,
        seed,
        dice,
        generate,
        shape,
        c_x,
        c_eps,
        hint,
        best,
        fit,
        reset,
        share,
        group_size,
        activation_scale,
        scope,
        keep,
        method,
        device,
        download_note,
        download,
        source,
        use_source,
        decoder,
        drafts,
        refine,
        state,
        sync,
        search,
        advanced,
    )


def _sliders(coefficients: Coefficients, steps: int) -> tuple[list[gr.Slider], list[gr.Slider]]:
    shape = coefficients.shape
    rows = values.sliders_from(coefficients, steps, shape)
    shown = values.visible_sliders(shape, steps)
    made: list[list[gr.Slider]] = [[], []]
    for which, setting in enumerate((table.C_X, table.C_EPS)):
        with gr.Column(elem_classes=["sliders", setting.name], min_width=120):
            for index in range(table.MOST_STEPS):
                made[which].append(
                    widget(
                        gr.Slider,
                        setting,
                        minimum=values.LOW,
                        maximum=values.HIGH,
                        value=rows[which][index],
                        label=values.slider_label(setting.label, index, shape),
                        visible=shown[index],
                        interactive=True,
                        elem_id=setting.name if index == 0 else f"{setting.name}-{index + 1}",
                        buttons=[],
                    )
                )
    return made[0], made[1]


def slider_updates(controls: Controls, coefficients: Coefficients, shape: str, steps: int) -> dict:
    """Outputs that make the shape and the sliders show these coefficients."""
    updates: dict = {controls.shape: gr.update(value=shape), controls.hint: ""}
    shown = values.visible_sliders(shape, steps)
    for setting, row, numbers in zip(
        (table.C_X, table.C_EPS),
        (controls.c_x, controls.c_eps),
        values.sliders_from(coefficients, steps, shape),
        strict=True,
    ):
        for index, slider in enumerate(row):
            label = values.slider_label(setting.label, index, shape)
            low, high = values.slider_range(numbers[index])
            updates[slider] = gr.update(
                value=numbers[index], visible=shown[index], label=label, minimum=low, maximum=high
            )
    return updates
