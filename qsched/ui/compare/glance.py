"""All bit-widths at a glance: the same prompt and seed at each, naive above Q-Sched."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape

import gradio as gr

from qsched.comparison.result import Column, Comparison
from qsched.comparison.thumbnail import data_uri
from qsched.server.sessions import Session
from qsched.settings import MAIN_BITS
from qsched.ui import fragments
from qsched.words import size, steps_in_words

HEADING = (
    '<h3>All bit-widths</h3><p class="fine">The same prompt and seed at each: naive above, Q-Sched with the '
    "best known coefficients below.</p>"
)


@dataclass
class Glance:
    """The widgets: a button, and per bit-width a card and a button that goes there."""

    show: gr.Button
    about: gr.HTML
    row: gr.Row
    reference: gr.HTML
    cards: dict[str, gr.HTML]
    go: dict[str, gr.Button]

    @property
    def outputs(self) -> list[gr.components.Component]:
        """Outputs of `cards`."""
        return [self.about, self.row, self.reference, *self.cards.values()]


def build_glance() -> Glance:
    """Lay it out, empty."""
    cards, go = {}, {}
    with gr.Column(elem_classes=["q-card", "q-later"]):
        with gr.Row(elem_classes="card-head"):
            gr.HTML(HEADING, elem_classes="plain")
            show = gr.Button("Show", elem_id="glance", size="md", scale=0, min_width=80)
        about = gr.HTML("", elem_id="glance-about", elem_classes="plain")
        with gr.Row(visible=False, elem_id="glance-row", elem_classes="q-glance") as row:
            with gr.Column(min_width=100):
                reference = gr.HTML(elem_classes="plain")
            for bits in MAIN_BITS:
                with gr.Column(min_width=100):
                    cards[bits] = gr.HTML(elem_id=f"glance-{bits}", elem_classes="plain")
                    go[bits] = gr.Button(f"Go to {bits.upper()}", elem_id=f"go-{bits}", size="sm")
    return Glance(show, about, row, reference, cards, go)


def cards(
    glance: Glance, held: Session, found: Iterator[tuple[str, Comparison]], known: Callable
) -> Iterator[dict]:
    """Outputs for each bit-width as its images come.

    Args:
        found: bit-widths with what was made at them.
        known: of a comparison's settings, whether best coefficients are known for them.
    """
    settings, full = held.comparison.settings, held.comparison.full_precision
    about = f"“{settings.prompt}”, seed {settings.seed}, {steps_in_words(settings.steps)}, k = {held.k:g}"
    yield {
        glance.about: f'<p class="fine" role="status">{escape(about)}</p>',
        glance.row: gr.update(visible=True),
        glance.reference: _card("Full precision", size(full.stored_bytes), [_image(full, held.k)]),
    } | {card: "" for card in glance.cards.values()}
    for bits, comparison in found:
        naive, qsched = comparison.naive, comparison.qsched
        images = [_image(naive, held.k), _image(qsched, held.k, naive)]
        if not known(comparison.settings):
            images[1] = '<p class="fine">No best coefficients are known.</p>'
        yield {glance.cards[bits]: _card(bits.upper(), size(naive.stored_bytes), images)}


def _card(title: str, stored: str, images: list[str]) -> str:
    return f'<div class="glance"><b>{escape(title)}</b><span>{stored}</span>{"".join(images)}</div>'


def _image(column: Column, k: float, naive: Column | None = None) -> str:
    title, text = fragments.TITLES[column.name], ""
    if column.scored:
        text = f"JAQ {column.jaq(k):.3f}"
        if naive is not None and naive.scored:
            difference = column.jaq_difference(naive, k)
            text += f" <b class={fragments.judged_tone(difference)}>{fragments.signed(difference)}</b>"
    return (
        f'<figure><img alt="{escape(title)}" src="{data_uri(column.image)}">'
        f"<figcaption>{text}</figcaption></figure>"
    )
