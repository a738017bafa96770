"""The path: what each step believed the finished image to be, a row per image and a column per step."""

from html import escape

from qsched.comparison.result import Column, Comparison
from qsched.comparison.thumbnail import data_uri
from qsched.ui.fragments import KEYS, TITLES

HEADING = (
    '<h3>Path</h3><p class="fine">What each step believes the finished image to be. The coefficients bend '
    "the path of the quantized model back.</p>"
)


def fixed_rows(comparison: Comparison) -> str:
    """The rows that no coefficient changes, below the steps' names; "" where the decoder is too slow."""
    if not comparison.naive.path:
        return ""
    names = "".join(
        f'<span class="step" title="timestep {time:g}">step {index + 1}</span>'
        for index, time in enumerate(comparison.facts.timesteps)
    )
    return _grid("<i></i>" + names + _row(comparison.full_precision) + _row(comparison.naive), comparison)


def qsched_row(comparison: Comparison) -> str:
    """The row that a drag changes, with the coefficients of each step below."""
    if not comparison.qsched.path:
        return ""
    return _grid(_row(comparison.qsched) + "<i></i>" + _coefficients(comparison), comparison)


def _grid(cells: str, comparison: Comparison) -> str:
    steps = comparison.settings.steps
    return f'<div class="path" style="--steps: {steps}" role="group" aria-label="Path">{cells}</div>'


def _row(column: Column) -> str:
    title, key = TITLES[column.name], KEYS[column.name]
    images = "".join(
        f'<img data-path="{key}" alt="{escape(title)} after step {index + 1}" src="{data_uri(image)}">'
        for index, image in enumerate(column.path)
    )
    return f'<b class="{key}"><i></i>{escape(title)}</b>{images}'


def _coefficients(comparison: Comparison) -> str:
    each_step = comparison.coefficients.expand(comparison.settings.steps)
    rows = zip(*(row.tolist() for row in each_step), strict=True)
    return "".join(
        f'<span class="step">c<sub>x</sub> {c_x:.3g}<br>c<sub>ε</sub> {c_eps:.3g}</span>'
        for c_x, c_eps in rows
    )
