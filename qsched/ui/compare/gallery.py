"""The example gallery: held-out prompts where Q-Sched helps, changes nothing, or hurts."""

from html import escape

import gradio as gr

from qsched.comparison.result import OUTCOMES
from qsched.evaluation.gallery import Example, Gallery, load_gallery
from qsched.ui import fragments

TITLES = {"better": "Helps", "no difference": "No difference", "worse": "Hurts"}
ON_CLICK = """
const go = (event) => {
  const card = event.target.closest("[data-example]");
  if (card) trigger("select", { index: Number(card.dataset.example) });
};
element.addEventListener("click", go);
"""


def build_gallery(backbone: str) -> gr.HTML | None:
    """Lay out the gallery that ships for a backbone; nothing where there is none."""
    gallery = load_gallery(backbone)
    if gallery is None:
        return None
    with gr.Column(elem_classes=["q-card", "q-later"]):
        return gr.HTML(cards(gallery), elem_id="gallery", elem_classes="plain", js_on_load=ON_CLICK)


def cards(gallery: Gallery) -> str:
    """All examples with their numbers, by outcome."""
    total, index, groups = sum(gallery.counts.values()), 0, []
    for outcome in OUTCOMES:
        buttons = "".join(
            _card(example, number) for number, example in enumerate(gallery.examples[outcome], index)
        )
        index += len(gallery.examples[outcome])
        share = f"{gallery.counts[outcome]} of {total} prompts"
        title = f"<h4>{TITLES[outcome]} <span>{share}</span></h4>"
        groups.append(f"<section>{title}<div>{buttons}</div></section>")
    about = (
        f"Held-out prompts at {gallery.bits.upper()}, seed {gallery.seed}: naive on the left, Q-Sched on the "
        f"right, and the difference of JAQ. Of each outcome the examples in the middle, not the best."
    )
    return (
        f'<h3>Where it helps, and where not</h3><p class="fine">{about}</p>'
        f'<div class="outcomes">{"".join(groups)}</div>'
    )


def _card(example: Example, index: int) -> str:
    prompt, tone = escape(example.prompt), fragments.judged_tone(example.difference)
    images = "".join(
        f'<img alt="{name}: {prompt}" src="{escape(source)}">'
        for name, source in zip(("Naive", "Q-Sched"), example.images, strict=True)
    )
    return (
        f'<button type="button" data-example="{index}" title="{prompt}"><span>{images}</span>'
        f'<em>{prompt}</em><b class="{tone}">{fragments.signed(example.difference)}</b></button>'
    )
