"""The right column of the Search tab: progress, surface, the best, what can be done with it, and the saved
searches.
"""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from qsched.ui.images import image_box
from qsched.ui.search.fragments import IDLE, NOTHING


@dataclass
class SearchResults:
    """The widgets of the right column."""

    progress: gr.HTML
    notes: gr.HTML
    nothing: gr.HTML
    surface: gr.Image
    stability: gr.HTML
    best: gr.HTML
    image: gr.Image
    caption: gr.HTML
    use: gr.Button
    save: gr.Button
    export: gr.Button
    keep: gr.Button
    replacing: gr.Row
    question: gr.HTML
    replace: gr.Button
    cancel_replace: gr.Button
    push_box: gr.Accordion
    repo: gr.Textbox
    token: gr.Textbox
    private: gr.Checkbox
    dry_run: gr.Button
    push: gr.Button
    pushed: gr.HTML
    preset_file: gr.DownloadButton
    scheduler_file: gr.DownloadButton
    saved: gr.CheckboxGroup
    none_saved: gr.HTML
    delete: gr.Button
    deleting: gr.Row
    to_delete: gr.HTML
    confirm_delete: gr.Button
    cancel_delete: gr.Button
    compare: gr.Row
    sides: list[gr.Image]
    definitions: list[gr.HTML]
    scale: gr.HTML

    @property
    def live(self) -> list[gr.components.Component]:
        """What a search changes while it runs."""
        return [self.progress, self.notes, *self.looked]

    @property
    def looked(self) -> list[gr.components.Component]:
        """What belongs to the search that is shown."""
        return [self.nothing, self.surface, self.stability, self.best, self.image, self.caption, *self.takers]

    @property
    def takers(self) -> list[gr.components.Component]:
        """Buttons that need something to take."""
        return [self.use, self.save, self.export, self.keep, self.dry_run, self.push]

    @property
    def side_by_side(self) -> list:
        """The comparison of two saved searches."""
        return [self.compare, *self.sides, *self.definitions, self.scale]


def build_results() -> SearchResults:
    """Lay out the right column, empty."""
    with gr.Column(elem_classes="q-card"):
        progress = gr.HTML(IDLE, elem_id="search-progress", elem_classes="plain")
        notes = gr.HTML("", elem_id="search-notes", elem_classes="plain")
    with gr.Row(elem_classes="q-below"):
        with gr.Column(elem_classes="q-card", min_width=300, scale=8):
            gr.HTML(
                (
                    '<h3>Surface</h3><p class="fine">Fills while the search runs. Click a cell to '
                    "choose its coefficients.</p>"
                ),
                elem_classes="plain",
            )
            nothing = gr.HTML(NOTHING, elem_id="search-nothing", elem_classes="plain")
            surface = image_box("search-surface", "Surface of the search", "q-surface", visible=False)
            stability = gr.HTML("", elem_id="search-stability", elem_classes="plain")
        with gr.Column(elem_classes="q-card", min_width=240, scale=5):
            best = gr.HTML(
                '<h3>Best so far</h3><p class="fine">Nothing yet.</p>',
                elem_id="search-best",
                elem_classes="plain",
            )
            image = image_box(
                "search-best-image", "First prompt at the best coefficients", "shown", visible=False
            )
            caption = gr.HTML("", elem_id="search-caption", elem_classes="plain")
            use = _button("Use this in Compare", "search-use", variant="primary")
            with gr.Row(elem_classes=["q-pair", "q-files"]):
                save, export = (
                    _button("Save as preset", "search-save"),
                    _button("Export scheduler", "search-export"),
                )
            keep = _button("Keep as Compare's best known", "search-keep", elem_classes="local-only")
            with gr.Column(visible=False, elem_id="search-replacing", elem_classes="q-ask") as replacing:
                question = gr.HTML("", elem_classes="plain")
                with gr.Row(elem_classes="q-pair"):
                    replace = gr.Button(
                        "Replace it", elem_id="search-replace", variant="stop", min_width=80, size="md"
                    )
                    cancel_replace = gr.Button(
                        "Leave it", elem_id="search-replace-cancel", min_width=80, size="md"
                    )
            with gr.Accordion(
                "Push to Hub", open=False, elem_id="search-push-box", elem_classes="local-only"
            ) as push_box:
                repo = gr.Textbox(label="Repository", placeholder="OWNER/NAME", elem_id="search-repo")
                token = gr.Textbox(
                    label="Token that may write", placeholder="empty: this machine's login",
                    elem_id="search-token", max_lines=1,
                )  # fmt: skip
                private = gr.Checkbox(False, label="Private", elem_id="search-private")
                with gr.Row(elem_classes="q-pair"):
                    dry_run, push = _button("Dry run", "search-dry-run"), _button("Push", "search-push")
                pushed = gr.HTML("", elem_id="search-pushed", elem_classes="plain")
        preset_file = gr.DownloadButton("Preset", visible="hidden", elem_id="preset-file")
        scheduler_file = gr.DownloadButton("Scheduler", visible="hidden", elem_id="scheduler-file")
    with gr.Column(elem_classes=["q-card", "q-saved"]):
        gr.HTML(
            '<h3>Saved searches</h3><p class="fine">Every finished point is kept. Choose one to '
            "see it, two to compare them; "
            "Start with the same settings goes on where it was. Dates are UTC.</p>",
            elem_classes="plain",
        )
        saved = gr.CheckboxGroup(
            [], label="Saved searches", show_label=False, elem_id="search-saved", visible=False
        )
        none_saved = gr.HTML(
            '<p class="fine">None yet.</p>', elem_id="search-none-saved", elem_classes="plain"
        )
        delete = gr.Button("Delete", elem_id="search-delete", size="md", interactive=False)
        with gr.Column(visible=False, elem_id="search-deleting", elem_classes="q-ask") as deleting:
            to_delete = gr.HTML("", elem_classes="plain")
            with gr.Row(elem_classes="q-pair"):
                confirm_delete = gr.Button(
                    "Delete for good",
                    elem_id="search-delete-confirm",
                    variant="stop",
                    min_width=80,
                    size="md",
                )
                cancel_delete = gr.Button("Keep", elem_id="search-delete-cancel", min_width=80, size="md")
    with gr.Column(visible=False, elem_id="search-compare", elem_classes="q-card") as compare:
        scale = gr.HTML("", elem_classes="plain")
        sides, definitions = [], []
        with gr.Row(elem_classes="q-sides"):
            for side in ("left", "right"):
                with gr.Column(min_width=280):
                    sides.append(image_box(f"search-{side}", f"Surface on the {side}", "q-surface"))
                    definitions.append(gr.HTML("", elem_id=f"search-{side}-facts", elem_classes="plain"))
    return SearchResults(
        progress, notes, nothing, surface, stability, best, image, caption, use, save, export, keep,
        replacing, question, replace,
        cancel_replace, push_box, repo, token, private, dry_run, push, pushed, preset_file, scheduler_file,
        saved, none_saved,
        delete, deleting, to_delete, confirm_delete, cancel_delete, compare, sides, definitions, scale,
    )  # fmt: skip


def _button(text: str, elem_id: str, variant: str = "secondary", **options: Any) -> gr.Button:
    return gr.Button(
        text, elem_id=elem_id, variant=variant, interactive=False, min_width=80, size="md", **options
    )
