"""LoRA adapters, added to the weights once: quantized layers have no weight that an adapter could be added to
later.

    W' = W + alpha / rank * up @ down        (Hu et al. 2021, arXiv 2106.09685)

diffusers reads the files' many dialects; its own fusing would need the package peft, for this one line.
"""

import re
from pathlib import Path

import torch
from diffusers.utils import convert_unet_state_dict_to_peft
from safetensors.torch import load_file
from torch import Tensor, nn

from qsched.hub.source import BackboneError

PART = re.compile(r"^unet\.(?P<layer>.+)\.lora_(?P<side>A|B)\.weight$")
ALPHA = re.compile(r"^unet\.(?P<layer>.+?)(?:\.lora_A\.weight)?\.alpha$")


@torch.no_grad()
def fuse_lora(unet: nn.Module, file: Path, pipeline: type) -> int:
    """Add an adapter to a U-Net's weights, in place.

    Args:
        file: safetensors in any dialect that `pipeline.lora_state_dict` understands.
        pipeline: a diffusers pipeline class with a LoRA loader.
    Returns:
        How many layers were changed.
    Raises:
        BackboneError: the file cannot be read, or has weights that do not belong to this U-Net; that is then
            as it was.
    """
    try:
        state, alphas = pipeline.lora_state_dict(load_file(file), unet_config=unet.config)
    except Exception as error:  # a missing half is a KeyError there, a foreign file anything
        raise BackboneError(f"The LoRA {file.name} cannot be read: {type(error).__name__} {error}") from error
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in convert_unet_state_dict_to_peft(state).items():
        found = PART.match(key)
        if found is None:
            raise BackboneError(f"The LoRA {file.name} has weights for something else than a U-Net: {key}.")
        pairs.setdefault(found["layer"], {})[found["side"]] = tensor
    scales = {
        ALPHA.match(key)["layer"]: float(alpha)
        for key, alpha in convert_unet_state_dict_to_peft(alphas or {}).items()
    }
    layers = dict(unet.named_modules())
    changes = {name: _change(file, name, pair, scales.get(name)) for name, pair in pairs.items()}
    for name, change in changes.items():
        if name not in layers or layers[name].weight.shape != change.shape:
            raise BackboneError(
                f"The LoRA {file.name} does not belong to this U-Net: {name} is missing or of another shape."
            )
    for name, change in changes.items():
        weight = layers[name].weight
        weight.copy_(weight.float() + change.to(weight.device))
    return len(changes)


def _change(file: Path, name: str, pair: dict[str, Tensor], alpha: float | None) -> Tensor:
    """alpha / rank * up @ down in float32, shaped like the weight: (out, in) or (out, in, height, width)."""
    if set(pair) != {"A", "B"}:
        raise BackboneError(f"The LoRA {file.name} has only one half of {name}.")
    down, up = pair["A"].float(), pair["B"].float()
    rank = len(down)
    change = up @ down if down.ndim == 2 else torch.einsum("or,rihw->oihw", up.flatten(1), down)
    return change * (1.0 if alpha is None else alpha / rank)
