"""What the other methods need to see of a model at work: its own full-precision trajectory on its own example
prompts.

Nothing here knows a family: every call goes through the backbone, which brings its modules to the device and
makes room for them, and hooks record what each layer was fed. The prompts are the backbone's examples, the
noise is drawn on the CPU from seed 0 and the scheduler is the stock one at the default step count, so one
machine always sees the same thing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qsched.sampling.loop import draw_noise, prepare_scheduler, start_latents, walk

if TYPE_CHECKING:
    from qsched.models.base import Backbone, Condition

PROMPTS = 2
"""The fewest that show whether a token is the same in all of them."""
FALLBACK = ("a red apple on a wooden table", "a fox in the snow")
CONSTANT = 1e-3
"""First tokens that differ by less than this share of their largest value are one and the same."""


@dataclass(frozen=True)
class Call:
    """One call of the full-precision denoiser: latents as it saw them and its prediction, both (batch, C, H,
    W), the timestep, shape (), and the texts."""

    latents: Tensor
    timestep: Tensor
    condition: "Condition"
    prediction: Tensor

    def first_image(self) -> "Call":
        """The same call of its first image alone."""
        return Call(self.latents[:1], self.timestep, self.condition.select([0]), self.prediction[:1])

    def error(self, backbone: "Backbone", denoiser: nn.Module | None = None) -> float:
        """||E_Q - E||^2 / ||E||^2 when `denoiser` (None = full precision) gets the same; infinite if its
        answer is not finite.
        """
        prediction = self.prediction.float()
        found = uncounted(backbone, self.latents, self.timestep, self.condition, denoiser)
        return float(relative_errors(found - prediction, prediction).sum())


@dataclass
class LayerInputs:
    """What one layer was fed over all calls.

    largest: per input channel, the largest magnitude, shape (channels,), on the CPU.
    first: the first token's row, shape (channels,), if it was the same in every image and call, else None.
    """

    largest: Tensor
    first: Tensor | None

    def add(self, x: Tensor, conv: bool) -> None:
        """Take in one more input, (..., channels) of a Linear or (batch, channels, height, width) of a
        Conv2d.
        """
        self.largest = torch.maximum(self.largest, _largest(x, conv))
        row = _first_row(x)
        same = row is not None and self.first is not None and _same(torch.stack([row, self.first]))
        self.first = self.first if same else None


@dataclass
class Observation:
    """A full-precision trajectory: every call of the denoiser, and by name what the watched
    layers were fed.
    """

    calls: list[Call] = field(default_factory=list)
    inputs: dict[str, LayerInputs] = field(default_factory=dict)


@torch.inference_mode()
def observe(backbone: "Backbone", watch: Iterable[str] = (), prompts: int = PROMPTS) -> Observation:
    """Sample the backbone's first examples in full precision and record it; backbone.calls stays as it was.

    Args:
        watch: dotted names of Linear and Conv2d layers whose inputs to record.
        prompts: how many examples, 1 or 2.
    """
    seen, denoiser, calls = Observation(), backbone.denoiser, backbone.calls
    texts = list((*backbone.spec.examples, *FALLBACK)[:prompts])

    def fed(name: str, layer: nn.Module) -> Any:
        conv = isinstance(layer, nn.Conv2d)

        def take(module: nn.Module, args: tuple) -> None:
            x = args[0].detach()
            if name in seen.inputs:
                seen.inputs[name].add(x, conv)
            else:
                seen.inputs[name] = LayerInputs(_largest(x, conv), None if conv else _first_row(x))

        return layer.register_forward_pre_hook(take)

    hooks = [fed(name, denoiser.get_submodule(name)) for name in watch]
    try:
        noise, condition = draw_noise(backbone.latent_shape, 0, range(len(texts))), backbone.encode(texts)
        scheduler = prepare_scheduler(backbone, backbone.ready_steps, None)
        size = backbone.images_at_once(len(texts))
        parts = [range(begin, min(begin + size, len(texts))) for begin in range(0, len(texts), size)]

        def predict(index: int, latents: Tensor, x: Tensor, timestep: Tensor) -> Tensor:
            found = [
                backbone.predict(x[part[0] : part[-1] + 1], timestep, condition.select(part))
                for part in parts
            ]
            seen.calls.append(Call(x, timestep, condition, torch.cat(found)))
            return seen.calls[-1].prediction

        walk(backbone, scheduler, start_latents(backbone, scheduler, noise), noise.generators(), predict)
    finally:
        backbone.calls = calls
        for hook in hooks:
            hook.remove()
    return seen


def uncounted(
    backbone: "Backbone",
    latents: Tensor,
    timestep: Tensor,
    condition: "Condition",
    denoiser: nn.Module | None = None,
) -> Tensor:
    """Backbone.predict as float32, with backbone.calls left as it was."""
    calls = backbone.calls
    prediction = backbone.predict(latents, timestep, condition, denoiser).float()
    backbone.calls = calls
    return prediction


def relative_errors(change: Tensor, prediction: Tensor) -> Tensor:
    """||change||^2 / ||prediction||^2 over all images, added up per image: shape (batch,); infinite for what
    is not finite.
    """
    error = change.square().flatten(1).sum(1) / prediction.square().sum().clamp(min=1e-30)
    return error.nan_to_num(float("inf"), float("inf"))


def _largest(x: Tensor, conv: bool) -> Tensor:
    dims = (0, *range(2, x.dim())) if conv else tuple(range(x.dim() - 1))
    return x.abs().amax(dims).float().cpu()


def _first_row(x: Tensor) -> Tensor | None:
    """The first token of x (batch, tokens, channels) if all images share it, else None."""
    if x.dim() != 3 or x.shape[1] < 2 or not _same(x[:, 0]):
        return None
    return x[0, 0].float().cpu()


def _same(rows: Tensor) -> bool:
    return bool((rows - rows[:1]).abs().max() <= CONSTANT * rows.abs().max())
