"""The Fit button: coefficients by least squares for what is shown, and how much of the prediction error they
explain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import gradio as gr

from qsched.evaluation.closed_form import Fit
from qsched.server.fitting import fit_session
from qsched.ui.errors import reports_errors
from qsched.ui.events import QUIET
from qsched.words import steps_in_words

if TYPE_CHECKING:
    from qsched.ui.compare.tab import CompareTab


@dataclass
class FitWidgets:
    """button: beside "Best known". line: what the last fit explains."""

    button: gr.Button
    line: gr.HTML


def fit_button() -> gr.Button:
    """The button alone; it stands in a row with others."""
    return gr.Button("Fit", elem_id="fit", min_width=80, size="md")


def fit_line() -> gr.HTML:
    """Where the result is said, below the row."""
    return gr.HTML("", elem_id="fit-line", elem_classes="plain")


def wire_fit(tab: CompareTab, waits: dict) -> None:
    """Connect the button; what it said goes as soon as the naive image is another one.

    waits: how an event that computes is declared.
    """
    widgets, r = tab.controls.fit, tab.results

    def fit(request: gr.Request, dark: bool):
        """Fit to the session's prompt and settings, and go to the coefficients."""
        held = tab.held(request)
        found = fit_session(tab.engine, held)
        return tab.moved(found.coefficients, request, dark) | {widgets.line: explained(found)}

    widgets.button.click(reports_errors(fit), tab.dark, [*tab.placed, widgets.line], api_name="fit", **waits)
    r.images[1].change(None, None, widgets.line, js="() => ''", api_name="fit_gone", **QUIET)


def explained(found: Fit) -> str:
    """One sentence: the share of the squared prediction error that two scalars explain at each step."""
    shares = [f"{100 * max(0.0, step.explained('scalars')):.0f}" for step in found.steps]
    where = "" if len(shares) == 1 else f" of {steps_in_words(len(shares))}"
    return (
        f'<p class="fine" role="status">Least squares on this prompt: two scalars explain '
        f"<b>{' / '.join(shares)} %</b> of the squared prediction error at each{where}. Whether the image is "
        f"better for it, the scores say.</p>"
    )
