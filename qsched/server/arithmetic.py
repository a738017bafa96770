"""What the device is, and what of a quantized model's arithmetic is real there."""

import torch

from qsched.models.base import Backbone
from qsched.quantization import Quantization


def describe(backbone: Backbone, quantization: Quantization) -> tuple[str, str]:
    """What the device is, and whether the quantized layers' arithmetic is real or simulated there, with what
    the method has to say."""
    if backbone.device.type == "cuda":
        device = (
            f"{torch.cuda.get_device_name(backbone.device)}, {str(backbone.dtype).removeprefix('torch.')}"
        )
    else:
        threads = torch.get_num_threads()
        device = f"CPU, {threads} thread{'s' * (threads > 1)}, {str(backbone.dtype).removeprefix('torch.')}"
    report = backbone.quantized(quantization).report
    real, simulated = report.execution.get("int8", 0), report.execution.get("fake", 0)
    if real and simulated:
        arithmetic = (
            f"{real} quantized layers multiply real integers, {simulated} simulate it in floating point"
        )
    elif simulated:
        arithmetic = "packed weights are real, their arithmetic is simulated in floating point"
    else:
        arithmetic = f"quantized layers multiply real integers ({', '.join(report.execution)})"
    return device, ". ".join([arithmetic, *(note[:1].upper() + note[1:] for note in report.notes)])
