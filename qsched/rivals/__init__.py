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
from qsched.rivals import mixdq, nunchaku, svdquant, torchao
from qsched.rivals.nunchaku import nunchaku_available
from qsched.rivals.torchao import torchao_available

if TYPE_CHECKING:
    from qsched.backbones import Backbone, Quantization

__all__ = ["METHODS", "Method", "make_quantized", "nunchaku_available", "torchao_available"]


@dataclass(frozen=True)
class Method:
    """One way of quantizing.

    make: (backbone, quantization) -> a quantized copy of the denoiser and its report. unavailable: why it cannot run
    here, one sentence, or None.
    """

    title: str
    make: Callable[["Backbone", "Quantization"], tuple[nn.Module, SizeReport]]
    unavailable: Callable[[], str | None] = lambda: None


def make_quantized(backbone: "Backbone", quantization: "Quantization") -> tuple[nn.Module, SizeReport]:
    """A quantized copy of the backbone's denoiser, made as quantization.method says, and its report.

    Raises:
        ValueError: one sentence: an unknown method, one that cannot run here, or settings it does not know.
    """
    if quantization.method not in METHODS:
        raise ValueError(f"Unknown method {quantization.method!r}; known are {', '.join(METHODS)}.")
    method = METHODS[quantization.method]
    if reason := method.unavailable():
        raise ValueError(reason)
    return method.make(backbone, quantization)


def _plain(backbone: "Backbone", quantization: "Quantization") -> tuple[nn.Module, SizeReport]:
    module = sharing_copy(backbone.denoiser)
    return module, quantize(module, quantization.bits, **_options(quantization))


def _mixdq(backbone: "Backbone", quantization: "Quantization") -> tuple[nn.Module, SizeReport]:
    options = _options(quantization)
    measured = mixdq.measure(backbone, **{name: options[name] for name in ("group_size", "scope", "keep")})
    module = sharing_copy(backbone.denoiser)
    return module, mixdq.mixdq(module, quantization.bits, mixdq.plan(measured, module, quantization.bits), **options)


def _svdquant(backbone: "Backbone", quantization: "Quantization") -> tuple[nn.Module, SizeReport]:
    folder = nunchaku.prequantized_folder(backbone) if quantization.bits == "w4a4" else None
    reason = nunchaku_available() if folder else None
    if folder and reason is None:
        return nunchaku.load_prequantized(backbone, folder)
    options = _options(quantization)
    largest = svdquant.smoothing_inputs(backbone, quantization.scope, options["keep"])
    module = sharing_copy(backbone.denoiser)
    report = svdquant.svdquant(module, quantization.bits, largest=largest, **options)
    if reason:
        report.notes.append(f"the Nunchaku checkpoint {folder.name} is not used: {reason.rstrip('.')}")
    return module, report


def _nunchaku(backbone: "Backbone", quantization: "Quantization") -> tuple[nn.Module, SizeReport]:
    folder = nunchaku.prequantized_folder(backbone)
    if folder is None:
        raise ValueError(
            f"There is no Nunchaku checkpoint in {backbone.spec.source}: put one there as unet-nunchaku-lite or "
            "transformer-nunchaku-lite."
        )
    if quantization.bits != "w4a4":
        raise ValueError(f"Nunchaku checkpoints are quantized to W4A4, not to {quantization.bits.upper()}.")
    return nunchaku.load_prequantized(backbone, folder)


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
    "mixdq": Method("MixDQ: bits by sensitivity, first token apart", _mixdq),
    "svdquant": Method("SVDQuant: low-rank branch", _svdquant),
    "torchao": Method("torchao: Linear only, as in the paper", _torchao, torchao_available),
    "nunchaku": Method("Nunchaku: prequantized SVDQuant", _nunchaku, nunchaku_available),
}
