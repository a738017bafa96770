"""The models that can be chosen, and how they are loaded."""

from pathlib import Path

import torch

from qsched.backbones.base import Backbone, Condition, Quantization, Quantized
from qsched.backbones.spec import SPECS, BackboneError, BackboneSpec, Source

__all__ = [
    "SPECS",
    "Backbone",
    "BackboneError",
    "BackboneSpec",
    "Condition",
    "Quantization",
    "Quantized",
    "Source",
    "load_backbone",
]


def load_backbone(id: str, device: str = "auto", dtype: str = "auto", source: str | None = None) -> Backbone:
    """Load a backbone by its id.

    Args:
        device: "auto" (cuda, then cpu) or a torch device. dtype: "auto" (on CUDA float16, for FLUX bfloat16; float32 on the CPU and for the embedded model) or a
            torch dtype's name.
        source: a local folder or another repository of the same family in place of the spec's own, such as a fine-tune.

    Raises:
        ValueError: unknown id (the known ones are listed) or device.
        BackboneError: the files are missing or cannot be read.
    """
    if id not in SPECS:
        raise ValueError(f"Unknown backbone {id!r}; known are {', '.join(SPECS)}.")
    spec = SPECS[id] if source is None else SPECS[id].at(source)
    where = pick_device(device)
    kind = pick_dtype(spec, where) if dtype == "auto" else getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or kind not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"Unknown dtype {dtype!r}; try float32, float16 or bfloat16.")
    try:
        if spec.family == "emoji":
            return _load_embedded(spec, where, kind)
        from qsched.backbones.loading import load_pipeline

        return load_pipeline(spec, where, kind)
    except BackboneError:
        raise
    except Exception as error:  # damaged files make the loaders of four libraries raise anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BackboneError(f"{spec.id} cannot be loaded from {spec.source}: {reason}") from error


def _load_embedded(spec: BackboneSpec, device: torch.device, dtype: torch.dtype) -> Backbone:
    from qsched.backbones.emoji import load_emoji

    folder = Path(spec.source)
    if not folder.is_dir():
        raise BackboneError(f"{spec.id} is looked for in {folder}, which is no folder.")
    return load_emoji(spec, folder, device, dtype)


def pick_dtype(spec: BackboneSpec, device: torch.device) -> torch.dtype:
    """What "auto" means: float32 on the CPU and for the embedded model, else the family's half precision."""
    from qsched.backbones.memory import half_dtype

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
