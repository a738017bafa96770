"""Prequantized SVDQuant checkpoints with the paper's own kernels, loaded by diffusers (its backend "nunchaku_lite").

They cannot be made here, only loaded: put one, as exported by its makers for the very same architecture, into the
pipeline's folder beside the denoiser, as "unet-nunchaku-lite" or "transformer-nunchaku-lite" (config.json with its
quantization_config, and the weights). W4A4 by "svdquant" is that checkpoint then, wherever the GPU can run it.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers
import torch
from torch import nn

from qsched.quantization import SizeReport, stored_bytes

if TYPE_CHECKING:
    from qsched.backbones import Backbone

TRUST = "DIFFUSERS_TRUST_REMOTE_KERNELS"
LAYERS = {"SVDQW4A4Linear", "AWQW4A16Linear"}


def nunchaku_available() -> str | None:
    """Why Nunchaku's kernels cannot run here, one sentence, or None if they can."""
    if not torch.cuda.is_available():
        return "Nunchaku's kernels need an NVIDIA GPU, and there is no CUDA device here."
    capability = torch.cuda.get_device_capability()
    if capability[0] == 9:
        return "Nunchaku's kernels do not support Hopper GPUs, which have no 4-bit products."
    if capability < (7, 5):
        return "Nunchaku's kernels need a Turing GPU or a newer one."
    if not hasattr(diffusers, "NunchakuLiteQuantizationConfig"):
        return f"diffusers {diffusers.__version__} cannot load Nunchaku checkpoints: a newer one is needed."
    if importlib.util.find_spec("kernels") is None:
        return "Nunchaku's kernels need the package kernels (pip install kernels)."
    if os.environ.get(TRUST, "").lower() not in ("1", "true", "yes", "on"):
        return f"Nunchaku's kernels are code from the Hub: set {TRUST}=true to allow it."
    return None


def prequantized_folder(backbone: Backbone) -> Path | None:
    """The folder of a prequantized checkpoint beside the backbone's own denoiser, or None."""
    found = (Path(backbone.spec.source) / f"{part}-nunchaku-lite" for part in ("unet", "transformer"))
    return next((folder for folder in found if (folder / "config.json").is_file()), None)


def load_prequantized(backbone: Backbone, folder: Path) -> tuple[nn.Module, SizeReport]:
    """The checkpoint as a module of the backbone's denoiser class, and its report with the bytes as they are.

    Raises:
        ValueError: one sentence, if it cannot be loaded.
    """
    try:
        module = type(backbone.denoiser).from_pretrained(folder, torch_dtype=backbone.dtype)
    except Exception as error:  # damaged files and missing kernels make the loaders raise anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"The Nunchaku checkpoint {folder} cannot be loaded: {reason}") from error
    where = next(backbone.denoiser.parameters()).device  # where there was no room for both, that is main memory
    module = module.to(where).eval().requires_grad_(False)
    layers = sum(type(layer).__name__ in LAYERS for layer in module.modules())
    size = stored_bytes(module, None)
    report = SizeReport("w4a4", stored_bytes(backbone.denoiser), size, size)
    report.quantized, report.execution = {"linear": layers}, {"nunchaku": layers}
    report.notes.append(f"SVDQuant: the prequantized Nunchaku checkpoint {folder.name}, whose own settings apply")
    return module, report
