"""Post-training quantization on nothing but torch: this folder can be copied as it is.

    from qsched.quantization import quantize
    report = quantize(module, "w4a8", group_size=64)  # in place; Linear and Conv2d

convert.py quantizes a model and counts its bytes, layers.py has the layers, packing.py turns numbers into
bytes, batch_invariance.py keeps results independent of the batch, settings.py is what a caller may choose.
"""

from .batch_invariance import make_batch_invariant
from .convert import (
    ACTIVATION_SCALES,
    DEFAULT_KEEP,
    EXECUTIONS,
    SCOPES,
    KeptLayer,
    SizeReport,
    cache_bytes,
    check_options,
    layers_to_pack,
    quantize,
    sharing_copy,
    stored_bytes,
)
from .layers import PackedLayer, QuantConv2d, QuantLinear, automatic_execution
from .packing import ACTIVATION_BITS, WEIGHT_BITS, BitWidth, pack, packed_bytes, unpack
from .settings import Quantization, Quantized

__all__ = [
    "ACTIVATION_BITS", "ACTIVATION_SCALES", "DEFAULT_KEEP", "EXECUTIONS", "SCOPES", "WEIGHT_BITS",
    "BitWidth", "KeptLayer", "PackedLayer", "QuantConv2d", "QuantLinear", "Quantization",
    "Quantized", "SizeReport", "automatic_execution", "cache_bytes", "check_options",
    "layers_to_pack", "make_batch_invariant", "pack", "packed_bytes", "quantize", "sharing_copy",
    "stored_bytes", "unpack",
]  # fmt: skip
