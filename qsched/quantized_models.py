"""Load a folder that a quantized diffusers or transformers model was saved to.

    quantize(pipe.unet, "w4a8")
    pipe.unet.save_pretrained("unet-w4a8")
    unet = from_quantized(UNet2DConditionModel, "unet-w4a8")

The stock `from_pretrained` must not read such a folder, whose weights are packed integers: diffusers refuses
it by its quantization_config; transformers does so once this module is imported.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

from qsched.quantization import quantize
from qsched.quantization.convert import METHOD

INDEXES = ("diffusion_pytorch_model.safetensors.index.json", "model.safetensors.index.json")
WEIGHTS = ("diffusion_pytorch_model.safetensors", "model.safetensors")


def from_quantized(model_class: type, folder: str | Path) -> nn.Module:
    """A quantized model as it was saved, on the CPU, in evaluation mode.

    Args:
        model_class: its diffusers or transformers class.
        folder: what `save_pretrained` wrote.
    Raises:
        ValueError: one sentence: no such folder, not quantized by this package, or no safetensors in it.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"There is no model in {folder}: config.json is missing.")
    settings = json.loads((folder / "config.json").read_text("utf-8")).get("quantization_config") or {}
    if settings.get("quant_method") != METHOD:
        raise ValueError(
            f"The model in {folder} was not quantized by this package: load it by from_pretrained."
        )
    if not settings.pop("plain"):
        raise ValueError(
            f"The model in {folder} was quantized by another method than plain rounding: quantize it anew."
        )
    model = _empty(model_class, folder).eval()
    quantize(model, **{name: value for name, value in settings.items() if name != "quant_method"})
    weights: dict[str, Any] = {}
    for file in _files(folder):
        weights |= load_file(file)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if name not in getattr(model, "_tied_weights_keys", None) or ()]
    if missing or unexpected:
        raise ValueError(f"The weights in {folder} do not fit: {', '.join([*missing, *unexpected][:3])}.")
    return model.requires_grad_(False)


def _empty(model_class: type, folder: Path) -> nn.Module:
    if hasattr(model_class, "load_config"):
        config = model_class.load_config(folder)
        return model_class.from_config(
            {name: value for name, value in config.items() if name != "quantization_config"}
        )
    config = model_class.config_class.from_pretrained(folder)
    config.quantization_config = None
    return model_class(config)


def _files(folder: Path) -> list[Path]:
    for name in INDEXES:
        if (folder / name).is_file():
            return [
                folder / file
                for file in sorted(set(json.loads((folder / name).read_text())["weight_map"].values()))
            ]
    found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not found:
        raise ValueError(f"There are no safetensors in {folder}.")
    return found


class _Refusal:
    """Stands for this package among transformers' quantizers, to refuse the stock loading."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        raise ValueError(
            "This model was quantized by qsched: load it by "
            "qsched.quantized_models.from_quantized, not by from_pretrained."
        )

    from_dict = from_dict_or_args = classmethod(lambda cls, *arguments, **options: cls())


AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD] = AUTO_QUANTIZER_MAPPING[METHOD] = _Refusal
