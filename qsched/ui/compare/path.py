"""The path: what each step believed the finished image to be, a row per image and a column per step."""

from html import escape

from qsched.comparison.comparison import Column, Comparison
from qsched.comparison.thumbnail import data_uri
from qsched.ui.fragments import KEYS, TITLES

HEADING = (
    '<h3>Path</h3><p class="fine">What each step believes the finished image to be. The coefficients bend '
    "the path of the quantized model back.</p>"
)


def strip(comparison: Comparison) -> str:
    """All rows, with the coefficients of each step below; "" where the decoder is too slow to draw them."""
    if not comparison.qsched.path:
        return ""
    steps = len(comparison.qsched.path)
    noise = "".join(
        f'<span class="step" title="timestep {time:g}">step {index + 1}</span>'
        for index, time in enumerate(comparison.facts.timesteps)
    )
    rows = "".join(_row(column) for column in comparison.columns)
    return (
        f'<div class="path" style="--steps: {steps}" role="group" aria-label="Path">'
        f"<i></i>{noise}{rows}<i></i>{_coefficients(comparison, steps)}</div>"
    )


def _row(column: Column) -> str:
    title, key = TITLES[column.name], KEYS[column.name]
    images = "".join(
        f'<img data-path="{key}" alt="{escape(title)} after step {index + 1}" src="{data_uri(image)}">'
        for index, image in enumerate(column.path)
    )
    return f'<b class="{key}"><i></i>{escape(title)}</b>{images}'


def _coefficients(comparison: Comparison, steps: int) -> str:
    rows = zip(*(row.tolist() for row in comparison.coefficients.expand(steps)), strict=True)
    return "".join(
        f'<span class="step">c<sub>x</sub> {c_x:.3g}<br>c<sub>ε</sub> {c_eps:.3g}</span>'
        for c_x, c_eps in rows
    )
