"""SVDQuant's idea (arXiv 2411.05007) on this package's packed layers: a low-rank branch takes what 4 bits
cannot.

Per layer: outliers move from the activations into the weights (smoothing), the weights' largest r = 32
directions go into a branch in the carrier's precision, and the residual is packed and multiplied with rounded
activations like any other layer (low_rank.py). Linear and Conv2d, any family, any bit-width.

What differs from the paper: scales as asked for (per output channel and token, unless group_size says
otherwise), no GPTQ on the residual, one smoothing strength for all layers instead of a search per layer, and
no fused kernels, so that the branch costs time here instead of saving it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qsched.quantization import BitWidth, SizeReport, layers_to_pack, packed_bytes, quantize
from qsched.quantizers.calibration import observe
from qsched.quantizers.low_rank import LowRankLayer
from qsched.words import size

if TYPE_CHECKING:
    from qsched.models.base import Backbone

RANK = 32
STRENGTH = 0.25
"""Share of an activation outlier that smoothing moves into the weights, alpha of arXiv 2211.10438. Of 0,
0.25, 0.5, 0.75 it left the smallest error in the embedded model's calibration calls."""
LIMIT = 64.0
"""Divisors lie between 1 / LIMIT and LIMIT, so that float16 holds what they divide and multiply."""
_SEEN: weakref.WeakKeyDictionary[nn.Module, dict[tuple, dict[str, Tensor]]] = weakref.WeakKeyDictionary()


def svdquant(module: nn.Module, bits: str | BitWidth, *, rank: int = RANK,
             largest: Mapping[str, Tensor] | None = None, **options: Any) -> SizeReport:  # fmt: skip
    """quantize() with a low-rank branch beside every layer that is large enough for one, in place.

    Args:
        bits: of the residual.
        rank: of the branch; layers whose smaller side is not above 2 * rank get less, those whose branch
            would take more bytes than packing saves get none.
        largest: largest input magnitude per channel, by layer name, for smoothing; a layer without is not
            smoothed.
        options: of qsched.quantization.convert.quantize.
    Raises:
        ValueError: as quantize().
    """
    if type(rank) is not int or rank < 1:
        raise ValueError(f"rank {rank!r} is no positive whole number")
    bits, largest = BitWidth.parse(bits), largest or {}
    without, branch_bytes, smoothed = [], 0, 0

    def make(name: str, layer: nn.Module, pack: Any) -> nn.Module:
        nonlocal branch_bytes, smoothed
        chosen = rank_for(layer, bits, rank)
        if not chosen:
            without.append(name)
            return pack(layer)
        divisors = smoothing(largest[name], layer.weight.detach()) if name in largest else None
        made = LowRankLayer(layer, chosen, divisors, pack)
        branch_bytes += 2 * (made.down.weight.numel() + made.up.weight.numel() + made.smooth.numel())
        smoothed += divisors is not None
        return made

    report = quantize(module, bits, make=make, **options)
    beside = sum(report.quantized.values()) - len(without)
    report.notes.append(
        f"SVDQuant: a branch of rank {rank} or less in 16 bits beside {beside} of "
        f"{sum(report.quantized.values())} layers, {size(branch_bytes)} of the stored size; "
        f"inputs smoothed in {smoothed} of them; no GPTQ, no fused kernels"
    )
    if without:
        report.notes.append(
            f"no branch beside {len(without)} of them: it would take more bytes than their packing "
            f"saves, or they are grouped convolutions"
        )
    return report


def smoothing_inputs(backbone: Backbone, scope: str, keep: tuple[str, ...]) -> dict[str, Tensor]:
    """Largest input magnitude per channel of every layer that quantize() would pack, over the calibration
    calls; remembered as long as the denoiser."""
    known = _SEEN.setdefault(backbone.denoiser, {})
    if (scope, keep) not in known:
        names = [group[0] for group in layers_to_pack(backbone.denoiser, scope, keep)[0]]
        known[scope, keep] = {
            name: inputs.largest for name, inputs in observe(backbone, names).inputs.items()
        }
    return known[scope, keep]


def rank_for(layer: nn.Module, bits: BitWidth, rank: int = RANK) -> int:
    """The rank of a layer's branch: below half of the smaller side of its weight matrix, 0 where it does not
    pay.
    """
    weight = layer.weight
    rows, columns = weight.shape[0], weight[0].numel()
    rank = min(rank, (min(rows, columns) - 1) // 2)
    saved = 2 * weight.numel() - packed_bytes(weight.numel(), bits.weight)
    costs = 2 * (rank * (rows + columns) + weight.shape[1])
    return rank if rank > 0 and costs < saved and getattr(layer, "groups", 1) == 1 else 0


def smoothing(largest: Tensor, weight: Tensor, strength: float = STRENGTH) -> Tensor:
    """s_j = max|x_j|^strength / max|W_j|^(1 - strength) per input channel, scaled to a geometric mean of 1
    (float32).

    Args:
        largest: max|x_j|, shape (in channels,). weight: (out, in, ...).
    """
    x = largest.to(weight.device, torch.float32).clamp(min=1e-5)
    w = weight.float().abs().transpose(0, 1).flatten(1).amax(1).clamp(min=1e-5)
    s = strength * x.log() - (1 - strength) * w.log()
    return (s - s.mean()).exp().clamp(1 / LIMIT, LIMIT)
