"""An image of a surface and the way from its pixels to its cells and back.

Cells have whole numbers of pixels, so the way back from a click to a cell is exact.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image


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

    def value_to_xy(self, c_x: float, c_eps: float) -> tuple[float, float]:
        """Where a point lies in pixels, between the cells' centres; outside the grid: the nearest edge."""
        return self._position(_index(self.c_x, c_x), _index(self.c_eps, c_eps))

    def _position(self, column: float, row: float) -> tuple[float, float]:
        left, top, width, height = self.box
        x = left + (column + 0.5) * width / len(self.c_x)
        y = top + height - (row + 0.5) * height / len(self.c_eps)
        return min(max(x, left), left + width - 1.0), min(max(y, top), top + height - 1.0)


def multiple_of(pixels: int, cells: int) -> int:
    if pixels < cells:
        raise ValueError(f"the image is too small: {cells} cells do not fit into {max(pixels, 0)} pixels")
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
