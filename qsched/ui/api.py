"""What scripts can call: one endpoint that does what the page does and answers with numbers."""

import uuid
from collections.abc import Callable
from typing import Any

import gradio as gr
from PIL.Image import Image

from qsched.comparison.comparison import Settings
from qsched.sampling.coefficients import Coefficients
from qsched.scoring import K_DEFAULT
from qsched.server.engine import SOURCE, Engine, named
from qsched.ui import values
from qsched.ui.images import drawn
from qsched.ui.visitors import CHOOSE_SOURCE, require_local

NAMES = ("full_precision", "naive", "qsched")
"""Of the images, as `python -m qsched generate` names its files."""


def public_compare(engine: Engine) -> Callable[..., dict]:
    """The endpoint /compare of an engine."""

    def compare(
        prompt: str,
        bits: str = "w4a8",
        seed: int = 0,
        steps: int = 4,
        c_x: list[float] | None = None,
        c_eps: list[float] | None = None,
        backbone: str = engine.default,
        k: float = K_DEFAULT,
        method: str = "plain",
        source: str = "",
        decoder: str = "full",
        group_size: int = 0,
        activation_scale: str = "token",
        scope: str = "all",
        keep: bool = True,
        request: gr.Request | None = None,
    ) -> dict[str, Any]:
        """Compare full precision, naive quantization and Q-Sched on one prompt; answers with everything that
        reproduces it, and with the images.

        Args:
            prompt: what to draw.
            bits: bit-width such as w4a8.
            seed: of the noise.
            steps: denoiser calls per image.
            c_x: one number (constant), two (first and last step) or one per step; empty for the best known.
            c_eps: likewise.
            backbone: id of the model.
            k: weight of CLIP-IQA in JAQ, 0 to 5.
            method: of quantizing: plain, mixdq, svdquant or torchao.
            source: a folder of the server or a Hub id of the same family in place of the backbone's own,
                which only somebody at the server may give; empty for its own.
            decoder: full or tiny.
            group_size: weights per scale; 0 for one scale per output channel.
            activation_scale: token or tensor.
            scope: all layers, or linear only.
            keep: whether conv_in, conv_out and embeddings keep high precision.
        """
        if decoder not in values.DECODERS:
            raise ValueError(f"The decoder must be {' or '.join(values.DECODERS)}, not {decoder!r}.")
        how = values.quantization_from(bits, group_size, activation_scale, scope, keep, method)
        steps = values.integer("step count", steps, 1, values.MOST_STEPS)
        settings = Settings(prompt, values.seed_from(seed), steps, how, decoder == values.DECODERS[1])
        backbone, k = named(backbone, source), values.k_from(k)
        if SOURCE in backbone:
            require_local(request, CHOOSE_SOURCE)
        c_x, c_eps = ([given] if isinstance(given, int | float) else given for given in (c_x, c_eps))
        if c_x or c_eps:
            pick = lambda numbers: 1.0 if not numbers else numbers[0] if len(numbers) == 1 else tuple(numbers)
            coefficients = values.in_range(Coefficients(pick(c_x), pick(c_eps)))
        else:
            coefficients = engine.start(backbone, settings, k)
        visit = f"api-{uuid.uuid4().hex}"
        try:
            comparison = engine.compare(visit, backbone, settings, coefficients)
        finally:
            engine.forget(visit)
        images = {name: _file(column.image) for name, column in zip(NAMES, comparison.columns, strict=True)}
        return engine.record(backbone, comparison, k) | {"images": images}

    return compare


def _file(image: Image) -> dict[str, Any]:
    """An image as a file that gradio serves and its client downloads."""
    return {"path": drawn(image), "meta": {"_type": "gradio.FileData"}}
