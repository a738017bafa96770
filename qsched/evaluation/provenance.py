"""What a number was computed with: recorded beside every result."""

import diffusers
import torch

from qsched.version import __version__


def device_name(device: torch.device) -> str:
    """ "cpu", or the GPU's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def versions(**more: str) -> dict[str, str]:
    """Versions of what computes the images."""
    return {"qsched": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__} | more
