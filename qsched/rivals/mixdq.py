"""MixDQ's idea (arXiv 2405.17873) on this package's packed layers: a constant first token apart, bits where they matter.

BOS-aware: cross-attention's to_k and to_v read the text, whose first token is the same for every prompt and, in CLIP, an
outlier. Its outputs are computed once in full precision (bos.py), and the activation quantizer sees the other tokens.

Mixed precision: every layer's weights alone are rounded to 2, 4 and 8 bits and the calibration calls repeated; the squared
relative error of the prediction is the layer's sensitivity (sensitivity.py). Then bits are given out (allocation.py) so
that the packed weights take no more bytes than plain N-bit ones, N from "wNaM". Activations have M bits everywhere.

What differs from the paper: one measure of sensitivity instead of two (content and quality), greedy upgrades instead of
an integer program, no mixed activation bits, dynamic activation scales.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from qsched.packing import BitWidth, packed_bytes
from qsched.quantization import DEFAULT_KEEP, SizeReport, layers_to_pack, quantize
from qsched.rivals.allocation import allocate
from qsched.rivals.bos import BosLinear, constant_output
from qsched.rivals.calibration import observe
from qsched.rivals.sensitivity import CHOICES, layer_errors

if TYPE_CHECKING:
    from qsched.backbones import Backbone

READS_TEXT = ("to_k", "to_v")
"""Last part of the name of layers whose first token is looked at."""


@dataclass(frozen=True)
class Plan:
    """What calibration decided; with it, mixdq() needs no backbone.

    weight_bits: by layer name. tokens: the constant first input row (in,) of layers that have one, on the CPU.
    """

    weight_bits: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Sensitivity:
    """Squared relative error of the prediction by layer and bits, and the layers' constant first tokens."""

    errors: dict[str, dict[int, float]]
    tokens: dict[str, Tensor]


_MEASURED: weakref.WeakKeyDictionary[nn.Module, dict[tuple, Sensitivity]] = weakref.WeakKeyDictionary()


def mixdq(module: nn.Module, bits: str | BitWidth, plan: Plan, **options: Any) -> SizeReport:
    """quantize() as a plan says, in place. To load a saved state_dict, use the same plan on the same architecture.

    Args:
        bits: of the activations, and of the weights of layers that the plan does not name.
        options: of qsched.quantization.quantize.
    Raises:
        ValueError: as quantize().
    """
    bits = BitWidth.parse(bits)

    def make(name: str, layer: nn.Module, pack: Any) -> nn.Module:
        packed = pack(layer, BitWidth(plan.weight_bits.get(name, bits.weight), bits.activation))
        token = plan.tokens.get(name)
        return packed if token is None else BosLinear(packed, constant_output(layer, token))

    report = quantize(module, bits, make=make, **options)
    spread = ", ".join(f"{count} layers {name}" for name, count in report.layer_bits.items())
    report.notes.append(
        f"MixDQ: weight bits by measured sensitivity within the bytes of plain {bits}: {spread or f'all {bits}'}"
    )
    aware = len(plan.tokens)
    report.notes.append(
        f"the text's first token is kept out of the activation quantizer in {aware} layers, its outputs computed in full precision"
        if aware else "no cross-attention layer reads a constant first token, so none is kept out of the activation quantizer"
    )  # fmt: skip
    return report


def plan(sensitivity: Sensitivity, module: nn.Module, bits: str | BitWidth) -> Plan:
    """Bits per layer within the bytes of plain quantization, and the constant first tokens.

    Args:
        module: the full-precision denoiser. bits: "wNaM"; N sets the budget.
    """
    bits = BitWidth.parse(bits)
    numel = {name: module.get_submodule(name).weight.numel() for name in sensitivity.errors}
    sizes = {name: {b: packed_bytes(n, b) for b in CHOICES} for name, n in numel.items()}
    budget = sum(packed_bytes(n, bits.weight) for n in numel.values())
    return Plan(allocate(sensitivity.errors, sizes, budget, bits.weight), sensitivity.tokens)


def measure(backbone: Backbone, **options: Any) -> Sensitivity:
    """What `measuring` finds, in one go; the same options."""
    for _ in measuring(backbone, **options):
        pass
    return _MEASURED[backbone.denoiser][_key(**options)]


def measuring(backbone: Backbone, **options: Any) -> Iterator[tuple[int, int]]:
    """Find the sensitivity of every layer that quantize() would pack, a batch at a time; gives (trials done, all) in between.

    Four trials per layer, of one image each: two bit-widths at the first and at the last step, which order the layers as
    all steps and more prompts do (correlation 0.99 on the embedded model). Only weights are rounded, so that all bit-widths
    share one measurement. It is remembered as long as the denoiser is; ends early if the backbone gets another denoiser, or
    if somebody else has measured this one meanwhile.

    Args:
        options: group_size, scope and keep of qsched.quantization.quantize.
    """
    denoiser, key = backbone.denoiser, _key(**options)
    known = _MEASURED.setdefault(denoiser, {})
    if key in known:
        return
    group_size, scope, keep = key
    names = [group[0] for group in layers_to_pack(denoiser, scope, keep)[0]]
    seen = observe(backbone, names)
    readers = [name for name in names if name.rpartition(".")[2] in READS_TEXT and name in seen.inputs]
    tokens = {name: seen.inputs[name].first for name in readers}
    calls = [call.first_image() for call in seen.calls]
    errors, trials = {}, layer_errors(backbone, names, [calls[0], calls[-1]] if len(calls) > 1 else calls, group_size)
    while True:
        try:
            done = next(trials)
        except StopIteration as end:
            errors = end.value
            break
        yield done
        if backbone.denoiser is not denoiser or key in known:
            return
    known[key] = Sensitivity(errors, {name: token for name, token in tokens.items() if token is not None})


def _key(group_size: int | None = None, scope: str = "all", keep: tuple[str, ...] = DEFAULT_KEEP) -> tuple:
    return group_size, scope, keep
