"""How the optimum moves with k, as an image: c_x, c_eps and the gain over plain, one above the other."""

import threading
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from qsched.plots.look import CURRENT, DPI, LOOKS
from qsched.scoring import JAQ_DEFINITION
from qsched.surfaces.remembering import Remembered
from qsched.surfaces.stability import KS, Sweep
from qsched.surfaces.surface import Surface

SWEEP_SIZE = (840, 900)  # pixels
LINE = {False: "#2f6fed", True: "#7aa5ff"}
_kept: Remembered["_Base"] = Remembered(16)
_matplotlib_lock = threading.Lock()


class _Base(NamedTuple):
    """Everything but the line at the k in use. panels: left, top, right, bottom of each in pixels."""

    image: Image.Image
    panels: list[tuple[float, float, float, float]]


def k_sweep_figure(
    surface: Surface,
    k: float | None = None,
    dark: bool = False,
    size: tuple[int, int] = SWEEP_SIZE,
    note: str = "",
    formula: str = JAQ_DEFINITION,
) -> Image.Image:
    """The best cell's c_x, c_eps and gain for every k from 0 to 5, from the stored scores.

    Args:
        surface: at least one cell must have a score.
        k: the one in use, marked by a line; None marks none.
        dark: light letters on a dark page.
        size: of the image in pixels, (width, height).
        note: second line of the title.
        formula: of JAQ in the scorer's own terms.
    Returns:
        PIL image, RGB.
    Raises:
        ValueError: if no cell has a score.
    """

    def render() -> _Base:
        with _matplotlib_lock:
            return _render(surface.k_sweep(), dark, size, note, formula)

    base = _kept.get((surface.digest(), dark, tuple(size), note, formula), render)
    image = base.image.copy()
    if k is not None and KS[0] <= k <= KS[-1]:
        draw, half = ImageDraw.Draw(image), max(1, round(size[0] / SWEEP_SIZE[0]))
        for left, top, right, bottom in base.panels:
            x = round(left + (right - left) * (k - KS[0]) / (KS[-1] - KS[0]))
            draw.rectangle((x - half, top, x + half, bottom), fill=CURRENT)
    return image


def _render(sweep: Sweep, dark: bool, size: tuple[int, int], note: str, formula: str) -> _Base:
    look, line = LOOKS[dark], LINE[dark]
    (width, height), unit = size, size[0] / SWEEP_SIZE[0]
    points = lambda px: px * unit * 72 / DPI
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=look.background)
    canvas = FigureCanvasAgg(figure)
    title = f"Optimum of {formula.removeprefix('JAQ = ').replace(' * ', ' · ')}"
    figure.text(0.5, 1 - 30 * unit / height, title, fontsize=points(29), weight="bold", color=look.text,
        ha="center", va="center")  # fmt: skip
    if note:
        figure.text(0.5, 1 - 70 * unit / height, note, fontsize=points(min(23, 1380 / len(note))),
            color=look.muted, ha="center", va="center")  # fmt: skip
    panels = figure.subplots(3, 1, sharex=True)
    figure.subplots_adjust(128 * unit / width, 88 * unit / height, 1 - 30 * unit / width,
        1 - 100 * unit / height, hspace=0.12)  # fmt: skip
    ks = np.asarray(sweep.ks)
    number = lambda values: np.array([np.nan if value is None else value for value in values])
    for panel, name, title in zip(
        panels, ("c_x", "c_eps"), (r"best $c_x$", r"best $c_\epsilon$"), strict=False
    ):
        low, high = number(getattr(sweep, f"{name}_low")), number(getattr(sweep, f"{name}_high"))
        panel.fill_between(
            ks, low, high, step="mid", color=line, alpha=0.22, linewidth=0, label="95 % of resamples"
        )
        panel.step(ks, getattr(sweep, name), where="mid", color=line, linewidth=points(4), label="best cell")
        panel.axhline(1.0, color=look.muted, linewidth=points(1.5), linestyle=(0, (2, 3)))
        panel.set_ylabel(title)
    gain = panels[2]
    gain.fill_between(ks, number(sweep.gain_low), number(sweep.gain_high), color=line, alpha=0.22,
        linewidth=0, label="95 % interval")  # fmt: skip
    gain.plot(ks, number(sweep.gain), color=line, linewidth=points(4), label="best cell")
    gain.plot(ks, number(sweep.gain_out_of_bag), color=look.text, linewidth=points(3), linestyle=(0, (4, 2)),
        label="on prompts not drawn")  # fmt: skip
    gain.axhline(0.0, color=look.muted, linewidth=points(1.5), linestyle=(0, (2, 3)))
    gain.set_ylabel("gain in JAQ")
    gain.set_xlabel("k, the weight of the quality")
    gain.set_xlim(ks[0], ks[-1])
    for panel in panels:
        _dress(panel, look, points)
    for panel in (panels[0], gain):
        panel.legend(frameon=False, fontsize=points(20), labelcolor=look.text, loc="best", handlelength=1.6)
    figure.align_ylabels(panels)
    canvas.draw()
    boxes = [panel.get_position() for panel in panels]
    return _Base(
        Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()),
        [(b.x0 * width, (1 - b.y1) * height, b.x1 * width, (1 - b.y0) * height) for b in boxes],
    )


def _dress(panel, look, points) -> None:
    """Ticks, letters and frame in the page's colours."""
    panel.set_facecolor(look.background)
    panel.tick_params(
        labelsize=points(22), colors=look.muted, labelcolor=look.text, width=points(2), length=points(7)
    )
    for side in (panel.xaxis, panel.yaxis):
        side.label.set(fontsize=points(25), color=look.text)
    panel.yaxis.get_major_locator().set_params(nbins=4)
    panel.margins(y=0.12)
    for name, spine in panel.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set(color=look.muted, linewidth=points(2))
