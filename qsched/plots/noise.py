"""What the noise of a surface does to its image: hatching and the outline of where the optimum may lie."""

from collections.abc import Callable

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from qsched.plots.geometry import SurfaceImage
from qsched.plots.look import Look
from qsched.surfaces.surface import Surface

HATCHED = "like plain"
REGION = "95 % of optima"
GAP, STROKE = 14, 2.2  # pixels between hatch lines and their width, at the default size
BRIGHT = 0.5  # cells above this luminance get dark lines, the others light ones
ON_BRIGHT, ON_DARK = (0, 0, 0, 0.42), (1, 1, 1, 0.42)
_SLASHES = Path(  # three strokes in a square, as a marker
    [(-1, 0), (0, 1), (-1, -1), (1, 1), (0, -1), (1, 0)], [Path.MOVETO, Path.LINETO] * 3
)


def hatch(
    page: Axes,
    drawn: SurfaceImage,
    surface: Surface,
    painted: np.ndarray,
    k: float,
    look: Look,
    points: Callable[[float], float],
) -> list[Artist]:
    """Hatch the cells that do not differ from the plain one; return the legend's entry, nothing if there are
    none.

    Args:
        page: axes in pixel coordinates.
        painted: colours of the cells, uint8 of shape (rows, columns, 4).
        points: from pixels at the default size to matplotlib's points.
    """
    known = surface.uncertainty(k)
    if known is None or not known.alike.any():
        return []
    luminance = painted[..., :3] @ np.array([0.299, 0.587, 0.114]) / 255
    for cells, colour in ((luminance > BRIGHT, ON_BRIGHT), (luminance <= BRIGHT, ON_DARK)):
        if (chosen := known.alike & cells).any():
            lines = LineCollection(
                _diagonals(drawn, points(GAP) * 100 / 72),
                colors=[colour],
                linewidths=points(STROKE),
                zorder=1,
            )
            page.add_collection(lines, autolim=False)
            lines.set_clip_path(PathPatch(_rectangles(drawn, chosen), transform=page.transData))
    style = dict(linestyle="none", marker=_SLASHES, markerfacecolor="none", markeredgecolor=look.text)
    return [Line2D([], [], label=HATCHED, markeredgewidth=points(STROKE), markersize=points(22), **style)]


def outline(
    page: Axes, drawn: SurfaceImage, surface: Surface, k: float, look: Look, points: Callable[[float], float]
) -> list[Artist]:
    """Outline the cells that hold 95 % of the resamples' optima; return the legend's entry, nothing without
    noise.
    """
    region = surface.stability(k=k)["region"]
    if region is None:
        return []
    inside = np.zeros((len(surface.c_eps), len(surface.c_x)), bool)
    for c_x, c_eps, _ in region["cells"]:
        inside[surface.nearest(c_x, c_eps)] = True
    edges = _edges(drawn, inside)
    for width, colour in ((6.5, look.edge), (3, look.mark)):
        page.add_collection(
            LineCollection(edges, colors=colour, linewidths=points(width), capstyle="projecting", zorder=2),
            autolim=False,
        )
    style = dict(linestyle="none", marker="s", markerfacecolor="none", markeredgecolor=look.muted)
    return [Line2D([], [], label=REGION, markeredgewidth=points(3.5), markersize=points(20), **style)]


def _diagonals(drawn: SurfaceImage, gap: float) -> list[tuple[tuple[float, float], ...]]:
    """Parallel lines over all cells, rising to the right."""
    left, top, width, height = drawn.box
    return [
        ((left + x - height, top + height), (left + x, top)) for x in np.arange(gap / 2, width + height, gap)
    ]


def _rectangles(drawn: SurfaceImage, cells: np.ndarray) -> Path:
    """The area of these cells in pixels."""
    left, top, width, height = drawn.box
    rows, columns = cells.shape
    w, h = width / columns, height / rows
    corners = [
        (left + j * w + x * w, top + height - (i + y) * h)
        for i, j in np.argwhere(cells)
        for x, y in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))
    ]
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * int(cells.sum())
    return Path(corners, codes)


def _edges(drawn: SurfaceImage, inside: np.ndarray) -> list[tuple[tuple[float, float], ...]]:
    """Cell borders in pixels between inside and outside."""
    left, top, width, height = drawn.box
    rows, columns = inside.shape
    x = lambda j: left + j * width / columns
    y = lambda i: top + height - i * height / rows
    padded = np.pad(inside, 1)
    upright = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    level = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    return [((x(j), y(i)), (x(j), y(i + 1))) for i, j in upright] + [
        ((x(j), y(i)), (x(j + 1), y(i))) for i, j in level
    ]
