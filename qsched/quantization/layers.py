"""The packed layers that stand in a model after quantize(), and how they choose to run.
convert.py says why.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .packing import NUDGE, BitWidth, int_mm, pack, quantize_activation, unpack

MOST_TERMS = 2**31 // 128**2 - 1
"""Products of two int8 values that fit one int32 sum."""
ACTIVATION_CODES = {"token": 0, "tensor": 1}


class PackedLayer(nn.Module):
    """What both layers share: packed weights (taps, out, in), their scales, and the optional
    unpacked copy.
    """

    kind = ""

    def __init__(self, weight: Tensor, bias: Tensor | None, bits: BitWidth, group_size: int | None,
                 activation_scale: str, execution: str, cache: bool) -> None:  # fmt: skip
        super().__init__()
        self.bits, self.activation_scale, self.execution, self.cache = (
            bits,
            activation_scale,
            execution,
            cache,
        )
        self.weight_shape = (taps, out, channels) = tuple(weight.shape)
        self.group_size = group_size if group_size and channels % group_size == 0 else None
        self.dtype = weight.dtype
        limit = 2 ** (bits.weight - 1)
        # buffers made in inference mode could not be loaded into
        with torch.inference_mode(False), torch.no_grad():
            values = weight.float().reshape(taps, out, -1, self.group_size or channels)
            absmax = values.abs().amax(3 if self.group_size else (0, 2, 3), keepdim=True)
            scale = (absmax * (NUDGE / (limit - 0.5))).clamp_(min=1e-30).to(torch.bfloat16)
            values = (values / scale.float()).round_().clamp_(-limit, limit - 1).to(torch.int8)
            self.register_buffer("packed", pack(values.view(self.weight_shape), bits.weight))
            self.register_buffer("scale", scale)
            layout = (bits.weight, bits.activation, ACTIVATION_CODES[activation_scale])
            self.register_buffer("layout", torch.tensor(layout, dtype=torch.uint8, device=weight.device))
            bias = None if bias is None else bias.detach()
            bias = bias.clone() if bias is not None and bias.is_inference() else bias
            self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._unpacked: tuple[tuple, Tensor] | None = None

    def integers(self) -> Tensor:
        """The int8 weights, shape (taps, out channels, in channels)."""
        return unpack(self.packed, self.bits.weight, self.weight_shape)

    def dequantize(self) -> Tensor:
        """The float32 weights that the packed ones stand for, shaped like those of the layer that was
        quantized.
        """
        taps, out, channels = self.weight_shape
        values = self.integers().view(taps, out, -1, self.group_size or channels)
        return self._to_float_layout((values * self.scale.float()).view(self.weight_shape))

    @property
    def weight(self) -> Tensor:
        """The weights as floats, for code that looks at a layer's weight; made anew at every access."""
        return self.dequantize().to(self.dtype)

    def uses(self, device: torch.device, dtype: torch.dtype) -> str:
        """The execution, "fake" or "int8", that inputs of this device and dtype get."""
        possible = self.group_size is None and self.bits.activation < 16 and self._int8_possible()
        if not possible or device.type not in ("cpu", "cuda"):
            return "fake"
        return automatic_execution(device) if self.execution == "auto" else self.execution

    def cache_need(self, mode: str, dtype: torch.dtype) -> int:
        """Bytes of unpacked weights this layer will hold once it has run in this mode on inputs of this
        dtype.
        """
        each = dtype.itemsize if mode == "fake" else int(self.bits.weight < 8)
        return prod(self.weight_shape) * each if self.cache else 0

    def cache_bytes(self) -> int:
        """Bytes of unpacked weights held at this moment besides the stored ones."""
        return 0 if self._unpacked is None else self._unpacked[1].nbytes

    def _int8_possible(self) -> bool:
        taps, _, channels = self.weight_shape
        return taps * channels <= MOST_TERMS

    def _autocast(self, x: Tensor) -> Tensor | None:
        """The layer's output in autocast's dtype, on either execution, None outside of autocast."""
        if x.is_meta or not torch.is_autocast_enabled(x.device.type) or x.dtype == torch.float64:
            return None
        with torch.autocast(x.device.type, enabled=False):
            return self.forward(x.to(self.dtype)).to(torch.get_autocast_dtype(x.device.type))

    def _cached(self, key: tuple, make: Callable[[], Tensor]) -> Tensor:
        if not self.cache:
            return make()
        held = self._unpacked
        if held is None or held[0] != key:
            # what a traced graph keeps would make the next call trace again
            if torch.compiler.is_compiling():
                return make()
            self._unpacked = held = (key, make())
        return held[1]

    def _float_weight(self, dtype: torch.dtype) -> Tensor:
        return self._cached(("fake", dtype, self.packed.device), lambda: self.dequantize().to(dtype))

    def _int_weight(self) -> Tensor:
        if self.bits.weight == 8:
            return self.packed
        return self._cached(("int8", torch.int8, self.packed.device), self.integers)

    def _fake_activation(self, x: Tensor, dims: tuple[int, ...]) -> Tensor:
        if self.bits.activation == 16:
            return x
        q, scale = quantize_activation(x, self.bits.activation, dims)
        return q.mul_(scale).to(x.dtype)

    def _finish(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        scale = self.scale.float().view(-1)
        return (y.mul_(scale) if self.bias is None else torch.addcmul(self.bias.float(), y, scale)).to(dtype)

    def _apply(self, fn, recurse=True):
        self._unpacked, scale = None, self.scale
        super()._apply(fn, recurse)
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=scale.device)).dtype
        if self.scale.dtype != scale.dtype:  # .half() is about the carrier: the grid must not move
            self.scale = scale.to(self.scale.device)
        return self

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        self._unpacked = None
        layout = state_dict.get(f"{prefix}layout")
        if layout is not None and layout.tolist() != self.layout.tolist():
            weight, activation, code = layout.tolist()
            scale = next((name for name, number in ACTIVATION_CODES.items() if number == code), code)
            errors.append(
                f"{prefix.rstrip('.')} holds weights for W{weight}A{activation} with one "
                f"activation scale per {scale}, and "
                f"the module was quantized to {self.bits} with one per {self.activation_scale}"
            )
            return
        known = len(missing)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        # saved before it was noted
        missing[known:] = [name for name in missing[known:] if name != f"{prefix}layout"]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_unpacked": None}

    def extra_repr(self) -> str:
        grouping = f"group_size={self.group_size}" if self.group_size else "per output channel"
        return (
            f"{self.bits}, {grouping}, activation_scale={self.activation_scale}, execution={self.execution}"
        )


class QuantLinear(PackedLayer):
    """nn.Linear with packed weights; x (..., in_features) -> (..., out_features) in the dtype of x, inference
    only.
    """

    kind = "linear"

    def __init__(self, linear: nn.Linear, bits: BitWidth, group_size: int | None = None,
                 activation_scale: str = "token", execution: str = "auto",
                 cache: bool = False) -> None:  # fmt: skip
        weight = linear.weight.detach()[None]
        super().__init__(weight, linear.bias, bits, group_size, activation_scale, execution, cache)
        self.in_features, self.out_features = linear.in_features, linear.out_features

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        if (cast := self._autocast(x)) is not None:
            return cast
        dims = (-1,) if self.activation_scale == "token" or x.dim() < 3 else tuple(range(1, x.dim()))
        if self.uses(x.device, x.dtype) == "fake":
            return F.linear(self._fake_activation(x, dims), self._float_weight(x.dtype), self.bias)
        q, scale = quantize_activation(x, self.bits.activation, dims)
        y = int_mm(q.to(torch.int8).reshape(-1, self.in_features), self._int_weight()[0])
        return self._finish(y.reshape(*x.shape[:-1], self.out_features) * scale, x.dtype)

    def _to_float_layout(self, weight: Tensor) -> Tensor:
        return weight[0]


class QuantConv2d(PackedLayer):
    """nn.Conv2d with packed weights; x (B, C, H, W) -> (B, N, H', W') in the dtype of x, inference only."""

    kind = "conv2d"

    def __init__(self, conv: nn.Conv2d, bits: BitWidth, group_size: int | None = None,
                 activation_scale: str = "token", execution: str = "auto",
                 cache: bool = False) -> None:  # fmt: skip
        weight = conv.weight.detach().permute(2, 3, 0, 1).flatten(0, 1)
        super().__init__(weight, conv.bias, bits, group_size, activation_scale, execution, cache)
        self.in_channels, self.out_channels, self.groups = conv.in_channels, conv.out_channels, conv.groups
        self.kernel_size, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation
        self.padding, self.padding_mode = tuple(conv._reversed_padding_repeated_twice), conv.padding_mode

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        if (cast := self._autocast(x)) is not None:
            return cast
        if x.dim() == 3:
            return self.forward(x[None])[0]
        dims = (1,) if self.activation_scale == "token" else (1, 2, 3)
        return self._fake(x, dims) if self.uses(x.device, x.dtype) == "fake" else self._int8(x, dims)

    def _fake(self, x: Tensor, dims: tuple[int, ...]) -> Tensor:
        left, right, top, bottom = self.padding
        x, padding = self._fake_activation(x, dims), (top, left)
        if self.padding_mode != "zeros" or left != right or top != bottom:
            x, padding = (
                F.pad(x, self.padding, "constant" if self.padding_mode == "zeros" else self.padding_mode),
                0,
            )
        return F.conv2d(
            x, self._float_weight(x.dtype), self.bias, self.stride, padding, self.dilation, self.groups
        )

    def _int8(self, x: Tensor, dims: tuple[int, ...]) -> Tensor:
        q, scale = quantize_activation(x, self.bits.activation, dims)
        q = F.pad(q.to(torch.int8), self.padding).permute(0, 2, 3, 1).contiguous()
        per_pixel = dims == (1,)
        scale = (F.pad(scale, self.padding) if per_pixel else scale).permute(0, 2, 3, 1)
        (kh, kw), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
        height = (q.shape[1] - dh * (kh - 1) - 1) // sh + 1
        width = (q.shape[2] - dw * (kw - 1) - 1) // sw + 1
        total = None
        for tap, weight in enumerate(self._int_weight().unbind()):
            top, left = tap // kw * dh, tap % kw * dw
            rows, columns = (
                slice(top, top + sh * (height - 1) + 1, sh),
                slice(left, left + sw * (width - 1) + 1, sw),
            )
            y = int_mm(q[:, rows, columns].reshape(-1, self.in_channels), weight)
            y = y.reshape(-1, height, width, self.out_channels)
            y = y * scale[:, rows, columns] if per_pixel else y
            total = y if total is None else total.add_(y)
        return self._finish(total if per_pixel else total * scale, x.dtype).permute(0, 3, 1, 2)

    def _int8_possible(self) -> bool:
        return super()._int8_possible() and self.groups == 1 and self.padding_mode == "zeros"

    def _to_float_layout(self, weight: Tensor) -> Tensor:
        return weight.view(*self.kernel_size, *weight.shape[1:]).permute(2, 3, 0, 1).contiguous()


@torch.compiler.assume_constant_result
def automatic_execution(device: torch.device) -> str:
    """What "auto" means on a device: "int8" on a CPU whose integer products are exact, else "fake".

    A rule and not a measurement, so that the same study gives the same numbers on a busy machine and after
    every interruption. Measured once on two cores with AVX-512 VNNI, 12 M-parameter U-Net, W4A8: int8 takes
    73 to 82 % of the time of "fake". On CUDA nothing was measured here; eager int8 products are published as
    far slower than bf16. For torch.compile the answer is a constant, found before the layer is traced.
    """
    return "int8" if device.type == "cpu" and _int_mm_is_exact() else "fake"


@functools.cache
def _int_mm_is_exact() -> bool:
    """Whether int8 products exist on this CPU and do not saturate (some kernels add pairs in int16)."""
    a = torch.full((32, 256), -128, dtype=torch.int8)
    a[::2] = 127
    try:
        product = int_mm(a, a)
    except (RuntimeError, NotImplementedError):
        return False
    return torch.equal(product.double(), a.double() @ a.double().t())
