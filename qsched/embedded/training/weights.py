"""Weights in every form in which training leaves them."""

from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


def read_weights(path: Path, base: Path | None = None) -> dict[str, Tensor]:
    """Weights by name, float32: of a training checkpoint (the averaged ones), a diffusers folder's unet, a
    safetensors file, its parts (PATH.00, PATH.01, ...), or int8 differences to the fp16 weights `base`
    (NAME|q times NAME|s, one scale a row).

    Raises:
        FileNotFoundError: there is neither the file nor its first part.
        ValueError: differences without a base.
    """
    if path.is_dir():
        path = path / UNET_FILE
    parts = sorted(path.parent.glob(f"{path.name}.[0-9][0-9]"))
    if not path.exists() and not parts:
        raise FileNotFoundError(f"There is neither {path} nor {path.name}.00 beside it.")
    if path.suffix == ".pt":
        return torch.load(path, map_location="cpu", weights_only=True)["average"]
    content = path.read_bytes() if path.exists() else b"".join(part.read_bytes() for part in parts)
    found = load(content)
    if not any(name.endswith("|q") for name in found):
        return {name: value.float() for name, value in found.items()}
    if base is None:
        raise ValueError(f"{path} holds differences to other weights: name them with --base.")
    out = {}
    for name, value in read_weights(base).items():
        change = found[f"{name}|q"].float() * found[f"{name}|s"]
        out[name] = value.half().float() + change.view_as(value)
    return out


def start_from(path: Path, module: nn.Module) -> int:
    """Load what fits of other weights (`read_weights`); returns how many tensors did. Those of other shapes
    stay as they are.

    Raises:
        ValueError: none fits.
    """
    own = module.state_dict()
    fitting = {n: v for n, v in read_weights(path).items() if n in own and own[n].shape == v.shape}
    if not fitting:
        raise ValueError(f"No weight of {path} fits the network that it should start.")
    module.load_state_dict(fitting, strict=False)
    return len(fitting)
