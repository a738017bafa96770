"""What the rivals need to see of a model at work: its own full-precision trajectory on its own example prompts.

Nothing here knows a family: hooks record what the denoiser was called with, so that the very same calls can be repeated
on a copy whose weights were rounded, and what each layer was fed. The prompts are the backbone's examples, the noise is
drawn on the CPU from seed 0 and the scheduler is the stock one at the default step count, so one machine always sees the
same thing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qsched.sampling import draw_noise, sample

if TYPE_CHECKING:
    from qsched.backbones import Backbone

PROMPTS = 2
"""The fewest that show whether a token is the same in all of them."""
FALLBACK = ("a red apple on a wooden table", "a fox in the snow")
CONSTANT = 1e-3
"""First tokens that differ by less than this share of their largest value are one and the same."""


@dataclass(frozen=True)
class Call:
    """One call of the full-precision denoiser: its arguments, and the prediction it gave as float32."""

    args: tuple
    kwargs: dict[str, Any]
    prediction: Tensor

    def error(self, denoiser: nn.Module) -> float:
        """||E_Q - E||^2 / ||E||^2 when `denoiser` gets the same arguments; infinite if its answer is not finite."""
        with torch.no_grad():
            change = prediction_of(denoiser(*self.args, **self.kwargs)) - self.prediction
        error = float(change.square().sum() / self.prediction.square().sum().clamp(min=1e-30))
        return error if error == error else float("inf")


@dataclass
class LayerInputs:
    """What one layer was fed over all calls.

    largest: per input channel, the largest magnitude, shape (channels,), on the CPU.
    first: the first token's row, shape (channels,), if it was the same in every image and call, else None.
    """

    largest: Tensor
    first: Tensor | None

    def add(self, x: Tensor, conv: bool) -> None:
        """Take in one more input, (..., channels) of a Linear or (batch, channels, height, width) of a Conv2d."""
        self.largest = torch.maximum(self.largest, _largest(x, conv))
        row = _first_row(x)
        same = row is not None and self.first is not None and _same(torch.stack([row, self.first]))
        self.first = self.first if same else None


@dataclass
class Observation:
    """A full-precision trajectory: every call of the denoiser, and by name what the watched layers were fed."""

    calls: list[Call] = field(default_factory=list)
    inputs: dict[str, LayerInputs] = field(default_factory=dict)


def observe(backbone: "Backbone", watch: Iterable[str] = (), prompts: int = PROMPTS) -> Observation:
    """Sample the backbone's first examples in full precision and record it; backbone.calls stays as it was.

    Args:
        watch: dotted names of Linear and Conv2d layers whose inputs to record.
        prompts: how many examples, 1 or 2.
    """
    seen, denoiser, calls = Observation(), backbone.denoiser, backbone.calls
    texts = list((*backbone.spec.examples, *FALLBACK)[:prompts])

    def answered(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        seen.calls.append(Call(args, kwargs, prediction_of(output)))

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
    hooks.append(denoiser.register_forward_hook(answered, with_kwargs=True))
    try:
        noise = draw_noise(backbone.latent_shape, 0, range(len(texts)))
        sample(backbone, backbone.encode(texts), noise, backbone.ready_steps)
    finally:
        backbone.calls = calls
        for hook in hooks:
            hook.remove()
    return seen


def prediction_of(output: Any) -> Tensor:
    """The prediction in what a denoiser returns (a tensor, a tuple or a diffusers output), as float32."""
    return (output if isinstance(output, Tensor) else output[0]).float()


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
