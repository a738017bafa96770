"""The loss surface as a picture that can be clicked, and redrawn while a slider moves.

matplotlib (object-oriented, Agg, no pyplot) renders everything but the current point once; that picture is kept. A new
current point is then painted over a copy with PIL, which takes about a millisecond instead of a tenth of a second.
Cells have whole numbers of pixels, so the way back from a click to a cell is exact.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw

from qsched.scoring import JAQ_DEFINITION, K_DEFAULT
from qsched.surface import Surface

SIZE = (840, 720)  # pixels; at 390 px of a phone's width the smallest letters are still 10 px high
DPI = 100
MARGINS = (128, 148, 138, 92)  # left, top, right, bottom of the cells at the default width
CURRENT, CURRENT_EDGE = "#ff5a1f", "#ffffff"
MIN_SPAN = 0.02  # JAQ from one end of the colours to the other, so that rounding is not painted as a landscape
KEPT_BASES = 32  # of 1.8 MB each


@dataclass(frozen=True)
class _Look:
    """Colours of one variant; the backgrounds are Gradio's page colours."""

    background: str
    text: str
    muted: str
    failed: str
    mark: str
    edge: str


_LOOKS = {
    False: _Look("#ffffff", "#111827", "#4b5563", "#d1d5db", "#ffffff", "#111827"),
    True: _Look("#0b0f19", "#f3f4f6", "#a3adbd", "#374151", "#ffffff", "#0b0f19"),
}


@dataclass(frozen=True)
class SurfaceImage:
    """A rendered surface and the map between its pixels and its cells.

    Attributes:
        image: PIL image, RGB.
        box: left, top, width, height of the cells in pixels.
        c_x, c_eps: the grid's axes, columns from the left and rows from the bottom.
    """

    image: Image.Image
    box: tuple[int, int, int, int]
    c_x: tuple[float, ...]
    c_eps: tuple[float, ...]

    def to_cell(self, x_px: float, y_px: float) -> tuple[int, int] | None:
        """The cell (i, j) under a pixel, i over c_eps and j over c_x; None on the margins."""
        left, top, width, height = self.box
        x, y = x_px - left, y_px - top
        if not (0 <= x < width and 0 <= y < height):
            return None
        return len(self.c_eps) - 1 - int(y * len(self.c_eps) // height), int(x * len(self.c_x) // width)

    def cell_to_xy(self, i: int, j: int) -> tuple[float, float]:
        """The centre of a cell in pixels."""
        return self._position(j, i)

    def value_to_xy(self, c_x: float, c_eps: float) -> tuple[float, float]:
        """Where a point lies in pixels, between the cells' centres; outside the grid: the nearest edge."""
        return self._position(_index(self.c_x, c_x), _index(self.c_eps, c_eps))

    def _position(self, column: float, row: float) -> tuple[float, float]:
        left, top, width, height = self.box
        x = left + (column + 0.5) * width / len(self.c_x)
        y = top + height - (row + 0.5) * height / len(self.c_eps)
        return min(max(x, left), left + width - 1.0), min(max(y, top), top + height - 1.0)


def surface_figure(
    surface: Surface,
    current: tuple[float, float] | None = None,
    k: float = K_DEFAULT,
    dark: bool = False,
    size: tuple[int, int] = SIZE,
    note: str = "",
) -> SurfaceImage:
    """The surface as a heatmap of JAQ with the optimum, the plain scheduler (1, 1) and the current point.

    Args:
        surface: may have failed or not yet computed cells, which are grey; best and plain need a score to be marked.
        current: (c_x, c_eps) of the sliders, clipped to the edge when outside; None or NaN draws no such mark.
        k: weight of the quality term.
        dark: light letters on a dark page.
        size: of the picture in pixels, (width, height), at least (420, 360).
        note: second line of the title, such as the scorer's name and the number of prompts.
    Raises:
        ValueError: if the size is too small for the grid.
    """
    base = _base(surface, float(k), bool(dark), size, note)
    image = base.image.copy()
    if current is not None and not np.isnan(current).any():
        _draw_current(image, base, base.value_to_xy(*current), size[0] / SIZE[0])
    return SurfaceImage(image, base.box, base.c_x, base.c_eps)


_bases: OrderedDict[tuple, SurfaceImage] = OrderedDict()
_bases_lock, _matplotlib_lock = threading.Lock(), threading.Lock()  # two: no slider waits for another's rendering


def _base(surface: Surface, k: float, dark: bool, size: tuple[int, int], note: str) -> SurfaceImage:
    """Everything but the current point, from memory if this surface was drawn before (known by its values)."""
    values = surface.jaq(k)
    key = (values.tobytes(), surface.c_x, surface.c_eps, k, dark, tuple(size), note)
    with _bases_lock:
        if base := _bases.pop(key, None):
            _bases[key] = base
            return base
    with _matplotlib_lock:
        base = _render(surface, values, k, _LOOKS[dark], size, note)
    with _bases_lock:
        _bases[key] = base
        while len(_bases) > KEPT_BASES:
            _bases.popitem(last=False)
    return base


def _render(
    surface: Surface, values: np.ndarray, k: float, look: _Look, size: tuple[int, int], note: str
) -> SurfaceImage:
    (width, height), unit = size, size[0] / SIZE[0]
    left, top, right, bottom = (round(margin * unit) for margin in MARGINS)
    box_width = _whole(width - left - right, len(surface.c_x))
    box_height = _whole(height - top - bottom, len(surface.c_eps))
    drawn = SurfaceImage(Image.new("RGB", (1, 1)), (left, top, box_width, box_height), surface.c_x, surface.c_eps)

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=look.background)
    canvas = FigureCanvasAgg(figure)
    pixels = lambda x, y, w, h: (x / width, 1 - (y + h) / height, w / width, h / height)
    points = lambda px: px * unit * 72 / DPI

    # one axes over the whole picture in pixel coordinates carries marks and letters: no layout can move them
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), zorder=2)
    page.set_axis_off()
    write = lambda x, y, text, px, **style: page.text(
        x, y, text, fontsize=points(px), **{"color": look.text, "ha": "center", "va": "center"} | style
    )
    norm, colours, extend = _scale(values, look.failed)
    cells = figure.add_axes(pixels(left, top, box_width, box_height))
    painted = colours(norm(np.ma.masked_invalid(values)), bytes=True)  # here, not in imshow, which rounds on the way
    cells.imshow(painted, origin="lower", aspect="auto", interpolation="nearest")
    cells.set_axis_off()

    edge_x, edge_y = left - 1, top + box_height + 1
    stroke = dict(color=look.muted, linewidth=points(2), solid_capstyle="butt")  # a round cap would reach into a cell
    for tick in _ticks(surface.c_x):
        x = drawn.value_to_xy(tick, surface.c_eps[0])[0]
        page.plot((x, x), (edge_y, edge_y + 7 * unit), **stroke)
        write(x, edge_y + 24 * unit, _label(tick), 23)
    for tick in _ticks(surface.c_eps):
        y = drawn.value_to_xy(surface.c_x[0], tick)[1]
        page.plot((edge_x, edge_x - 7 * unit), (y, y), **stroke)
        write(edge_x - 13 * unit, y, _label(tick), 23, ha="right")
    write(left + box_width / 2, top + box_height + 62 * unit, r"$c_x$  scales the noisy image", 26)
    write(26 * unit, top + box_height / 2, r"$c_\epsilon$  scales the prediction", 26, rotation=90)
    write(width / 2, 30 * unit, f"{JAQ_DEFINITION.replace(' * ', ' · ')},  k = {k:g}", 29, weight="bold")
    if note:
        write(width / 2, 70 * unit, note, min(23, 1380 / len(note)), color=look.muted)

    bar = figure.add_axes(pixels(left + box_width + round(26 * unit), top, round(26 * unit), box_height))
    colorbar = figure.colorbar(ScalarMappable(norm, colours), cax=bar, extend=extend, extendfrac=0.04)
    colorbar.outline.set_visible(False)
    bar.tick_params(labelsize=points(23), colors=look.text, length=0, pad=6 * unit)
    bar.yaxis.get_major_locator().set_params(nbins=6)
    bar.yaxis.set_visible(bool(np.isfinite(values).any()))

    handles = _marks(page, drawn, surface, values, k, look, points)
    page.legend(
        handles=handles,
        loc="center",
        bbox_to_anchor=(0.5, 1 - 112 * unit / height),
        ncols=len(handles),
        frameon=False,
        fontsize=points(24),
        labelcolor=look.text,
        handletextpad=0.35,
        columnspacing=1.3,
        handlelength=1.4,
    )
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return SurfaceImage(image, drawn.box, drawn.c_x, drawn.c_eps)


def _marks(
    page: Axes,
    drawn: SurfaceImage,
    surface: Surface,
    values: np.ndarray,
    k: float,
    look: _Look,
    points: Callable[[float], float],
) -> list[Line2D]:
    """Mark optimum and plain scheduler; return the legend's entries."""
    entry = lambda label, **style: Line2D([], [], linestyle="none", label=label, **style)
    common = dict(markerfacecolor=look.mark, markeredgecolor=look.edge, markeredgewidth=points(2.5))
    handles = []
    if np.isfinite(values).any():
        c_x, c_eps, value = surface.best(k)
        style = dict(marker="*", markersize=points(32), **common)
        page.plot(*([axis] for axis in drawn.value_to_xy(c_x, c_eps)), **style, zorder=4)
        handles.append(entry(f"best {value:.3f}", **style))
    if surface.covers(1.0, 1.0) and np.isfinite(plain := values[surface.nearest(1.0, 1.0)]):
        style = dict(marker="s", markersize=points(15), **common)
        page.plot(*([axis] for axis in drawn.value_to_xy(1.0, 1.0)), **style, zorder=3)
        i, j = surface.nearest(1.0, 1.0)
        sign = "" if (surface.c_eps[i], surface.c_x[j]) == (1.0, 1.0) else "≈ "
        handles.append(entry(f"plain {sign}{plain:.3f}", **style))
    ring = dict(marker="o", markersize=points(24), markerfacecolor="none", markeredgecolor=CURRENT)
    handles.append(entry("current", markeredgewidth=points(4), **ring))
    if not np.isfinite(values).all():
        handles.append(entry("no score", marker="s", markersize=points(22), color=look.failed))
    return handles


def _draw_current(image: Image.Image, drawn: SurfaceImage, xy: tuple[float, float], unit: float) -> None:
    """Paint crosshair and ring into the picture; the crosshair stays within the cells."""
    left, top, width, height = drawn.box
    right, low = left + width - 1, top + height - 1
    x, y = (int(value) for value in xy)
    gap, core, rim = round(20 * unit), round(unit), max(1, round(unit))
    draw = ImageDraw.Draw(image)
    for spread, colour in ((core + rim, CURRENT_EDGE), (core, CURRENT)):
        rows, columns = (max(y - spread, top), min(y + spread, low)), (max(x - spread, left), min(x + spread, right))
        for a, b in ((left, x - gap), (x + gap, right)):
            if a <= b:
                draw.rectangle((a, rows[0], b, rows[1]), fill=colour)
        for a, b in ((top, y - gap), (y + gap, low)):
            if a <= b:
                draw.rectangle((columns[0], a, columns[1], b), fill=colour)
    ring = _ring(unit)
    image.paste(ring, (x - ring.width // 2, y - ring.height // 2), ring)


@cache
def _ring(unit: float) -> Image.Image:
    """An antialiased ring as RGBA with an odd side, drawn at four times its size."""
    fine = 4
    side = 2 * round(24 * unit) + 1
    image = Image.new("RGBA", (side * fine, side * fine), (255, 255, 255, 0))
    draw = ImageDraw.Draw(image)
    for inset, thickness, colour in ((2, 8, CURRENT_EDGE), (4, 4, CURRENT)):
        edge = inset * unit * fine
        box = (edge, edge, side * fine - 1 - edge, side * fine - 1 - edge)
        draw.ellipse(box, outline=colour, width=round(thickness * unit * fine))
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _scale(values: np.ndarray, failed: str) -> tuple[Normalize, Colormap, str]:
    """Colour scale of the finite values, and which end of it is open ("min" or "neither").

    Collapsed cells far below the rest would leave one colour to all others, so the scale may start above them: at three
    times the distance from best to median.
    """
    finite = values[np.isfinite(values)]
    colours = colormaps["viridis"].with_extremes(bad=failed)
    if not finite.size:
        return Normalize(0, 1), colours, "neither"
    high, low = float(finite.max()), float(finite.min())
    floor = high - 3 * (high - float(np.median(finite)))
    clipped = low < floor < high
    low = floor if clipped else low
    spare = max(0.0, MIN_SPAN - (high - low)) / 2
    return Normalize(low - spare, high + spare), colours, "min" if clipped else "neither"


def _ticks(axis: tuple[float, ...]) -> list[float]:
    """At most seven round values within an axis, or the one value it has."""
    if len(axis) == 1:
        return list(axis)
    values = MaxNLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(axis[0], axis[-1])
    return [float(value) for value in values if axis[0] - 1e-9 <= value <= axis[-1] + 1e-9]


def _label(value: float) -> str:
    """At least two decimals, more only if the value has them."""
    text = f"{value:.4f}".rstrip("0")
    return text.ljust(text.index(".") + 3, "0")


def _whole(pixels: int, cells: int) -> int:
    if pixels < cells:
        raise ValueError(f"the picture is too small: {cells} cells do not fit into {max(pixels, 0)} pixels")
    return pixels - pixels % cells


def _index(axis: tuple[float, ...], value: float) -> float:
    """Where a value lies on an axis, in cells; beyond its ends the last spacing goes on."""
    if len(axis) == 1:
        return 0.0 if value == axis[0] else np.inf if value > axis[0] else -np.inf
    if axis[0] <= value <= axis[-1]:
        return float(np.interp(value, axis, range(len(axis))))
    if value < axis[0]:
        return (value - axis[0]) / (axis[1] - axis[0])
    return len(axis) - 1 + (value - axis[-1]) / (axis[-1] - axis[-2])
