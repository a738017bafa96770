"""MixDQ's idea (arXiv 2405.17873) on this package's packed layers: a constant first token apart, bits where
they matter.

BOS-aware: cross-attention's to_k and to_v read the text, whose first token is the same for every prompt and,
in CLIP, an outlier. Its outputs are computed once in full precision (bos.py), and the activation quantizer
sees the other tokens.

Mixed precision: every layer's weights alone are rounded to 2, 4 and 8 bits and the calibration calls
repeated; the squared relative error of the prediction is the layer's sensitivity (sensitivity.py). Then bits
are given out (allocation.py) so that the packed weights take no more bytes than plain N-bit ones, N from
"wNaM". Activations have M bits everywhere.

What differs from the paper: one measure of sensitivity instead of two (content and quality), greedy upgrades
instead of an integer program, no mixed activation bits, dynamic activation scales.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from qsched.quantization import DEFAULT_KEEP, BitWidth, SizeReport, layers_to_pack, packed_bytes, quantize
from qsched.quantizers.allocation import allocate
from qsched.quantizers.bos import BosLinear, constant_output
from qsched.quantizers.calibration import observe
from qsched.quantizers.sensitivity import CHOICES, LayerErrors

if TYPE_CHECKING:
    from qsched.models.base import Backbone

READS_TEXT = ("to_k", "to_v")
"""Last part of the name of layers whose first token is looked at."""


@dataclass(frozen=True)
class Plan:
    """What calibration decided; with it, mixdq() needs no backbone.

    weight_bits: by layer name. tokens: the constant first input row (in,) of layers that have one, on the
        CPU.
    """

    weight_bits: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Sensitivity:
    """Squared relative error of the prediction by layer and bits, and the layers' constant first tokens."""

    errors: dict[str, dict[int, float]]
    tokens: dict[str, Tensor]


_MEASURED: weakref.WeakKeyDictionary[nn.Module, dict[tuple, tuple[Sensitivity, LayerErrors]]] = (
    weakref.WeakKeyDictionary()
)


def mixdq(module: nn.Module, bits: str | BitWidth, plan: Plan, **options: Any) -> SizeReport:
    """quantize() as a plan says, in place. To load a saved state_dict, use the same plan on the same
    architecture.

    Args:
        bits: of the activations, and of the weights of layers that the plan does not name.
        options: of qsched.quantization.convert.quantize.
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
        f"MixDQ: weight bits by measured sensitivity within the bytes of plain {bits}: {spread or f'all {bits}'}"  # noqa: E501
    )
    aware = len(plan.tokens)
    report.notes.append(
        (
                f"the text's first token is kept out of the activation quantizer in {aware} layers, its "
                f"outputs computed in full precision"
                )
        if aware else (
                "no cross-attention layer reads a constant first token, so none is kept out of the "
                "activation quantizer"
                )
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
    """What `calibrate` finds, in one go; the same options."""
    while calibrate(backbone, **options):
        pass
    return _MEASURED[backbone.denoiser][_key(**options)][0]


def calibrate(backbone: Backbone, **options: Any) -> tuple[int, int] | None:
    """Go on finding the sensitivity of every layer that quantize() would pack: one batch of trials a call.

    Four trials per layer, of one image each: two bit-widths at the first and at the last step, which order
    the layers as all steps and more prompts do (correlation 0.99 on the embedded model). Only weights are
    rounded, so that all bit-widths share one measurement. What is found is remembered as long as the denoiser
    is, and whoever asks goes on with it.

    Args:
        options: group_size, scope and keep of qsched.quantization.convert.quantize.
    Returns:
        (trials done, all); None if everything was known before.
    """
    key, known = _key(**options), _MEASURED.setdefault(backbone.denoiser, {})
    if key not in known:
        known[key] = _begin(backbone, *key)
        return 0, known[key][1].total
    trials = known[key][1]
    if trials.done == trials.total:
        return None
    trials.advance(backbone)
    return trials.done, trials.total


def _begin(
    backbone: Backbone, group_size: int | None, scope: str, keep: tuple[str, ...]
) -> tuple[Sensitivity, LayerErrors]:
    names = [group[0] for group in layers_to_pack(backbone.denoiser, scope, keep)[0]]
    seen = observe(backbone, names)
    readers = [name for name in names if name.rpartition(".")[2] in READS_TEXT and name in seen.inputs]
    tokens = {name: seen.inputs[name].first for name in readers if seen.inputs[name].first is not None}
    calls = [call.first_image() for call in seen.calls]
    trials = LayerErrors(backbone, names, [calls[0], calls[-1]] if len(calls) > 1 else calls, group_size)
    return Sensitivity(trials.found, tokens), trials


def _key(group_size: int | None = None, scope: str = "all", keep: tuple[str, ...] = DEFAULT_KEEP) -> tuple:
    return group_size, scope, keep
