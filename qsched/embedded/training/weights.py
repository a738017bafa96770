"""Weights in every form in which training leaves them."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights by name, float32: of a training checkpoint (the averaged ones), a diffusers folder's unet, or a
    safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if path.is_dir():
        path = path / UNET_FILE
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}.")
    if path.suffix == ".pt":
        return torch.load(path, map_location="cpu", weights_only=True)["average"]
    return {name: value.float() for name, value in load_file(path).items()}


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
