"""Methods of quantizing: what one is, and the plain one; the others are in qsched.quantizers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from qsched.quantization import DEFAULT_KEEP, Quantization, SizeReport, quantize, sharing_copy

if TYPE_CHECKING:
    from qsched.models.base import Backbone


@dataclass(frozen=True)
class Method:
    """One way of quantizing.

    make: (backbone, quantization) -> a quantized copy of the denoiser and its report. unavailable: why it
    cannot run here, one sentence, or None. calibrate: sees a little more of the model at work, remembers it
    for `make`, and gives (done, all), or None if it has seen enough; None for a method that need not see it.
    """

    make: Callable[["Backbone", Quantization], tuple[nn.Module, SizeReport]]
    unavailable: Callable[[], str | None] = lambda: None
    calibrate: Callable[["Backbone", Quantization], tuple[int, int] | None] | None = None


def make_quantized(backbone: "Backbone", quantization: Quantization) -> tuple[nn.Module, SizeReport]:
    """A quantized copy of the backbone's denoiser, made as quantization.method says, and its report.

    Raises:
        ValueError: one sentence: an unknown method, one that cannot run here, or settings it does not know.
    """
    return _method(backbone, quantization).make(backbone, quantization)


def calibrate(backbone: "Backbone", quantization: Quantization) -> tuple[int, int] | None:
    """Let the method see a little more of the model at work, for a second or so; make_quantized does what is
    left.

    Returns:
        (done, all) of its own pieces; None if it has seen enough.
    Raises:
        ValueError: as make_quantized.
    """
    method = _method(backbone, quantization)
    return method.calibrate(backbone, quantization) if method.calibrate else None


def _method(backbone: "Backbone", quantization: Quantization) -> Method:
    if quantization.method not in backbone.methods:
        raise ValueError(f"Unknown method {quantization.method!r}; known are {', '.join(backbone.methods)}.")
    method = backbone.methods[quantization.method]
    if reason := method.unavailable():
        raise ValueError(reason)
    return method


def _plain(backbone: "Backbone", quantization: Quantization) -> tuple[nn.Module, SizeReport]:
    module = sharing_copy(backbone.denoiser)
    return module, quantize(module, quantization.bits, **options_of(quantization))


def options_of(quantization: Quantization) -> dict:
    """The quantizer's keyword arguments."""
    q = quantization
    keep = DEFAULT_KEEP if q.keep_high_precision else ()
    return {
        "group_size": q.group_size,
        "activation_scale": q.activation_scale,
        "scope": q.scope,
        "keep": keep,
    }


PLAIN: dict[str, Method] = {"plain": Method(_plain)}
