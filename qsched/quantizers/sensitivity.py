"""How much the prediction suffers when the weights of one layer alone are rounded, for every layer, many in
one batch.

Every image of a batch is a trial: one layer with so many bits, in one of the calibration calls. A layer
computes the batch with its own weights and, once more, the few images that try it with rounded ones; all else
in the model is computed for the whole batch at once. Trials go in the order in which the layers run, and the
blocks that end before the first layer of a batch return what they returned without any rounding. So a
denoiser of N layers costs N / 4 calls of 16 images, on average of half its depth, instead of 4 N calls of
one; the numbers are the same up to float rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from qsched.quantization import BitWidth, QuantConv2d, QuantLinear
from qsched.quantizers.calibration import Call, relative_errors, uncounted

if TYPE_CHECKING:
    from qsched.models.base import Backbone

CHOICES = (2, 4, 8)
"""Bits per weight that a layer can be given."""
TRIED = (2, 4)
"""Those that are tried; at 8 bits the error is that at 4 bits times the ratio of the weights' own rounding
errors, since what is left drowns in the carrier's rounding."""
AT_ONCE = 16
"""Trials in one call: enough to keep a device busy, few enough that whoever waits for it waits a moment."""
HOST = torch.device("cpu")


@dataclass(frozen=True)
class Trial:
    """One layer with so many bits per weight in one of the calls."""

    layer: str
    bits: int
    call: int


@dataclass
class Unrounded:
    """The calls without any rounding. order: the layers as they first run. blocks: what blocks returned, in
    main memory, per call, and how many of the layers had begun to run when the block ended."""

    predictions: list[Tensor] = field(default_factory=list)
    order: dict[str, int] = field(default_factory=dict)
    blocks: dict[str, tuple[int, list[Any]]] = field(default_factory=dict)


class LayerErrors:
    """Mean error of the calls with one layer's weights rounded to 2, 4 and 8 bits, for every layer, found a
    batch at a time.

    Between two batches the denoiser is as it was, and others may use it; no part of it is held here.

    Args:
        names: of Linear and Conv2d layers.
        calls: of one image each.
    Attributes:
        found: {layer: {bits: error}}, complete as soon as `done` is `total`; these count trials.
    """

    def __init__(
        self, backbone: Backbone, names: Sequence[str], calls: Sequence[Call], group_size: int | None = None
    ) -> None:
        self._calls, self._group_size = calls, group_size
        self._seen = _without_rounding(backbone, names, calls)
        self._trials = [
            Trial(name, bits, i) for name in self._seen.order for bits in TRIED for i in range(len(calls))
        ]
        self._rounding: dict[str, dict[int, float]] = {}
        self.found = {name: dict.fromkeys(CHOICES, 0.0) for name in names}  # of a layer that never runs, too
        self.done, self.total = 0, len(self._trials)

    def advance(self, backbone: Backbone) -> None:
        """Try one more batch, with the same backbone."""
        batch = self._trials[self.done : self.done + backbone.images_at_once(AT_ONCE)]
        errors = _errors(backbone, batch, self._calls, self._seen, self._rounding, self._group_size)
        for trial, error in zip(batch, errors, strict=True):
            self.found[trial.layer][trial.bits] += error / len(self._calls)
        self.done += len(batch)
        if self.done == self.total:
            for name, noise in self._rounding.items():
                self.found[name][8] = self.found[name][4] * noise[8] / max(noise[4], 1e-30)
            self._seen = Unrounded()  # nobody needs it any more


def _without_rounding(backbone: Backbone, names: Sequence[str], calls: Sequence[Call]) -> Unrounded:
    seen, denoiser, ended = Unrounded(), backbone.denoiser, {}
    layers = {denoiser.get_submodule(name): name for name in names}

    def begins(layer: nn.Module, args: tuple) -> None:
        seen.order.setdefault(layers[layer], len(seen.order))

    def ending(name: str) -> Any:
        def ends(block: nn.Module, args: tuple, output: Any) -> None:
            kept = tree_map(
                lambda value: value.to(HOST, copy=True) if isinstance(value, Tensor) else value, output
            )
            ended.setdefault(name, []).append((len(seen.order), kept))

        return ends

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(begins).remove)
        for name in _blocks(denoiser, set(layers)):
            stack.callback(denoiser.get_submodule(name).register_forward_hook(ending(name)).remove)
        for call in calls:
            seen.predictions.append(uncounted(backbone, call.latents, call.timestep, call.condition))
    # a block that runs several times in a call returns several things: it is computed always
    once = {name: times for name, times in ended.items() if len(times) == len(calls)}
    seen.blocks = {name: (times[0][0], [kept for _, kept in times]) for name, times in once.items()}
    return seen


def _errors(backbone: Backbone, batch: list[Trial], calls: Sequence[Call], seen: Unrounded,
            rounding: dict[str, dict[int, float]], group_size: int | None) -> list[float]:  # fmt: skip
    """The error of every trial of a batch; rounding gets the layers' own squared rounding errors by bits."""
    known, first = [trial.call for trial in batch], min(seen.order[trial.layer] for trial in batch)
    latents = torch.cat([calls[i].latents for i in known])
    timesteps = torch.stack([calls[i].timestep for i in known])
    with ExitStack() as stack:
        for name, (begun, outputs) in seen.blocks.items():
            if begun <= first:
                block = backbone.denoiser.get_submodule(name)
                stack.enter_context(_returning(block, [outputs[i] for i in known], backbone.device))
        for name in {trial.layer for trial in batch}:
            rows = {
                bits: [i for i, t in enumerate(batch) if (t.layer, t.bits) == (name, bits)] for bits in TRIED
            }
            layer = backbone.denoiser.get_submodule(name)
            stack.callback(layer.register_forward_hook(_tried(name, rows, rounding, group_size)).remove)
        found = uncounted(backbone, latents, timesteps, calls[0].condition.select([0] * len(batch)))
    wanted = [seen.predictions[i] for i in known]
    return [float(relative_errors(one[None] - e, e)) for one, e in zip(found, wanted, strict=True)]


def _tried(
    name: str, rows: dict[int, list[int]], rounding: dict[str, dict[int, float]], group_size: int | None
) -> Any:
    """A hook that gives some images what the layer gives with rounded weights."""

    def again(layer: nn.Module, args: tuple, output: Tensor) -> Tensor:
        output = output.clone()
        for bits in CHOICES if name not in rounding else [bits for bits in TRIED if rows[bits]]:
            weight = _rounded(layer, bits, group_size)
            if name not in rounding or bits not in rounding[name]:
                change = weight.float() - layer.weight.float()
                rounding.setdefault(name, {})[bits] = float(change.square().sum())
            if rows.get(bits):
                x = args[0][rows[bits]]
                linear = isinstance(layer, nn.Linear)
                output[rows[bits]] = (
                    F.linear(x, weight, layer.bias) if linear else layer._conv_forward(x, weight, layer.bias)
                )
        return output

    return again


def _blocks(denoiser: nn.Module, layers: set[nn.Module]) -> list[str]:
    """Names of list elements anywhere in a denoiser (blocks, and the blocks in them) that hold several of the
    layers.
    """
    lists = [(name, found) for name, found in denoiser.named_modules() if isinstance(found, nn.ModuleList)]
    elements = {part: f"{name}.{index}" for name, found in lists for index, part in enumerate(found)}
    return [name for part, name in elements.items() if sum(inner in layers for inner in part.modules()) > 1]


@contextmanager
def _returning(block: nn.Module, outputs: list[Any], device: torch.device) -> Iterator[None]:
    """Inside, a block computes nothing and returns what it returned in these calls, joined to a batch."""

    def joined(*args: Any, **kwargs: Any) -> Any:
        join = lambda *values: torch.cat(values).to(device) if isinstance(values[0], Tensor) else values[0]
        return tree_map(join, outputs[0], *outputs[1:])

    before = vars(block).get("forward")
    block.forward = joined
    try:
        yield
    finally:
        del block.forward
        if before is not None:
            block.forward = before


def _rounded(layer: nn.Module, bits: int, group_size: int | None) -> Tensor:
    """The layer's weights as they are after packing, in their own dtype."""
    kind = QuantLinear if isinstance(layer, nn.Linear) else QuantConv2d
    packed = kind(layer, BitWidth(bits, 16), group_size, execution="fake")
    with torch.no_grad():
        return packed.dequantize().to(layer.weight.dtype)
