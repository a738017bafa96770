"""Other ways of quantizing the same denoiser, so that Q-Sched can be judged against them and applied on top
of them.

    backbone.quantized(Quantization("w4a4", method="svdquant"))

Every method gives a module and a SizeReport with bytes of real tensors; sampling, search, presets and the
page do not know which one made it.
"""

from typing import TYPE_CHECKING

from torch import nn

from qsched.models.methods import PLAIN, Method, options_of
from qsched.quantization import SizeReport, sharing_copy
from qsched.quantizers import mixdq, svdquant, torchao
from qsched.quantizers.torchao import torchao_available

if TYPE_CHECKING:
    from qsched.models.base import Backbone
    from qsched.quantization import Quantization

__all__ = ["METHODS", "Method", "torchao_available"]


def _mixdq(backbone: "Backbone", quantization: "Quantization") -> tuple[nn.Module, SizeReport]:
    options, measured = options_of(quantization), mixdq.measure(backbone, **_measured(quantization))
    module = sharing_copy(backbone.denoiser)
    return module, mixdq.mixdq(
        module, quantization.bits, mixdq.plan(measured, module, quantization.bits), **options
    )


def _measure(backbone: "Backbone", quantization: "Quantization") -> tuple[int, int] | None:
    return mixdq.calibrate(backbone, **_measured(quantization))


def _measured(quantization: "Quantization") -> dict:
    options = options_of(quantization)
    return {name: options[name] for name in ("group_size", "scope", "keep")}


def _svdquant(backbone: "Backbone", quantization: "Quantization") -> tuple[nn.Module, SizeReport]:
    options = options_of(quantization)
    largest = svdquant.smoothing_inputs(backbone, quantization.scope, options["keep"])
    module = sharing_copy(backbone.denoiser)
    return module, svdquant.svdquant(module, quantization.bits, largest=largest, **options)


def _smooth(backbone: "Backbone", quantization: "Quantization") -> None:
    options = options_of(quantization)
    svdquant.smoothing_inputs(backbone, options["scope"], options["keep"])


def _torchao(backbone: "Backbone", quantization: "Quantization") -> tuple[nn.Module, SizeReport]:
    module = sharing_copy(backbone.denoiser)
    options = {name: value for name, value in options_of(quantization).items() if name != "scope"}
    return module, torchao.torchao_quantize(module, quantization.bits, **options)


METHODS: dict[str, Method] = PLAIN | {
    "mixdq": Method(_mixdq, calibrate=_measure),
    "svdquant": Method(_svdquant, calibrate=_smooth),
    "torchao": Method(_torchao, torchao_available),
}
