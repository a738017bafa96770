"""Integers of 2, 3, 4 or 8 bits: how they are rounded, how they lie in bytes, and how two int8 matrices are
multiplied.

The arithmetic under convert.py, kept apart because it can be read, tested and used without any layer.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHT_BITS = (2, 3, 4, 8)
ACTIVATION_BITS = (4, 8, 16)
NUDGE = 1 - 1e-4
"""Shrinks every scale a little, so that the maximum of a group is no rounding tie whose fate depends on the
device.
"""
_ALLOWED = (
    f"write wNaM with N (weight bits) one of {', '.join(map(str, WEIGHT_BITS))} and M (activation "
    f"bits) one of "
    f"{', '.join(map(str, ACTIVATION_BITS))}, for example w4a8"
)


@dataclass(frozen=True)
class BitWidth:
    """Bits per weight and per activation; activation 16 leaves activations untouched. str(BitWidth(4, 8)) ==
    "w4a8".
    """

    weight: int
    activation: int

    def __post_init__(self) -> None:
        if self.weight not in WEIGHT_BITS or self.activation not in ACTIVATION_BITS:
            raise ValueError(f"unknown bit-width {str(self)!r}: {_ALLOWED}")

    def __str__(self) -> str:
        return f"w{self.weight}a{self.activation}"

    @classmethod
    def parse(cls, bits: str | BitWidth) -> BitWidth:
        """Read "w4a8". Raises ValueError that lists what is allowed."""
        if isinstance(bits, BitWidth):
            return bits
        match = re.fullmatch(r"w(\d+)a(\d+)", str(bits).strip().lower())
        if match is None:
            raise ValueError(f"unknown bit-width {bits!r}: {_ALLOWED}")
        return cls(int(match[1]), int(match[2]))


def pack(values: Tensor, bits: int) -> Tensor:
    """Store signed integers of `bits` bits (2, 3, 4 or 8) in bytes, with nothing wasted but the last bytes'
    padding.

    Values are offset to be unsigned and written planar: byte j holds values j, j + n, j + 2n ..., which
    unpacks in long contiguous runs. 3 bits are a plane of the low two bits followed by a plane of the high
    bit.

    Args:
        values: int8, any shape, each in [-2^(bits-1), 2^(bits-1) - 1].
    Returns:
        8 bits: the int8 tensor as it is. Else uint8, one dimension, about numel * bits / 8 bytes.
    """
    if bits == 8:
        return values.contiguous()
    unsigned = (values.flatten() + 2 ** (bits - 1)).to(torch.uint8)
    if bits == 3:
        return torch.cat([_pack_plane(unsigned & 3, 2), _pack_plane(unsigned >> 2, 1)])
    return _pack_plane(unsigned, bits)


LAYOUT_BYTES = 3
"""What every packed layer stores besides: the bits of weights and activations, and what shares an activation
scale.
"""


def packed_bytes(numel: int, bits: int) -> int:
    """Bytes of pack() for this many integers."""
    plane = lambda bits: -(-numel * bits // 8)
    return plane(2) + plane(1) if bits == 3 else plane(bits)


def unpack(packed: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """The int8 tensor of this shape that pack(values, bits) was made from, bit for bit."""
    if bits == 8:
        return packed.view(shape)
    numel = prod(shape)
    if bits == 3:
        low = -(-numel // 4)
        unsigned = _unpack_plane(packed[:low], 2, numel).add_(_unpack_plane(packed[low:], 1, numel), alpha=4)
    else:
        unsigned = _unpack_plane(packed, bits, numel)
    return unsigned.view(torch.int8).sub_(2 ** (bits - 1)).view(shape)


def _pack_plane(unsigned: Tensor, bits: int) -> Tensor:
    per_byte = 8 // bits
    columns = F.pad(unsigned, (0, -unsigned.numel() % per_byte)).view(per_byte, -1)
    packed = columns[0].clone()
    for i in range(1, per_byte):
        packed |= columns[i] << (i * bits)
    return packed


def _unpack_plane(packed: Tensor, bits: int, numel: int) -> Tensor:
    per_byte = 8 // bits
    columns = packed.new_empty(per_byte, packed.numel())
    for i in range(per_byte):
        torch.bitwise_right_shift(packed, i * bits, out=columns[i])
    return columns.bitwise_and_(2**bits - 1).view(-1)[:numel]


def quantize_activation(x: Tensor, bits: int, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Dynamic symmetric quantization in float32 (a float16 floor would underflow and turn all-zero tokens
    into NaN).

    Args:
        x: activations of any shape and floating dtype.
        dims: the dimensions that share one scale.
    Returns:
        q: integers in [-2^(bits-1), 2^(bits-1) - 1] as float32, the shape of x.
        scale: float32, with dims kept as 1, so that x is about q * scale.
    """
    x = x.float()
    scale = x.abs().amax(dims, keepdim=True).mul_(NUDGE / (2 ** (bits - 1) - 0.5)).clamp_(min=1e-30)
    return x.div(scale).round_().clamp_(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), scale


@torch.compiler.assume_constant_result
def has_vnni() -> bool:
    """Whether this CPU has instructions for sums of int8 products; a constant for torch.compile."""
    return getattr(torch.cpu, "_is_vnni_supported", lambda: False)()


EXACT = 1024
"""So many products of two int8 values add up to at most 2^24: float32 holds all whole numbers up to it."""


def _exact_float_mm(a: Tensor, b: Tensor) -> Tensor:
    """As int_mm by the float units: without VNNI torch._int_mm takes 17 times as long on a 12 M-parameter
    U-Net.
    """
    parts = (
        (x.float() @ y.float().t()).to(torch.int32)
        for x, y in zip(a.split(EXACT, 1), b.split(EXACT, 1), strict=True)
    )
    return functools.reduce(torch.add, parts)


def int_mm(a: Tensor, b: Tensor, pad: bool | None = None) -> Tensor:
    """a @ b.T for int8 a (M, K) and b (N, K), exact in int32 (M, N).

    Args:
        pad: fill up with zeros to what CUDA asks for (M > 16, K and N multiples of 8); None is on CUDA only.
    """
    (m, k), n = a.shape, b.shape[0]
    if (a.is_cuda if pad is None else pad) and (m <= 16 or k % 8 or n % 8):
        a, b = F.pad(a, (0, -k % 8, 0, max(0, 32 - m))), F.pad(b, (0, -k % 8, 0, -n % 8))
    if a.device.type == "cpu" and not has_vnni():
        return _exact_float_mm(a, b)[:m, :n]
    # contiguous: CPU kernels were seen 280x slower on strided matrices
    return torch._int_mm(a.contiguous(), b.contiguous().t())[:m, :n]
