"""The right column: three images, the wipe, the score table, the surface, the downloads."""

from dataclasses import dataclass

import gradio as gr
from PIL.Image import Image

from qsched.comparison.result import FULL_PRECISION, NAIVE, QSCHED, Comparison
from qsched.presets import Preset
from qsched.settings import K
from qsched.ui import fragments
from qsched.ui.compare import path
from qsched.ui.compare.gallery import build_gallery
from qsched.ui.compare.glance import Glance, build_glance
from qsched.ui.images import image_box, shown
from qsched.ui.widgets import widget

NAMES = (FULL_PRECISION, NAIVE, QSCHED)
PAIRS = [(fragments.TITLES[name], name) for name in NAMES]

ON_MAP = "window.qsched.map(element, trigger, watch)"


@dataclass
class Results:
    """The widgets of the right column; images and captions in the order of NAMES."""

    images: list[gr.Image]
    captions: list[gr.HTML]
    waiting: gr.HTML
    notes: gr.HTML
    verdict: gr.HTML
    path: gr.HTML
    qsched_path: gr.HTML
    play: gr.Button
    gallery: gr.HTML | None
    glance: Glance
    scores: gr.HTML
    definition: gr.HTML
    k: gr.Slider
    surface: gr.HTML
    stability: gr.HTML
    legend: gr.HTML
    around: gr.Button
    no_surface: gr.HTML
    sweep: gr.Accordion
    sweep_image: gr.Image
    sweep_open: gr.State
    left: gr.Dropdown
    right: gr.Dropdown
    wipe: gr.ImageSlider
    save_images: gr.Button
    save_record: gr.Button
    save_card: gr.Button
    copy_script: gr.Button
    script: gr.HTML
    card_file: gr.DownloadButton
    images_file: gr.DownloadButton
    record_file: gr.DownloadButton

    @property
    def map(self) -> list[gr.components.Component]:
        """What belongs to the surface."""
        return [self.surface, self.legend, self.stability, self.no_surface, self.sweep]

    @property
    def qsched(self) -> list[gr.components.Component]:
        """What a drag changes."""
        return [self.images[2], self.captions[2], self.verdict, self.qsched_path, self.scores]


def build_results(backbone: str) -> Results:
    """Lay out the right column, empty; backbone: whose gallery is shown."""
    images, captions = [], []
    with gr.Row(elem_classes="q-images"):
        for name in NAMES:
            with gr.Column(min_width=90, elem_classes=["q-card", "q-image", fragments.KEYS[name]]):
                gr.HTML(fragments.column_title(name), elem_classes="plain")
                images.append(
                    image_box(f"image-{fragments.KEYS[name]}", fragments.TITLES[name], "shown",
                        buttons=["fullscreen"])
                )  # fmt: skip
                captions.append(gr.HTML(elem_id=f"caption-{fragments.KEYS[name]}", elem_classes="plain"))
        waiting = gr.HTML("<p aria-hidden=true></p>", elem_id="waiting", elem_classes="plain")
    notes = gr.HTML("", elem_id="notes", elem_classes="plain")
    with gr.Column(elem_classes="q-card"):
        verdict = gr.HTML(elem_id="verdict", elem_classes="plain")
        with gr.Row(elem_classes="card-head"):
            gr.HTML(path.HEADING, elem_classes="plain")
            play = gr.Button("Play", elem_id="play", size="md", scale=0, min_width=80)
        with gr.Column(elem_id="path"):  # two parts: a drag need not send the first again
            fixed_rows = gr.HTML(elem_classes="plain")
            qsched_row = gr.HTML(elem_classes="plain")
    with gr.Column(elem_classes="q-card"):
        scores = gr.HTML(elem_id="scores", elem_classes="plain")
        with gr.Row(elem_classes="under-scores"):
            definition = gr.HTML(elem_id="definition", elem_classes="plain")
            save_images = gr.Button(
                "Save images", elem_id="download-images", size="md", scale=0, min_width=120
            )
            save_record = gr.Button("Save JSON", elem_id="download-record", size="md", scale=0, min_width=100)
            save_card = gr.Button("Save card", elem_id="download-card", size="md", scale=0, min_width=100)
            copy_script = gr.Button("Copy script", elem_id="copy-script", size="md", scale=0, min_width=110)
        script = gr.HTML("", elem_id="script", elem_classes=["plain", "code"])
        images_file = gr.DownloadButton("Images as a zip", visible="hidden", elem_id="images-file")
        card_file = gr.DownloadButton("Card as a PNG", visible="hidden", elem_id="card-file")
        record_file = gr.DownloadButton("Record as JSON", visible="hidden", elem_id="record-file")
    with gr.Row(elem_classes="q-below"):
        with gr.Column(elem_classes="q-card", min_width=300, scale=8):
            with gr.Row(elem_classes="card-head"):
                gr.HTML("<h3>Loss surface</h3>", elem_classes="plain")
                around = gr.Button("Map this point", elem_id="around", size="md", scale=0, min_width=180)
            legend = gr.HTML("", elem_id="legend", elem_classes="plain")
            k = widget(
                gr.Slider,
                K,
                label="k, weight of the quality in JAQ",
                info="Weighs stored scores: makes no image.",
                buttons=[],
            )
            surface = gr.HTML("", elem_id="surface", elem_classes="plain", js_on_load=ON_MAP)
            no_surface = gr.HTML("", elem_id="no-surface", elem_classes="plain", visible=False)
            stability = gr.HTML("", elem_id="stability", elem_classes="plain")
            with gr.Accordion(
                "k sweep: how the optimum moves with k", open=False, elem_id="k-sweep"
            ) as sweep:
                sweep_image = image_box("k-sweep-image", "k sweep")
            sweep_open = gr.State(False)
        with gr.Column(elem_classes="q-card", min_width=240, scale=5):
            gr.HTML(
                '<h3>Wipe</h3><p class="fine">Drag the handle across two images.</p>', elem_classes="plain"
            )
            with gr.Row(elem_classes="q-pair"):
                left = gr.Dropdown(PAIRS, value=NAIVE, label="Left", elem_id="wipe-left", min_width=110)
                right = gr.Dropdown(PAIRS, value=QSCHED, label="Right", elem_id="wipe-right", min_width=110)
            wipe = gr.ImageSlider(
                format="png",
                type="filepath",
                interactive=False,
                show_label=False,
                container=False,
                buttons=[],
                elem_id="wipe",
                label="Wipe",
            )
    gallery = build_gallery(backbone)
    glance = build_glance()
    return Results(
        images,
        captions,
        waiting,
        notes,
        verdict,
        fixed_rows,
        qsched_row,
        play,
        gallery,
        glance,
        scores,
        definition,
        k,
        surface,
        stability,
        legend,
        around,
        no_surface,
        sweep,
        sweep_image,
        sweep_open,
        left,
        right,
        wipe,
        save_images,
        save_record,
        save_card,
        copy_script,
        script,
        card_file,
        images_file,
        record_file,
    )


def all_columns(results: Results, comparison: Comparison, k: float, preset: Preset | None) -> dict:
    """Outputs for all three images and everything below them that speaks of them."""
    updates: dict = {
        results.notes: fragments.notes(comparison.notes),
        results.path: path.fixed_rows(comparison),
        results.qsched_path: path.qsched_row(comparison),
    } | judged(results, comparison, k, preset)
    for image, text, column in zip(results.images, results.captions, comparison.columns, strict=True):
        updates |= {image: shown(column.image), text: fragments.caption(column)}
    return updates


def judged(results: Results, comparison: Comparison, k: float, preset: Preset | None) -> dict:
    """Outputs for the numbers."""
    return {
        results.verdict: fragments.verdict(comparison, k, preset),
        results.scores: fragments.scores(comparison, k),
    }


def third_column(results: Results, comparison: Comparison, k: float, preset: Preset | None) -> dict:
    """Outputs for the Q-Sched image alone."""
    column = comparison.qsched
    return {
        results.images[2]: shown(column.image),
        results.captions[2]: fragments.caption(column),
        results.qsched_path: path.qsched_row(comparison),
    } | judged(results, comparison, k, preset)


def drafted(results: Results, image: Image) -> dict:
    """Outputs for a Q-Sched image that the full decoder will draw anew; the scores stay those of the last
    such one.
    """
    return {results.images[2]: shown(image), results.captions[2]: fragments.DRAFT}


def wiped(comparison: Comparison, left: str, right: str) -> tuple[str, str]:
    """The two images of the wipe, as files."""
    columns = {column.name: column for column in comparison.columns}
    for name in (left, right):
        if name not in columns:
            raise ValueError(f"There is no image called {name!r}; choose {', '.join(NAMES)}.")
    return shown(columns[left].image), shown(columns[right].image)
