"""The published configurations of the real models, just enough to build their modules without weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

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
        return _maker(kind)(**config | changes)


def _maker(kind: str) -> Callable[..., nn.Module]:
    import diffusers

    if hasattr(diffusers, kind):
        return getattr(diffusers, kind)
    import transformers

    settings = {"CLIPTextModelWithProjection": "CLIPTextConfig"}.get(
        kind, kind.replace("EncoderModel", "Model")
    )
    settings = settings.replace("Model", "Config")
    return lambda **config: getattr(transformers, kind)(getattr(transformers, settings)(**config))
