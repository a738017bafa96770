"""Cells that are being computed, painted with PIL over a finished image: each fills from its middle as its
images come.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.colors import Colormap, Normalize
from PIL import Image, ImageDraw

from qsched.plots.geometry import SurfaceImage
from qsched.plots.look import Look


class WorkingCell(NamedTuple):
    """A point of the grid in work; share: of its images that are done. jaq: so far, None before the first."""

    c_x: float
    c_eps: float
    share: float
    jaq: float | None


def draw_working(
    image: Image.Image,
    drawn: SurfaceImage,
    cells: Sequence[WorkingCell],
    colouring: tuple[Normalize, Colormap],
    look: Look,
    unit: float,
) -> None:
    """Frame the cells and fill a share of their area."""
    draw, (norm, colours) = ImageDraw.Draw(image), colouring
    width, height = drawn.box[2] // len(drawn.c_x), drawn.box[3] // len(drawn.c_eps)
    for cell in cells:
        x, y = drawn.value_to_xy(cell.c_x, cell.c_eps)
        rectangle = lambda share, x=x, y=y: (
            round(x - share * width / 2), round(y - share * height / 2),
            round(x + share * width / 2) - 1, round(y + share * height / 2) - 1,
        )  # fmt: skip
        if cell.jaq is not None and cell.share > 0:
            draw.rectangle(rectangle(np.sqrt(cell.share)), fill=colours(norm(cell.jaq), bytes=True)[:3])
        draw.rectangle(rectangle(1), outline=look.text, width=max(1, round(2 * unit)))
