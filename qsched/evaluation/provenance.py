"""What a number was computed with: recorded beside every result."""

from datetime import datetime, timezone
from typing import Any

import diffusers
import torch

from qsched.models.base import Backbone
from qsched.quantization import Quantization
from qsched.sampling.loop import prepare_scheduler
from qsched.version import __version__


def device_name(device: torch.device) -> str:
    """ "cpu", or the GPU's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def versions(**more: str) -> dict[str, str]:
    """Versions of what computes the images."""
    return {"qsched": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__} | more


def made_with(backbone: Backbone, quantization: Quantization, steps: int) -> dict[str, Any]:
    """What a preset's coefficients are found with, for its provenance; JSON friendly."""
    return {
        "timesteps": prepare_scheduler(backbone, steps, None).timesteps.tolist(),
        "execution": backbone.quantized(quantization).report.execution,
        "device": device_name(backbone.device),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
    }
