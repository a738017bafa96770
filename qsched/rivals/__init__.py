"""Other ways of quantizing the same denoiser, so that Q-Sched can be judged against them and applied on top of them.

    backbone.quantized(Quantization("w4a4", method="svdquant"))

Every method gives a module and a SizeReport with bytes of real tensors; sampling, search, presets and the page do not
know which one made it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from qsched.quantization import DEFAULT_KEEP, SizeReport, quantize, sharing_copy
from qsched.rivals import mixdq, svdquant, torchao
from qsched.rivals.torchao import torchao_available

if TYPE_CHECKING:
    from qsched.backbones import Backbone, Quantization

__all__ = ["METHODS", "Method", "calibrating", "make_quantized", "torchao_available"]


@dataclass(frozen=True)
class Method:
    """One way of quantizing.

    make: (backbone, quantization) -> a quantized copy of the denoiser and its report. unavailable: why it cannot run
    here, one sentence, or None. calibrating: sees the model at work, a piece at a time, and remembers it for `make`.
    """

    title: str
    make: Callable[["Backbone", "Quantization"], tuple[nn.Module, SizeReport]]
    unavailable: Callable[[], str | None] = lambda: None
    calibrating: Callable[["Backbone", "Quantization"], Iterator[tuple[int, int]]] = lambda backbone, quantization: (
        iter(())
    )


def make_quantized(backbone: "Backbone", quantization: "Quantization") -> tuple[nn.Module, SizeReport]:
    """A quantized copy of the backbone's denoiser, made as quantization.method says, and its report.

    Raises:
        ValueError: one sentence: an unknown method, one that cannot run here, or settings it does not know.
    """
    return _method(quantization).make(backbone, quantization)


def calibrating(backbone: "Backbone", quantization: "Quantization") -> Iterator[tuple[int, int]]:
    """What make_quantized has to see of the model at work, a piece at a time; gives (done, all) in between.

    Raises:
        ValueError: as make_quantized.
    """
    return _method(quantization).calibrating(backbone, quantization)


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


def _measuring(backbone: "Backbone", quantization: "Quantization") -> Iterator[tuple[int, int]]:
    return mixdq.measuring(backbone, **_measured(quantization))


def _measured(quantization: "Quantization") -> dict:
    options = _options(quantization)
    return {name: options[name] for name in ("group_size", "scope", "keep")}


def _svdquant(backbone: "Backbone", quantization: "Quantization") -> tuple[nn.Module, SizeReport]:
    options = _options(quantization)
    largest = svdquant.smoothing_inputs(backbone, quantization.scope, options["keep"])
    module = sharing_copy(backbone.denoiser)
    return module, svdquant.svdquant(module, quantization.bits, largest=largest, **options)


def _smoothing(backbone: "Backbone", quantization: "Quantization") -> Iterator[tuple[int, int]]:
    options = _options(quantization)
    yield 0, 1
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
    "mixdq": Method("MixDQ: bits by sensitivity, first token apart", _mixdq, calibrating=_measuring),
    "svdquant": Method("SVDQuant: low-rank branch", _svdquant, calibrating=_smoothing),
    "torchao": Method("torchao: paper-style, Linear only", _torchao, torchao_available),
}
