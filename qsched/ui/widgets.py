"""Widgets made from the table of settings."""

from typing import Any

import gradio as gr

from qsched.settings import Setting


def widget(kind: type[gr.components.Component], setting: Setting, **options: Any) -> gr.components.Component:
    """A widget for a setting, with its label, default, choices and range; options: of `kind`, in place of
    those.
    """
    facts: dict[str, Any] = {
        "value": setting.default,
        "label": setting.label,
        "elem_id": setting.name.replace("_", "-"),
    }
    if setting.choices and kind in (gr.Dropdown, gr.Radio):
        facts["choices"] = [(label, value) for value, label in setting.choices.items()]
    if kind is gr.Radio:
        facts["elem_classes"] = "segments"
    if kind is gr.Slider:
        facts |= {"minimum": setting.low, "maximum": setting.high}
    if setting.step is not None and kind in (gr.Slider, gr.Number):
        facts["step"] = setting.step
    return kind(**facts | options)
