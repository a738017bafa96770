"""Other ways of quantizing the same denoiser, so that Q-Sched can be judged against them and applied on top of them.

    backbone.quantized(Quantization("w4a4", method="svdquant"))

Every method gives a module and a SizeReport with bytes of real tensors; sampling, search, presets and the page do not
know which one made it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from qsched.quantization import DEFAULT_KEEP, SizeReport, quantize, sharing_copy
from qsched.rivals import mixdq, svdquant, torchao
from qsched.rivals.torchao import torchao_available

if TYPE_CHECKING:
    from qsched.backbones import Backbone, Quantization

__all__ = ["METHODS", "Method", "calibrate", "make_quantized", "torchao_available"]


@dataclass(frozen=True)
class Method:
    """One way of quantizing.

    make: (backbone, quantization) -> a quantized copy of the denoiser and its report. unavailable: why it cannot run
    here, one sentence, or None. calibrate: sees a little more of the model at work, remembers it for `make`, and gives (done,
    all), or None if it has seen enough; None for a method that need not see it.
    """

    title: str
    make: Callable[["Backbone", "Quantization"], tuple[nn.Module, SizeReport]]
    unavailable: Callable[[], str | None] = lambda: None
    calibrate: Callable[["Backbone", "Quantization"], tuple[int, int] | None] | None = None


def make_quantized(backbone: "Backbone", quantization: "Quantization") -> tuple[nn.Module, SizeReport]:
    """A quantized copy of the backbone's denoiser, made as quantization.method says, and its report.

    Raises:
        ValueError: one sentence: an unknown method, one that cannot run here, or settings it does not know.
    """
    return _method(quantization).make(backbone, quantization)


def calibrate(backbone: "Backbone", quantization: "Quantization") -> tuple[int, int] | None:
    """Let the method see a little more of the model at work, for a second or so; make_quantized does what is left.

    Returns:
        (done, all) of its own pieces; None if it has seen enough.
    Raises:
        ValueError: as make_quantized.
    """
    method = _method(quantization)
    return method.calibrate(backbone, quantization) if method.calibrate else None


def _method(quantization: "Quantization") -> Method:
    if quantization.method not in METHODS:
        raise ValueError(f"Unknown method {quantization.method!r}; known are {', '.join(METHODS)}.")
    method = METHODS[quantization.method]
    if reason := method.unavailable():
        raise ValueError(reason)
    return method


def _plain(backbone: "Backbone", quantization: "Quantization") -> tuple[nn.Module, SizeReport]:
    module = sharing_copy(backbone.denoiser)
    return module, quantize(module, quantization.bits, **_options(quantization))


def _mixdq(backbone: "Backbone", quantization: "Quantization") -> tuple[nn.Module, SizeReport]:
    options, measured = _options(quantization), mixdq.measure(backbone, **_measured(quantization))
    module = sharing_copy(backbone.denoiser)
    return module, mixdq.mixdq(module, quantization.bits, mixdq.plan(measured, module, quantization.bits), **options)


def _measure(backbone: "Backbone", quantization: "Quantization") -> tuple[int, int] | None:
    return mixdq.calibrate(backbone, **_measured(quantization))


def _measured(quantization: "Quantization") -> dict:
    options = _options(quantization)
    return {name: options[name] for name in ("group_size", "scope", "keep")}


def _svdquant(backbone: "Backbone", quantization: "Quantization") -> tuple[nn.Module, SizeReport]:
    options = _options(quantization)
    largest = svdquant.smoothing_inputs(backbone, quantization.scope, options["keep"])
    module = sharing_copy(backbone.denoiser)
    return module, svdquant.svdquant(module, quantization.bits, largest=largest, **options)


def _smooth(backbone: "Backbone", quantization: "Quantization") -> None:
    options = _options(quantization)
    svdquant.smoothing_inputs(backbone, options["scope"], options["keep"])


def _torchao(backbone: "Backbone", quantization: "Quantization") -> tuple[nn.Module, SizeReport]:
    module = sharing_copy(backbone.denoiser)
    options = {name: value for name, value in _options(quantization).items() if name != "scope"}
    return module, torchao.torchao_quantize(module, quantization.bits, **options)


def _options(quantization: "Quantization") -> dict:
    q = quantization
    keep = DEFAULT_KEEP if q.keep_high_precision else ()
    return {"group_size": q.group_size, "activation_scale": q.activation_scale, "scope": q.scope, "keep": keep}


METHODS: dict[str, Method] = {
    "plain": Method("Plain rounding", _plain),
    "mixdq": Method("MixDQ: bits by sensitivity, first token apart", _mixdq, calibrate=_measure),
    "svdquant": Method("SVDQuant: low-rank branch", _svdquant, calibrate=_smooth),
    "torchao": Method("torchao: paper-style, Linear only", _torchao, torchao_available),
}
