"""Where quantization hurts: which layers carry the prediction's error, and how much of it coefficients can
take back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qsched.evaluation.closed_form import CORRECTIONS, Fit, fit
from qsched.models.base import Backbone, Condition
from qsched.quantization import DEFAULT_KEEP, Quantization, layers_to_pack, quantize, sharing_copy
from qsched.sampling.loop import draw_noise, prepare_scheduler, start_latents, walk


@dataclass(frozen=True)
class Layer:
    """A layer quantized alone: its weights, and its squared error at each step over that of the quantized
    model.
    """

    name: str
    weights: int
    shares: tuple[float, ...]

    @property
    def share(self) -> float:
        """Mean over the steps."""
        return sum(self.shares) / len(self.shares)


@dataclass(frozen=True)
class Diagnosis:
    """layers: by share, the largest first; shares need not add up to 1, since errors of layers may cancel."""

    layers: list[Layer]
    weights: int
    fit: Fit

    def explained(self) -> dict[str, list[float]]:
        """The share of the squared error that each correction explains, one number per step."""
        return {kind: [step.explained(kind) for step in self.fit.steps] for kind in CORRECTIONS}


@dataclass(frozen=True)
class Call:
    """What the denoiser sees at one step, and what it answers in full precision and quantized."""

    latents: Tensor
    timestep: Tensor
    full: Tensor
    quantized: Tensor


def diagnose(
    backbone: Backbone,
    quantization: Quantization,
    prompts: Sequence[str],
    steps: int,
    *,
    held_out: Sequence[str] = (),
    seed: int = 0,
    layer_prompts: int = 4,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Diagnosis:
    """Fit the coefficients, then quantize every layer alone.

    Args:
        prompts: to fit on; the first `layer_prompts` of them are used for the layers. held_out: measure the
            fit.
        seed: of the noise.
        on_progress: called with (done, total), in layers and steps.
    Raises:
        ValueError: no prompts, or settings that cannot be quantized layer by layer.
    """
    if quantization.method != "plain":
        raise ValueError(f"Only plain rounding can be taken apart layer by layer, not {quantization.method}.")
    backbone.use(steps)
    keep = tuple(DEFAULT_KEEP) if quantization.keep_high_precision else ()
    groups, _ = layers_to_pack(backbone.denoiser, quantization.scope, keep)
    total = len(groups) + steps
    module = backbone.quantized(quantization).module
    on_step = lambda done, _: on_progress(done, total)
    fitted = fit(backbone, module, prompts, steps, seed=seed, held_out=held_out, on_step=on_step)
    condition = backbone.encode(prompts[:layer_prompts])
    calls = _calls(backbone, module, condition, steps, seed)
    names = [group[0] for group in groups]
    layers = []
    for done, name in enumerate(names, start=steps + 1):
        others = [other for other in names if other != name]
        alone = _without(backbone.denoiser, quantization, (*keep, *others))
        weights = backbone.denoiser.get_submodule(name).weight.numel()
        layers.append(Layer(name, weights, _shares(backbone, alone, condition, calls)))
        on_progress(done, total)
    layers.sort(key=lambda layer: layer.share, reverse=True)
    return Diagnosis(layers, sum(layer.weights for layer in layers), fitted)


def _without(denoiser: nn.Module, quantization: Quantization, keep: Sequence[str]) -> nn.Module:
    """The denoiser quantized without these layers."""
    module = sharing_copy(denoiser)
    options = {"group_size": quantization.group_size, "activation_scale": quantization.activation_scale}
    quantize(module, quantization.bits, scope=quantization.scope, keep=keep, **options)
    return module


@torch.inference_mode()
def _calls(backbone: Backbone, module: nn.Module, condition: Condition, steps: int, seed: int) -> list[Call]:
    """Both answers at every step of the quantized model's own path, with the plain scheduler."""
    noise = draw_noise(backbone.latent_shape, seed, range(len(condition)))
    scheduler = prepare_scheduler(backbone, steps, None)
    calls = []

    def predict(index: int, latents: Tensor, seen: Tensor, timestep: Tensor) -> Tensor:
        full, quantized = (backbone.predict(seen, timestep, condition, which) for which in (None, module))
        calls.append(Call(seen, timestep, full.float(), quantized.float()))
        return quantized

    walk(backbone, scheduler, start_latents(backbone, scheduler, noise), noise.generators(), predict)
    return calls


def _shares(
    backbone: Backbone, module: nn.Module, condition: Condition, calls: Sequence[Call]
) -> tuple[float, ...]:
    shares = []
    for call in calls:
        answer = backbone.predict(call.latents, call.timestep, condition, module).float()
        total = (call.quantized - call.full).square().sum()
        shares.append(float((answer - call.full).square().sum() / total.clamp(min=1e-30)))
    return tuple(shares)
