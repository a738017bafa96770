"""How a denoiser is quantized, and what comes out."""

from dataclasses import dataclass

from torch import nn

from .convert import SizeReport


@dataclass(frozen=True)
class Quantization:
    """How a denoiser is quantized: bit-widths, granularity, what stays in high precision, and by which method
    of qsched.quantizers.
    """

    bits: str = "w4a8"
    group_size: int | None = None
    activation_scale: str = "token"
    scope: str = "all"
    keep_high_precision: bool = True
    method: str = "plain"


@dataclass(frozen=True)
class Quantized:
    """A quantized denoiser with its size report."""

    module: nn.Module
    report: SizeReport
    settings: Quantization
