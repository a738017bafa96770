"""The map of a session: its loss surface as an image drawn here, whose crosshair the browser draws."""

import json
import math
from html import escape

import gradio as gr
import numpy as np

from qsched.comparison.thumbnail import drawing_uri
from qsched.plots.geometry import SurfaceImage
from qsched.plots.heatmap import surface_figure
from qsched.plots.sweep import k_sweep_figure
from qsched.presets import Preset, PresetError
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.slices import Slice
from qsched.scoring import JAQ_DEFINITION
from qsched.server.engine import Engine
from qsched.server.sessions import Session
from qsched.surfaces.uncertainty import DIFFERENT
from qsched.ui import fragments, images
from qsched.ui.compare.results import Results
from qsched.ui.errors import sentence_for
from qsched.words import steps_in_words


def choose(engine: Engine, session: str, held: Session) -> Session:
    """The session with the map that belongs to it: the one it has, while its coefficients are a point of it;
    else the preset's that holds them; else the preset's surface, or the one it has.
    """
    steps, (preset, _) = held.comparison.settings.steps, _preset(engine, held)
    maps = [each for each in (held.map, *(preset.maps if preset else ())) if each]
    holding = [each for each in maps if each.holds(held.comparison.coefficients, steps)]
    others = preset.maps if preset else maps
    chosen = next(iter(holding + others), None)
    if chosen is not held.map:
        engine.sessions.show_map(session, held.comparison, chosen)
    return engine.session(session) or held


def draw(results: Results, engine: Engine, held: Session, dark: bool, best: gr.Button) -> dict:
    """Outputs that show a session's map, or how to make the preset that is missing."""
    preset, reason = _preset(engine, held)
    settings, known = held.comparison.settings, {best: gr.update(interactive=preset is not None)}
    if held.map is None:
        q = settings.quantization
        sentence = (
            fragments.no_surface(held.backbone, q.bits, settings.steps, reason, q.method)
            if preset is None
            else fragments.published(preset)
        )
        return known | {
            results.surface: gr.update(value="", visible=False),
            results.legend: "",
            results.stability: "",
            results.sweep: gr.update(visible=False),
            results.no_surface: gr.update(value=sentence, visible=True),
        }
    drawn, surface = figure(engine, held, dark), held.map.surface
    about = fragments.stability(surface.stability(k=held.k), DIFFERENT)
    if preset and preset.surface and held.map.through.shape == preset.shape:
        about += fragments.beyond(preset, held.k)
    return known | {
        results.surface: gr.update(value=map_shown(held, drawn, dark), visible=True),
        results.legend: legend(held, follows=engine.spec(held.backbone).family == "emoji"),
        results.stability: about,
        results.sweep: gr.update(visible=True),
        results.no_surface: gr.update(value="", visible=False),
    }


def sweep(engine: Engine, held: Session, dark: bool) -> str | None:
    """Path of the k sweep's image; None without a surface."""
    if held.map is None:
        return None
    note, formula = _note(held), _formula(engine, held)
    return images.drawn(k_sweep_figure(held.map.surface, held.k, dark, note=note, formula=formula))


def figure(engine: Engine, held: Session, dark: bool = False) -> SurfaceImage:
    """A session's map without a current point."""
    formula = _formula(engine, held)
    return surface_figure(held.map.surface, None, held.k, dark, note=_note(held), formula=formula)


def _preset(engine: Engine, held: Session) -> tuple[Preset | None, str]:
    """The session's preset, and why there is none where it is broken."""
    settings = held.comparison.settings
    try:
        return engine.preset(held.backbone, settings.quantization, settings.steps), ""
    except PresetError as error:
        return None, sentence_for(error)


def _formula(engine: Engine, held: Session) -> str:
    preset, _ = _preset(engine, held)
    return preset.formula if preset else JAQ_DEFINITION


def _note(held: Session) -> str:
    settings = held.comparison.settings
    return f"{settings.quantization.bits.upper()}, {steps_in_words(settings.steps)}, {held.map.of}"


def legend(held: Session, follows: bool) -> str:
    """One line: what varies on the map and what stays, whose images a cell is the mean of.

    follows: the page asks by itself for a map around a point that is not on this one.
    """
    through, of = held.map.through, held.map.of
    mean = f"Mean over {of}" if held.map.surface.images > 1 else f"For {of} alone"
    kind = {
        "constant": "the same numbers at every step",
        "ramp": "from these numbers at the first step straight to 1 at the last",
        "ends": "the first step's numbers vary, the last step's stay at {0}",
        "per-step": "the first step's numbers vary, all others stay as they are",
    }[through.shape]
    kind = kind.format(_last(through)) if through.shape == "ends" else kind
    noise = "; hatched: within the noise of plain; outlined: 95 % of resampled optima"
    other = "One around it follows when the sliders rest." if follows else "Make one around it."
    return (
        f'<p class="fine">{escape(mean)}: {kind}. Click a cell to go there{noise * _hatched(held.map)}.</p>'
        f'<p class="fine elsewhere"{" data-follows" * follows}><b>Your point is not on this map.</b> '
        f"{other}</p>"
    )


def _hatched(map: Slice) -> bool:
    return map.surface.holds_plain and map.surface.images > 1


def _last(coefficients: Coefficients) -> str:
    numbers = [value[-1] if isinstance(value, tuple) else value for value in vars(coefficients).values()]
    return "c<sub>x</sub> {:g} and c<sub>ε</sub> {:g}".format(*numbers)


def map_shown(held: Session, drawn: SurfaceImage, dark: bool) -> str:
    """The map's image, with what the browser needs to draw the crosshair over its cells and to say what lies
    under the pointer: the image's size, the cells' box, the axes, what the coefficients hold beyond the first
    step, and per cell (by rows) JAQ, and the difference to plain with its interval."""
    surface, through, k = held.map.surface, held.map.through, held.k
    rest = [list(c[1:]) if isinstance(c, tuple) else None for c in (through.c_x, through.c_eps)]
    data = {
        "size": drawn.image.size,
        "box": drawn.box,
        "c_x": drawn.c_x,
        "c_eps": drawn.c_eps,
        "rest": rest,
        "steps": held.comparison.settings.steps,
    }
    data |= {"k": k, "dark": dark, "jaq": _numbers(surface.jaq(k))}
    noise = surface.uncertainty(k)
    if noise is not None:
        data |= {"interval": [_numbers(noise.low), _numbers(noise.high)]}
    if noise is not None and noise.difference is not None:
        rows = (noise.difference, noise.difference_low, noise.difference_high)
        data |= {
            "difference": [_numbers(row) for row in rows],
            "different": noise.different.ravel().astype(int).tolist(),
        }
    width, height = drawn.image.size
    sides = zip(("left", "top", "width", "height"), drawn.box, (width, height) * 2, strict=True)
    over = ";".join(f"{side}:{100 * pixels / whole:.4f}%" for side, pixels, whole in sides)
    return (
        f"<div class='map' data-surface='{json.dumps(data, separators=(',', ':'))}'>"
        f'<img alt="Loss surface" src="{drawing_uri(drawn.image)}">'
        f'<div id="crosshair" aria-hidden="true" style="{over}"><b class="across"></b><b class="down"></b>'
        '<i></i></div><div id="cell" role="tooltip" hidden></div></div>'
    )


def _numbers(cells: np.ndarray) -> list[float | None]:
    return [round(value, 4) if math.isfinite(value) else None for value in cells.ravel().tolist()]


def point_at(engine: Engine, held: Session, x: float, y: float) -> Coefficients | None:
    """What the cell under a pixel of the map stands for, None on its margins."""
    cell = figure(engine, held).to_cell(x, y)
    if cell is None:
        return None
    surface = held.map.surface
    return held.map.at(surface.c_x[cell[1]], surface.c_eps[cell[0]])
