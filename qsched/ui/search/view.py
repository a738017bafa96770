"""What a page's Search tab shows of one search: its surface as an image, and the coefficients that would be
taken.
"""

from dataclasses import dataclass, replace

import gradio as gr
import numpy as np
import torch
from PIL import Image

from qsched.models.base import Backbone
from qsched.plots.geometry import SurfaceImage
from qsched.plots.heatmap import surface_figure
from qsched.plots.working import WorkingCell
from qsched.presets import Preset
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.loop import decode, draw_noise, sample
from qsched.scoring import JAQ_DEFINITION
from qsched.search.options import Candidate, SearchOptions
from qsched.search.saved import SavedSearch
from qsched.search.strategies.choice import strategy_of
from qsched.search.study import Scores
from qsched.server.search_runner import Frame, Run
from qsched.surfaces.remembering import Remembered
from qsched.surfaces.surface import Surface
from qsched.surfaces.uncertainty import DIFFERENT
from qsched.ui import fragments, images
from qsched.ui.search import fragments as search_fragments
from qsched.ui.search.results import SearchResults
from qsched.words import images_in_words, steps_in_words

SMALL = (700, 630)
"""Pixels of a surface beside another one."""


@dataclass
class Shown:
    """A search on the page, running or saved.

    name: of its study, None while it gets ready. best: coefficients that it would recommend and their JAQ,
    None before there are any. point: of the best if it is a cell. cell: what the visitor clicked. over:
    whether it has ended. formula: of JAQ. working: cells that are being computed.
    """

    name: str | None
    backbone: str
    options: SearchOptions
    surface: Surface
    best: tuple[Coefficients, float] | None = None
    point: tuple[float, float] | None = None
    cell: tuple[float, float] | None = None
    over: bool = True
    formula: str = JAQ_DEFINITION
    working: tuple[WorkingCell, ...] = ()

    @property
    def coefficients(self) -> Coefficients | None:
        """What would be taken: of the clicked cell, else the best."""
        if self.cell is not None:
            return Candidate.pair(*self.cell).coefficients(self.options.shape)
        return None if self.best is None else self.best[0]

    @property
    def jaq(self) -> float | None:
        """The score of `coefficients`, None if they were not computed."""
        if self.cell is None:
            return None if self.best is None else self.best[1]
        value = float(self.surface.jaq(self.options.k)[self.surface.nearest(*self.cell)])
        return value if np.isfinite(value) else None

    def taken(self, preset: Preset) -> Preset:
        """The preset with the coefficients that are shown."""
        if self.cell is None:
            return preset
        facts = preset.provenance | {"chosen": "by hand", "best": {"jaq": self.jaq}}
        return replace(preset, coefficients=self.coefficients, provenance=facts)


def of_run(run: Run, frame: Frame, cell: tuple[float, float] | None) -> Shown:
    """A search that this page started."""
    axis, best, point = run.options.axis, None, None
    surface = frame.surface or Surface.empty(axis, axis, run.options.images, len(run.options.prompts))
    if frame.over and run.preset is not None:
        best = run.preset.coefficients, run.preset.provenance["best"]["jaq"]
        point = _point(run.preset)
    elif frame.best is not None:
        candidate, jaq = frame.best
        best = candidate.coefficients(run.options.shape), jaq
        point = (candidate.c_x[0], candidate.c_eps[0]) if candidate.is_pair else None
    return Shown(
        run.name,
        run.backbone,
        run.options,
        surface,
        best,
        point,
        cell,
        frame.over,
        run.formula,
        frame.working,
    )


def of_saved(search: SavedSearch, preset: Preset, backbone: str) -> Shown:
    """A search from the storage. backbone: as the engine calls it."""
    best = preset.coefficients, preset.provenance["best"]["jaq"]
    return Shown(
        search.name, backbone, search.options, preset.surface, best, _point(preset), formula=preset.formula
    )


def figure(
    shown: Shown,
    dark: bool,
    *,
    k: float | None = None,
    alongside: np.ndarray | None = None,
    size: tuple | None = None,
) -> SurfaceImage:
    """The surface with a ring around what would be taken; cells that a model predicts are fainter, and its
    noise is shown when all is computed."""
    options = shown.options
    prompts = images_in_words(len(options.prompts), options.seeds)
    how = {"constant": "constant over the steps", "ramp": "ramp to 1"}[options.shape]
    steps = steps_in_words(options.steps)
    k = options.k if k is None else k
    return surface_figure(
        shown.surface,
        shown.cell or shown.point,
        k,
        dark,
        note=f"{options.quantization.bits.upper()}, {steps}, {prompts}, {how}",
        formula=shown.formula,
        noise=shown.over,
        modelled=modelled(shown) if k == options.k else None,
        alongside=alongside,
        working=shown.working,
        **({} if size is None else {"size": size}),
    )


def modelled(shown: Shown) -> np.ndarray | None:
    """JAQ of every cell as the strategy's model has it, shape (rows, columns);

    None for strategies without a model.
    """
    surface = shown.surface

    def fit() -> np.ndarray | None:
        done = {
            Candidate.pair(surface.c_x[j], surface.c_eps[i]): Scores(
                surface.alignment[i, j].tolist(), surface.quality[i, j].tolist()
            )
            for i, j in np.argwhere(np.isfinite(surface.alignment[..., 0]))
        }
        return strategy_of(shown.options).modelled(done)

    return _models.get((surface.digest(), shown.options), fit)


_models: Remembered[np.ndarray | None] = Remembered(32)


def best_updates(r: SearchResults, shown: Shown) -> dict:
    """Outputs that name the coefficients and let them be taken."""
    ready = shown.coefficients is not None
    title = "Chosen cell" if shown.cell else "Best" if shown.over else "Best so far"
    text = f'<h3>{title}</h3><p class="fine">Nothing yet.</p>'
    if ready:
        plain = shown.surface.summary(shown.options.k)["plain"]
        text = search_fragments.best(shown.coefficients, shown.jaq, plain, title)
    return {r.best: text} | {button: gr.update(interactive=ready) for button in r.takers}


def surface_updates(r: SearchResults, shown: Shown, dark: bool) -> dict:
    """Outputs that show the surface."""
    scored = shown.over and shown.best is not None
    return {
        r.surface: gr.update(value=images.drawn(figure(shown, dark).image), visible=True),
        r.nothing: gr.update(visible=False),
        r.stability: fragments.stability(shown.surface.stability(k=shown.options.k), DIFFERENT)
        if scored
        else "",
    }


def image_updates(r: SearchResults, image: Image.Image | None, prompt: str = "") -> dict:
    """Outputs that show an image of the best coefficients, or none."""
    if image is None:
        return {r.image: gr.update(visible=False), r.caption: ""}
    return {
        r.image: gr.update(value=images.shown(image), visible=True),
        r.caption: f'<p class="fine">“{search_fragments.escape(prompt)}”</p>',
    }


def as_image(image: torch.Tensor) -> Image.Image:
    """(3, height, width) in [0, 1] as an image; made with numpy, since torch belongs to the
    device's thread.
    """
    pixels = np.nan_to_num(image.numpy(), nan=0.0, posinf=0.0, neginf=0.0).transpose(1, 2, 0) * 255
    return Image.fromarray(pixels.round().astype(np.uint8))


@torch.inference_mode()
def draw_image(backbone: Backbone, options: SearchOptions, coefficients: Coefficients) -> Image.Image:
    """The first prompt of a search with these coefficients, as the search saw it."""
    backbone.use(options.steps)
    denoiser = backbone.quantized(options.quantization).module
    noise = draw_noise(backbone.latent_shape, options.seed, [0])
    latents = sample(
        backbone, backbone.encode(options.prompts[:1]), noise, options.steps, coefficients, denoiser
    )
    return as_image(decode(backbone, latents, options.tiny_decoder)[0].cpu())


def _point(preset: Preset) -> tuple[float, float] | None:
    """The cell of a preset's coefficients, None if they are none of its surface."""
    first = lambda value: value[0] if isinstance(value, tuple) else value
    point = first(preset.coefficients.c_x), first(preset.coefficients.c_eps)
    return point if preset.coefficients == preset.at(*point) else None
