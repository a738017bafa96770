"""The surface of a preset on the page: a picture drawn by the server, its crosshair drawn by the browser."""

import json
from dataclasses import dataclass

import gradio as gr

from qsched.backbones import Quantization
from qsched.plots import SurfaceImage, surface_figure
from qsched.presets import Preset, PresetError
from qsched.ui import fragments, pictures
from qsched.ui.engine import Engine
from qsched.ui.results import Results


@dataclass(frozen=True)
class Place:
    """Which surface belongs to what a session looks at."""

    backbone: str
    quantization: Quantization
    steps: int


def draw(results: Results, engine: Engine, place: Place, dark: bool, best: gr.Button) -> dict:
    """Outputs that show the surface, or how to make the preset that is missing."""
    try:
        preset, reason = engine.preset(place.backbone, place.quantization, place.steps), ""
    except PresetError as error:
        preset, reason = None, str(error)
    if preset is None:
        sentence = fragments.no_surface(
            place.backbone, place.quantization.bits, place.steps, reason, place.quantization.method
        )
        return {
            results.surface: gr.update(value=None, visible=False),
            results.geometry: "",
            results.no_surface: gr.update(value=sentence, visible=True),
            best: gr.update(interactive=False),
        }
    drawn = figure(preset, dark)
    return {
        results.surface: gr.update(value=pictures.drawn(drawn.image), visible=True),
        results.geometry: geometry(preset, drawn),
        results.no_surface: gr.update(value="", visible=False),
        best: gr.update(interactive=True),
    }


def figure(preset: Preset, dark: bool = False) -> SurfaceImage:
    """The preset's heatmap without a current point."""
    images = preset.surface.images
    pictures = f"{len(preset.prompts)} prompts" + (
        f", {images // len(preset.prompts)} seeds" if images > len(preset.prompts) else ""
    )
    how = {"constant": "constant over the steps", "ramp": "ramp to 1"}[preset.shape]
    return surface_figure(
        preset.surface, None, dark=dark, note=f"{preset.bits.upper()}, {preset.steps} steps, {pictures}, {how}"
    )


def geometry(preset: Preset, drawn: SurfaceImage) -> str:
    """What the browser needs to draw the crosshair: the picture's size, the cells' box, the axes and the shape."""
    data = {"size": drawn.image.size, "box": drawn.box, "c_x": drawn.c_x, "c_eps": drawn.c_eps, "shape": preset.shape}
    return f"<i hidden data-surface='{json.dumps(data)}'></i>"


def point_at(preset: Preset, x: float, y: float) -> tuple[float, float] | None:
    """(c_x, c_eps) of the cell under a pixel of the heatmap, None on its margins."""
    cell = figure(preset).to_cell(x, y)
    return None if cell is None else (preset.surface.c_x[cell[1]], preset.surface.c_eps[cell[0]])
