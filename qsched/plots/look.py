"""What all figures share: size, colours of the light and the dark page, colour scale, ticks."""

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, Normalize, to_rgb
from matplotlib.ticker import MaxNLocator

SIZE = (840, 756)  # pixels; at 390 px of a phone's width the smallest letters are still 10 px high
DPI = 100
CURRENT, CURRENT_EDGE = "#ff5a1f", "#ffffff"
FAINT = 0.62  # share of the page's colour where a value is modelled
# JAQ from one end of the colours to the other, so that rounding is not painted as a landscape
MIN_SPAN = 0.02


@dataclass(frozen=True)
class Look:
    """Colours of one variant; the backgrounds are Gradio's page colours."""

    background: str
    text: str
    muted: str
    failed: str
    mark: str
    edge: str


LOOKS = {
    False: Look("#ffffff", "#111827", "#4b5563", "#d1d5db", "#ffffff", "#111827"),
    True: Look("#0b0f19", "#f3f4f6", "#a3adbd", "#374151", "#ffffff", "#0b0f19"),
}


def scale(values: np.ndarray, failed: str) -> tuple[Normalize, Colormap, str]:
    """Colour scale of the finite values, and which end of it is open ("min" or "neither").

    Collapsed cells far below the rest would leave one colour to all others, so the scale may start above
    them: at three times the distance from best to median.
    """
    finite = values[np.isfinite(values)]
    colours = colormaps["viridis"].with_extremes(bad=failed)
    if not finite.size:
        return Normalize(0, 1), colours, "neither"
    high, low = float(finite.max()), float(finite.min())
    floor = high - 3 * (high - float(np.median(finite)))
    clipped = low < floor < high
    low = floor if clipped else low
    margin = max(0.0, MIN_SPAN - (high - low)) / 2
    return Normalize(low - margin, high + margin), colours, "min" if clipped else "neither"


def fainter(colours: np.ndarray, look: Look) -> np.ndarray:
    """Colours, uint8 of shape (n, 4), most of the way to the page's: for what was not measured."""
    page = np.array([*to_rgb(look.background), 1.0]) * 255
    return np.round(FAINT * page + (1 - FAINT) * colours).astype(np.uint8)


def ticks(axis: tuple[float, ...]) -> list[float]:
    """At most seven round values within an axis, or the one value it has."""
    if len(axis) == 1:
        return list(axis)
    values = MaxNLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(axis[0], axis[-1])
    return [float(value) for value in values if axis[0] - 1e-9 <= value <= axis[-1] + 1e-9]


def label(value: float) -> str:
    """At least two decimals, more only if the value has them."""
    text = f"{value:.4f}".rstrip("0")
    return text.ljust(text.index(".") + 3, "0")
