"""What "auto" means for a device and a dtype."""

import torch

from qsched.models.spec import BackboneSpec


def half_dtype(spec: BackboneSpec) -> torch.dtype:
    """The half precision of a family: FLUX was trained in bfloat16 and overflows float16."""
    return torch.bfloat16 if spec.family == "flux" else torch.float16


def pick_dtype(spec: BackboneSpec, device: torch.device) -> torch.dtype:
    """What "auto" means: float32 on the CPU and for the embedded model, else the family's half precision."""
    return half_dtype(spec) if device.type == "cuda" and spec.family != "emoji" else torch.float32


def pick_device(name: str) -> torch.device:
    """ "auto" is cuda when there is one, then cpu; anything else must be a device that this machine has."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"Unknown device {name!r}; try auto, cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("This machine has no CUDA device; use --device cpu or auto.")
    return device
