"""The loss surface as an image that can be clicked, and redrawn while a slider moves.

matplotlib (object-oriented, Agg, no pyplot) renders everything but the current point once; that image is
kept. A new current point is then painted over a copy with PIL, which takes about a millisecond instead of a
tenth of a second. Cells have whole numbers of pixels, so the way back from a click to a cell is exact.
"""

import threading
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from qsched.plots.current import draw_current
from qsched.plots.geometry import SurfaceImage, multiple_of
from qsched.plots.look import CURRENT, DPI, LOOKS, SIZE, Look, fainter, label, scale, ticks
from qsched.plots.noise import hatch, outline
from qsched.plots.working import WorkingCell, draw_working
from qsched.scoring import JAQ_DEFINITION, K_DEFAULT
from qsched.surfaces.remembering import Remembered
from qsched.surfaces.surface import Surface

MARGINS = (128, 148, 138, 92)  # left, top, right, bottom of the cells at the default width


def surface_figure(
    surface: Surface,
    current: tuple[float, float] | None = None,
    k: float = K_DEFAULT,
    dark: bool = False,
    size: tuple[int, int] = SIZE,
    note: str = "",
    formula: str = JAQ_DEFINITION,
    noise: bool = True,
    modelled: np.ndarray | None = None,
    alongside: np.ndarray | None = None,
    working: Sequence[WorkingCell] = (),
) -> SurfaceImage:
    """The surface as a heatmap of JAQ with the optimum, the plain scheduler (1, 1) and the current point.

    Cells that do not differ significantly from the plain scheduler's are hatched, and the cells that hold 95
    % of the optima of resampled prompts are outlined (see `qsched.surfaces.uncertainty` and
    `qsched.surfaces.stability`).

    Args:
        surface: may have failed or not yet computed cells, which are grey; best and plain need a score to be
            marked.
        current: (c_x, c_eps) of the sliders, clipped to the edge when outside; None or NaN draws no such
            mark.
        k: weight of the quality term.
        dark: light letters on a dark page.
        size: of the image in pixels, (width, height), at least (420, 360).
        note: second line of the title, such as the scorer's name and the number of prompts.
        formula: of JAQ in the scorer's own terms.
        noise: False leaves hatching and outline out, as for a surface that is still being computed; so does
            one image per cell.
        modelled: JAQ that a model predicts, shape (len(c_eps), len(c_x)); painted fainter where no score was
            computed.
        alongside: JAQ of another surface whose image shares this one's colours.
        working: cells that are being computed.
    Raises:
        ValueError: if the size is too small for the grid.
    """
    k, dark = float(k), bool(dark)

    def render() -> SurfaceImage:
        with _matplotlib_lock:
            return _render(surface, k, LOOKS[dark], size, note, formula, noise, modelled, alongside)

    others = (None if values is None else values.tobytes() for values in (modelled, alongside))
    base = _bases.get((surface.digest(), k, dark, tuple(size), note, formula, noise, *others), render)
    image, unit = base.image.copy(), size[0] / SIZE[0]
    if working:
        look = LOOKS[dark]
        draw_working(image, base, working, _colouring(surface.jaq(k), alongside, look)[:2], look, unit)
    if current is not None and not np.isnan(current).any():
        draw_current(image, base, base.value_to_xy(*current), unit)
    return SurfaceImage(image, base.box, base.c_x, base.c_eps)


_bases: Remembered[SurfaceImage] = Remembered(32)  # everything but the current point, of 1.9 MB each
_matplotlib_lock = threading.Lock()  # matplotlib is not thread-safe


def _render(
    surface: Surface,
    k: float,
    look: Look,
    size: tuple[int, int],
    note: str,
    formula: str,
    noise: bool,
    modelled: np.ndarray | None,
    alongside: np.ndarray | None,
) -> SurfaceImage:
    (width, height), unit, values = size, size[0] / SIZE[0], surface.jaq(k)
    left, top, right, bottom = (round(margin * unit) for margin in MARGINS)
    box_width = multiple_of(width - left - right, len(surface.c_x))
    box_height = multiple_of(height - top - bottom, len(surface.c_eps))
    drawn = SurfaceImage(
        Image.new("RGB", (1, 1)), (left, top, box_width, box_height), surface.c_x, surface.c_eps
    )

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=look.background)
    canvas = FigureCanvasAgg(figure)
    pixels = lambda x, y, w, h: (x / width, 1 - (y + h) / height, w / width, h / height)
    points = lambda px: px * unit * 72 / DPI

    # one axes over the whole image in pixel coordinates carries marks and letters: no layout can move them
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), zorder=2)
    page.set_axis_off()
    write = lambda x, y, text, px, **style: page.text(
        x, y, text, fontsize=points(px), **{"color": look.text, "ha": "center", "va": "center"} | style
    )
    norm, colours, extend = _colouring(values, alongside, look)
    cells = figure.add_axes(pixels(left, top, box_width, box_height))
    # here, not in imshow, which rounds on the way
    painted = colours(norm(np.ma.masked_invalid(values)), bytes=True)
    if modelled is not None:
        guessed = np.isnan(values) & np.isfinite(modelled)
        painted[guessed] = fainter(colours(norm(modelled[guessed]), bytes=True), look)
    cells.imshow(painted, origin="lower", aspect="auto", interpolation="nearest")
    cells.set_axis_off()

    edge_x, edge_y = left - 1, top + box_height + 1
    # a round cap would reach into a cell
    stroke = dict(color=look.muted, linewidth=points(2), solid_capstyle="butt")
    for tick in ticks(surface.c_x):
        x = drawn.value_to_xy(tick, surface.c_eps[0])[0]
        page.plot((x, x), (edge_y, edge_y + 7 * unit), **stroke)
        write(x, edge_y + 24 * unit, label(tick), 23)
    for tick in ticks(surface.c_eps):
        y = drawn.value_to_xy(surface.c_x[0], tick)[1]
        page.plot((edge_x, edge_x - 7 * unit), (y, y), **stroke)
        write(edge_x - 13 * unit, y, label(tick), 23, ha="right")
    write(left + box_width / 2, top + box_height + 62 * unit, r"$c_x$  scales the noisy image", 26)
    write(26 * unit, top + box_height / 2, r"$c_\epsilon$  scales the prediction", 26, rotation=90)
    write(width / 2, 30 * unit, f"{formula.replace(' * ', ' · ')},  k = {k:g}", 29, weight="bold")
    if note:
        write(width / 2, 70 * unit, note, min(23, 1380 / len(note)), color=look.muted)

    bar = figure.add_axes(pixels(left + box_width + round(26 * unit), top, round(26 * unit), box_height))
    colorbar = figure.colorbar(ScalarMappable(norm, colours), cax=bar, extend=extend, extendfrac=0.04)
    colorbar.outline.set_visible(False)
    bar.tick_params(labelsize=points(23), colors=look.text, length=0, pad=6 * unit)
    bar.yaxis.get_major_locator().set_params(nbins=6)
    bar.yaxis.set_visible(bool(np.isfinite(values).any()))

    handles = _marks(page, drawn, surface, values, k, look, points, modelled is not None)
    if noise and surface.images > 1 and np.isfinite(values).any():
        handles += hatch(page, drawn, surface, painted, k, look, points)
        handles += outline(page, drawn, surface, k, look, points)
    page.legend(
        handles=handles,
        loc="center",
        bbox_to_anchor=(0.5, 1 - 112 * unit / height),
        ncols=len(handles),
        frameon=False,
        fontsize=points(24 if len(handles) < 5 else 21),
        labelcolor=look.text,
        handletextpad=0.3,
        columnspacing=1.3 if len(handles) < 5 else 0.8,
        handlelength=1.3,
    )
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return SurfaceImage(image, drawn.box, drawn.c_x, drawn.c_eps)


def _colouring(
    values: np.ndarray, alongside: np.ndarray | None, look: Look
) -> tuple[Normalize, Colormap, str]:
    return scale(values if alongside is None else np.append(values, alongside), look.failed)


def _marks(
    page: Axes,
    drawn: SurfaceImage,
    surface: Surface,
    values: np.ndarray,
    k: float,
    look: Look,
    points: Callable[[float], float],
    modelled: bool,
) -> list[Artist]:
    """Mark optimum and plain scheduler; return the legend's entries."""
    entry = lambda label, **style: Line2D([], [], linestyle="none", label=label, **style)
    common = dict(markerfacecolor=look.mark, markeredgecolor=look.edge, markeredgewidth=points(2.5))
    handles = []
    if np.isfinite(values).any():
        c_x, c_eps, value = surface.best(k)
        style = dict(marker="*", markersize=points(32), **common)
        page.plot(*([axis] for axis in drawn.value_to_xy(c_x, c_eps)), **style, zorder=4)
        handles.append(entry(f"best {value:.3f}", **style))
    if (plain := surface.plain()) is not None:
        style = dict(marker="s", markersize=points(15), **common)
        page.plot(*([axis] for axis in drawn.value_to_xy(1.0, 1.0)), **style, zorder=3)
        sign = "" if (surface.c_eps[plain[0]], surface.c_x[plain[1]]) == (1.0, 1.0) else "≈ "
        handles.append(entry(f"plain {sign}{values[plain]:.3f}", **style))
    ring = dict(marker="o", markersize=points(24), markerfacecolor="none", markeredgecolor=CURRENT)
    handles.append(entry("current", markeredgewidth=points(4), **ring))
    if modelled:
        faint = fainter(np.array([[33, 144, 141, 255]], np.uint8), look)[0] / 255
        handles.append(entry("faint: modelled", marker="s", markersize=points(22), color=tuple(faint)))
    elif not np.isfinite(values).all():
        handles.append(entry("no score", marker="s", markersize=points(22), color=look.failed))
    return handles
