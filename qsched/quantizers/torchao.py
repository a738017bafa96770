"""torchao's W8A8 and W4A8, as the paper's own experiments quantize: Linear layers only, convolutions
untouched.

A cross-check with somebody else's arithmetic, and honest about two things: torchao keeps one 4-bit weight per
byte, so that W4A8 is stored no smaller than W8A8, and its modules can be copied but not pickled.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from qsched.quantization import (
    DEFAULT_KEEP,
    BitWidth,
    SizeReport,
    check_options,
    layers_to_pack,
    stored_bytes,
)

GROUP = 32
"""Input channels per weight scale at 4 bits, torchao's own choice; layers that it does not divide keep their
precision.
"""
WIDTHS = ("w8a8", "w4a8")


def torchao_available() -> str | None:
    """Why torchao cannot be used here, one sentence, or None if it can."""
    if importlib.util.find_spec("torchao") is None:
        return "torchao is not installed (pip install torchao)."
    try:
        _torchao()
    except Exception as error:  # built for another torch, or a version with other names
        return f"torchao cannot be used here: {str(error).splitlines()[0] if str(error) else type(error).__name__}."  # noqa: E501
    return None


def torchao_quantize(module: nn.Module, bits: str | BitWidth, *, group_size: int | None = None,
                     activation_scale: str = "token",
                     keep: Iterable[str] = DEFAULT_KEEP) -> SizeReport:  # fmt: skip
    """Replace the weights of Linear layers by torchao's quantized tensors, in place.

    Args:
        bits: "w8a8" (one scale per output channel, int8 products) or "w4a8" (groups, products in floating
            point).
        group_size: at w4a8, input channels per weight scale; None is GROUP.
        activation_scale: "token"; torchao has no other here.
        keep: as qsched.quantization.convert.quantize.
    Returns:
        a report whose bytes_after counts integers as they lie and floats as float16, like any other report.
    Raises:
        ValueError: a bit-width or an option that torchao does not have, or nothing to quantize.
    """
    bits = BitWidth.parse(bits)
    check_options(group_size, activation_scale, "linear")
    if str(bits) not in WIDTHS:
        raise ValueError(f"torchao quantizes to {' and '.join(WIDTHS)}, not to {bits}.")
    if activation_scale != "token":
        raise ValueError("torchao has one activation scale per token, not per tensor.")
    if group_size is not None and bits.weight == 8:
        raise ValueError("torchao's w8a8 has one weight scale per output channel: leave out the group size.")
    ao, report = _torchao(), SizeReport(str(bits), stored_bytes(module))
    groups, report.kept = layers_to_pack(module, "linear", (keep,) if isinstance(keep, str) else tuple(keep))
    size = group_size or GROUP
    layers = [module.get_submodule(names[0]) for names in groups]
    if bits.weight == 8:
        config = ao.Int8DynamicActivationInt8WeightConfig()
    else:
        granularity = ao.PerGroup(size)
        config = ao.Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int4, weight_granularity=granularity
        )
        layers = [layer for layer in layers if layer.in_features % size == 0]
    if not layers:
        raise ValueError(
            f"nothing to quantize: no group of {size} divides the input channels of a Linear in scope"
        )
    chosen = set(map(id, layers))
    ao.quantize_(module, config, filter_fn=lambda layer, name: id(layer) in chosen)
    report.quantized = {"linear": len(layers)}
    report.execution = {"int8" if bits.weight == 8 else "fake": len(layers)}
    report.bytes_after, report.bytes_in_memory = _bytes(module, 2), _bytes(module, None)
    report.notes.append("Linear layers only, by torchao; convolutions in full precision")
    if bits.weight == 4:
        left = len(groups) - len(layers)
        report.notes.append(
            f"one 4-bit weight per byte, groups of {size}"
            + (f"; {left} layers that these do not divide stay in full precision" if left else "")
        )
    return report


def _torchao() -> Any:
    from torchao import quantization

    names = "quantize_ PerGroup Int8DynamicActivationInt8WeightConfig Int8DynamicActivationIntxWeightConfig".split()  # noqa: E501
    if missing := [name for name in names if not hasattr(quantization, name)]:
        raise ImportError(f"this version has no {', '.join(missing)}")
    return quantization


def _bytes(module: nn.Module, float_bytes: int | None) -> int:
    """As stored_bytes, looking into torchao's tensors: integers as they lie, floats as asked."""
    tensors = {id(t): t for t in module.state_dict(keep_vars=True).values() if isinstance(t, Tensor)}
    parts = [part for tensor in tensors.values() for part in _plain_tensors(tensor)]
    each = lambda t: t.element_size() if float_bytes is None or not t.is_floating_point() else float_bytes
    return sum(part.numel() * each(part) for part in parts)


def _plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain_tensors(getattr(tensor, name))
