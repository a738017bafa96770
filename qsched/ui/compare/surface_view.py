"""The surface of a preset on the page: an image drawn by the server, its crosshair drawn by the browser."""

import json
import math
from dataclasses import dataclass

import gradio as gr
import numpy as np

from qsched.plots.geometry import SurfaceImage
from qsched.plots.heatmap import surface_figure
from qsched.plots.sweep import k_sweep_figure
from qsched.presets import Preset, PresetError
from qsched.quantization import Quantization
from qsched.scoring import K_DEFAULT
from qsched.server.engine import Engine
from qsched.surfaces.uncertainty import DIFFERENT
from qsched.ui import fragments, images
from qsched.ui.compare.results import Results
from qsched.ui.errors import sentence_for
from qsched.words import steps_in_words


@dataclass(frozen=True)
class Place:
    """Which surface belongs to what a session looks at."""

    backbone: str
    quantization: Quantization
    steps: int


def draw(results: Results, engine: Engine, place: Place, dark: bool, best: gr.Button, k: float) -> dict:
    """Outputs that show the surface at this k, or how to make the preset that is missing."""
    try:
        preset, reason = engine.preset(place.backbone, place.quantization, place.steps), ""
    except PresetError as error:
        preset, reason = None, sentence_for(error)
    if preset is None:
        sentence = fragments.no_surface(
            place.backbone, place.quantization.bits, place.steps, reason, place.quantization.method
        )
        return {
            results.surface: gr.update(value=None, visible=False),
            results.geometry: "",
            results.stability: "",
            results.sweep: gr.update(visible=False),
            results.no_surface: gr.update(value=sentence, visible=True),
            best: gr.update(interactive=False),
        }
    if preset.surface is None:
        return {
            results.surface: gr.update(value=None, visible=False),
            results.geometry: "",
            results.stability: "",
            results.sweep: gr.update(visible=False),
            results.no_surface: gr.update(value=fragments.published(preset), visible=True),
            best: gr.update(interactive=True),
        }
    drawn = figure(preset, dark, k)
    return {
        results.surface: gr.update(value=images.drawn(drawn.image), visible=True),
        results.geometry: geometry(preset, drawn, dark, k),
        results.stability: fragments.stability(preset.surface.stability(k=k), DIFFERENT)
        + fragments.beyond(preset, k),
        results.sweep: gr.update(visible=True),
        results.no_surface: gr.update(value="", visible=False),
        best: gr.update(interactive=True),
    }


def sweep(engine: Engine, place: Place, dark: bool, k: float) -> str | None:
    """Path of the k sweep's image; None without a surface."""
    try:
        preset = engine.preset(place.backbone, place.quantization, place.steps)
    except PresetError:
        preset = None
    if preset is None or preset.surface is None:
        return None
    return images.drawn(k_sweep_figure(preset.surface, k, dark, note=_note(preset), formula=preset.formula))


def figure(preset: Preset, dark: bool = False, k: float = K_DEFAULT) -> SurfaceImage:
    """The preset's heatmap without a current point."""
    return surface_figure(preset.surface, None, k, dark, note=_note(preset), formula=preset.formula)


def _note(preset: Preset) -> str:
    images = preset.surface.images
    drawn = f"{len(preset.prompts)} prompts" + (
        f", {images // len(preset.prompts)} seeds" if images > len(preset.prompts) else ""
    )
    how = {"constant": "constant over the steps", "ramp": "ramp to 1"}[preset.shape]
    return f"{preset.bits.upper()}, {steps_in_words(preset.steps)}, {drawn}, {how}"


def geometry(preset: Preset, drawn: SurfaceImage, dark: bool, k: float) -> str:
    """What the browser needs to draw the crosshair and to say what lies under the pointer: the image's size,
    the cells' box, the axes, the shape, and per cell (by rows) JAQ, and the difference to plain with its
    interval."""
    data = {
        "size": drawn.image.size,
        "box": drawn.box,
        "c_x": drawn.c_x,
        "c_eps": drawn.c_eps,
        "shape": preset.shape,
    }
    data |= {"k": k, "dark": dark, "jaq": _numbers(preset.surface.jaq(k))}
    noise = preset.surface.uncertainty(k)
    if noise is not None:
        data |= {"interval": [_numbers(noise.low), _numbers(noise.high)]}
    if noise is not None and noise.difference is not None:
        rows = (noise.difference, noise.difference_low, noise.difference_high)
        data |= {
            "difference": [_numbers(row) for row in rows],
            "different": noise.different.ravel().astype(int).tolist(),
        }
    return f"<i hidden data-surface='{json.dumps(data, separators=(',', ':'))}'></i>"


def _numbers(cells: np.ndarray) -> list[float | None]:
    return [round(value, 4) if math.isfinite(value) else None for value in cells.ravel().tolist()]


def point_at(preset: Preset, x: float, y: float) -> tuple[float, float] | None:
    """(c_x, c_eps) of the cell under a pixel of the heatmap, None on its margins."""
    cell = figure(preset).to_cell(x, y)
    return None if cell is None else (preset.surface.c_x[cell[1]], preset.surface.c_eps[cell[0]])
