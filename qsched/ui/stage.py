"""What a talk adds to the page: the best known coefficients, which the tour moves the sliders to."""

import json

import gradio as gr

from qsched.server.engine import Engine
from qsched.ui import values
from qsched.ui.compare.tab import CompareTab
from qsched.ui.events import HIDDEN


def build_stage(engine: Engine, compare: CompareTab) -> None:
    """Add the hidden widget that tour.js reads, kept at what is shown."""
    goal = gr.HTML("", elem_id="tour-goal", elem_classes="plain")
    changes = [compare.results.captions[1].change, compare.results.geometry.change]

    def known(request: gr.Request) -> str:
        return best_known(engine, request.session_hash)

    gr.on(changes, known, None, goal, api_name="tour_goal", **HIDDEN)


def best_known(engine: Engine, session: str | None) -> str:
    """The best known coefficients of what a session shows, as the numbers of the sliders; "" without any."""
    held = engine.session(session)
    best = held and engine.best_known(held.backbone, held.comparison.settings, held.k)
    if not best:
        return ""
    steps = held.comparison.settings.steps
    used = sum(values.visible_sliders(best.shape, steps))
    c_x, c_eps = (row[:used] for row in values.sliders_from(best, steps, best.shape))
    return f"<i hidden data-best='{json.dumps({'shape': best.shape, 'c_x': c_x, 'c_eps': c_eps})}'></i>"
