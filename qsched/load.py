"""One call that loads any backbone by its id."""

from pathlib import Path

import torch

from qsched.hub.source import BackboneError
from qsched.models.base import Backbone
from qsched.models.devices import pick_device, pick_dtype
from qsched.models.registry import SPECS
from qsched.models.spec import BackboneSpec
from qsched.quantizers.methods import METHODS


def load_backbone(id: str, device: str = "auto", dtype: str = "auto", source: str | None = None) -> Backbone:
    """Load a backbone by its id.

    Args:
        device: "auto" (cuda, then cpu) or a torch device. dtype: "auto" (on CUDA float16, for FLUX bfloat16;
            float32 on the CPU and for the embedded model) or a torch dtype's name.
        source: a local folder or another repository of the same family in place of the spec's own, such as a
            fine-tune.

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
            backbone = _load_embedded(spec, where, kind)
        else:
            from qsched.models.diffusers_folder import load_pipeline

            backbone = load_pipeline(spec, where, kind)
        backbone.methods = METHODS
        return backbone
    except BackboneError:
        raise
    except Exception as error:  # damaged files make the loaders of four libraries raise anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BackboneError(f"{spec.id} cannot be loaded from {spec.source}: {reason}") from error


def _load_embedded(spec: BackboneSpec, device: torch.device, dtype: torch.dtype) -> Backbone:
    from qsched.models.emoji import load_emoji

    folder = Path(spec.source)
    if not folder.is_dir():
        raise BackboneError(f"{spec.id} is looked for in {folder}, which is no folder.")
    return load_emoji(spec, folder, device, dtype)
