"""Writes qsched/models/memory.json, the bytes of every published backbone's parts.

    python tests/bench/memory_table.py

The published configurations are built on the meta device, where a tensor has a shape and no memory, and the
quantizer's own rules pick the layers. Activations are found by running the modules there: a tensor is made,
used and dropped in the same order as on a GPU, and adding up the bytes of those alive gives the peak.
"""

import json
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from qsched.models.diffusers_folder import decoder_dtype  # noqa: E402
from qsched.models.memory import BITS, UNPACKED, largest_weight, packed_and_kept  # noqa: E402
from qsched.models.registry import SPECS  # noqa: E402
from qsched.models.spec import BackboneSpec  # noqa: E402
from qsched.quantization import stored_bytes  # noqa: E402

UNET_SD15 = {"sample_size": 64, "cross_attention_dim": 768}  # the rest are UNet2DConditionModel's defaults
UNET_SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
VAE_FLUX = VAE | {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
T5_XXL = {
    "d_model": 4096,
    "d_ff": 10240,
    "d_kv": 64,
    "num_heads": 64,
    "num_layers": 24,
    "feed_forward_proj": "gated-gelu",
}

ARCHITECTURES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "lcm": {
        "unet": ("UNet2DConditionModel", UNET_SD15 | {"time_cond_proj_dim": 256}),
        "vae": ("AutoencoderKL", VAE),
        "text_encoder": ("CLIPTextModel", CLIP_L),
    },
    "sd15": {
        "unet": ("UNet2DConditionModel", UNET_SD15),
        "vae": ("AutoencoderKL", VAE),
        "text_encoder": ("CLIPTextModel", CLIP_L),
    },
    "sdxl": {
        "unet": ("UNet2DConditionModel", UNET_SDXL),
        "vae": ("AutoencoderKL", VAE | {"force_upcast": True}),
        "text_encoder": ("CLIPTextModel", CLIP_L),
        "text_encoder_2": ("CLIPTextModelWithProjection", CLIP_G),
    },
    "flux": {
        "transformer": ("FluxTransformer2DModel", {"guidance_embeds": False}),
        "vae": ("AutoencoderKL", VAE_FLUX),
        "text_encoder": ("CLIPTextModel", CLIP_L),
        "text_encoder_2": ("T5EncoderModel", T5_XXL),
    },
}
"""Component -> (class, configuration), the folders of the published pipelines."""


def build(name: str, component: str, device: torch.device | str = "meta", **changes: Any) -> nn.Module:
    """One component of an architecture: on the meta device all shapes, no weights, no memory; elsewhere
    random weights.

    changes: of its configuration.
    """
    kind, config = ARCHITECTURES[name][component]
    with torch.device(device):
        if hasattr(diffusers, kind):
            return getattr(diffusers, kind)(**config | changes)
        made = getattr(transformers, kind)
        return made(made.config_class(**config | changes))


def measure(spec: BackboneSpec, dtype: torch.dtype) -> dict[str, Any]:
    """The fields of qsched.models.memory.Footprint for a published backbone that runs in this dtype."""
    names = ARCHITECTURES[spec.architecture]
    parts = {name: nn.Module.to(build(spec.architecture, name), dtype) for name in names}
    denoiser, vae = parts["transformer" if spec.family == "flux" else "unet"], parts["vae"]
    nn.Module.to(vae, decoder_dtype(spec, vae, dtype))
    side = spec.size // 2 ** (len(vae.config.block_out_channels) - 1)
    latents = torch.empty(1, vae.config.latent_channels, side, side, device="meta", dtype=vae.dtype)
    inputs = _inputs(denoiser, side)
    lists = [part for part in denoiser.children() if isinstance(part, nn.ModuleList)]
    blocks = [stored_bytes(block, None) for part in lists for block in part]
    full = stored_bytes(denoiser, None)
    sizes = {bits: packed_and_kept(denoiser, bits) for bits in BITS}
    return {
        "denoiser": full,
        "largest_block": full - sum(blocks) + max(blocks),
        "packed": {bits: packed for bits, (packed, _) in sizes.items()},
        "kept": sizes[BITS[0]][1] * dtype.itemsize // 2,
        "text_encoders": sum(stored_bytes(p, None) for name, p in parts.items() if name.startswith("text")),
        "vae": stored_bytes(vae, None),
        "denoise": 2 * peak_activation_bytes(denoiser, lambda: denoiser(**inputs)),
        "unpack": UNPACKED * largest_weight(denoiser),
        "decode": peak_activation_bytes(vae, lambda: vae.decode(latents)),
    }


def peak_activation_bytes(module: nn.Module, run: Callable[[], Any]) -> int:
    """The most bytes that tensors made by `run` hold at one time; the module's own weights are not counted,
    and attention as the fused kernels do it, which never hold the matrix of all pairs.

    Args:
        module: on the meta device.
        run: calls the module, without arguments; its inputs must be on the meta device, too.
    """
    own = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    with torch.no_grad(), _FusedAttention(), _Alive(own) as alive:
        run()
    return alive.peak


class _Alive(TorchDispatchMode):
    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known, self.now, self.peak = known, 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.known:
                storage = tensor.untyped_storage()
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


class _FusedAttention(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            query, value = args[0] if args else kwargs["query"], args[2] if len(args) > 2 else kwargs["value"]
            return query.new_empty((*query.shape[:-1], value.shape[-1]))
        return function(*args, **kwargs)


def _inputs(denoiser: nn.Module, side: int) -> dict[str, Any]:
    """What a denoiser is called with for one image of side x side latents."""
    empty = lambda *shape: torch.empty(*shape, device="meta", dtype=denoiser.dtype)
    config = denoiser.config
    if "joint_attention_dim" in config:  # FLUX: latents are packed 2 x 2, the text has 256 tokens
        tokens = side * side // 4
        return {
            "hidden_states": empty(1, tokens, config.in_channels),
            "encoder_hidden_states": empty(1, 256, config.joint_attention_dim),
            "pooled_projections": empty(1, config.pooled_projection_dim),
            "timestep": empty(1),
            "img_ids": empty(tokens, 3),
            "txt_ids": empty(256, 3),
        }
    added = None
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": empty(1, pooled), "time_ids": empty(1, 6)}
    return {
        "sample": empty(1, config.in_channels, side, side),
        "timestep": empty(1),
        "encoder_hidden_states": empty(1, 77, config.cross_attention_dim),
        "added_cond_kwargs": added,
    }


if __name__ == "__main__":
    dtypes = {"half": torch.float16, "float32": torch.float32}
    rows = [
        f'"{spec.id}": {json.dumps({name: measure(spec, dtype) for name, dtype in dtypes.items()})}'
        for spec in SPECS.values()
        if spec.architecture
    ]
    (ROOT / "qsched/models/memory.json").write_text("{\n" + ",\n".join(rows) + "\n}\n", "utf-8")
