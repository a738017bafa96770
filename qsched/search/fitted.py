"""A preset without a search: coefficients by least squares, for which no image is scored."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from qsched.evaluation.closed_form import fit
from qsched.evaluation.provenance import made_with
from qsched.models.base import Backbone
from qsched.presets import Preset
from qsched.quantization import Quantization
from qsched.search.options import SearchOptions


def fit_preset(
    backbone: Backbone,
    quantization: Quantization,
    prompts: Sequence[str],
    steps: int | None = None,
    *,
    seed: int = 0,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Preset:
    """Fit c_x and c_eps of every step, each on the path that the steps before it have corrected.

    Args:
        prompts: to fit on.
        steps: None is the backbone's default.
        seed: of the noise.
        on_step: called with (steps done, steps in all).
    Raises:
        ValueError: settings that cannot be run, or a prediction that is not finite.
    """
    options = SearchOptions(quantization, prompts, steps, seed).checked(backbone)
    begin, calls = time.perf_counter(), backbone.calls
    backbone.use(options.steps)
    module = backbone.quantized(options.quantization).module
    found = fit(backbone, module, options.prompts, options.steps, seed=seed, on_step=on_step)
    settings = asdict(options.quantization)
    return Preset(
        backbone=backbone.spec.id,
        revision=backbone.revision,
        bits=settings.pop("bits"),
        steps=options.steps,
        shape=found.coefficients.shape,
        coefficients=found.coefficients,
        surface=None,
        settings=settings,
        prompts=list(options.prompts),
        provenance={
            **made_with(backbone, options.quantization, options.steps),
            "strategy": "fit",
            "source": backbone.spec.chosen,
            "explained": [round(step.explained("scalars"), 4) for step in found.steps],
            "seeds": [seed],
            "denoiser_calls": backbone.calls - calls,
            "duration_s": round(time.perf_counter() - begin, 3),
        },
    )
