"""The published architectures with random weights, as backbones of the app itself; for on_cuda.py.

Speed and memory do not depend on the weights' values. The text encoders are left out: text is encoded once
per prompt.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderTiny
from memory_table import build
from torch import nn

from qsched.models.base import Condition
from qsched.models.devices import half_dtype
from qsched.models.diffusers_folder import FAMILIES, decoder_dtype
from qsched.models.pipeline import PipelineBackbone, quiet_libraries
from qsched.models.residency import Residency
from qsched.models.spec import BackboneSpec
from qsched.quantization import make_batch_invariant, quantize, sharing_copy, stored_bytes

BLOCKS = {"BasicTransformerBlock", "ResnetBlock2D", "FluxTransformerBlock", "FluxSingleTransformerBlock"}
"""What is compiled: nearly all the work, and the same kind of block only once."""
TINY_UNET = {"sample_size": 8, "cross_attention_dim": 32, "layers_per_block": 1}
TINY_VAE = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
TINY: dict[str, dict[str, dict[str, Any]]] = {
    "lcm": {
        "unet": TINY_UNET | {"block_out_channels": (32, 64, 64, 64), "attention_head_dim": 2},
        "vae": TINY_VAE,
    },
    "sdxl": {
        "unet": TINY_UNET
        | {
            "block_out_channels": (32, 64, 64),
            "attention_head_dim": (1, 2, 2),
            "transformer_layers_per_block": (1, 1, 1),
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 16,
        },
        "vae": TINY_VAE,
    },
    "flux": {
        "transformer": {
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 16,
            "axes_dims_rope": (4, 6, 6),
        },
        "vae": TINY_VAE,
    },
}
TINY_DECODER = {
    name: (8, 8, 8, 8) for name in ("encoder_block_out_channels", "decoder_block_out_channels")
} | {name: (1, 1, 1, 1) for name in ("num_encoder_blocks", "num_decoder_blocks")}


def random_backbone(spec: BackboneSpec, device: torch.device, tiny: bool) -> PipelineBackbone:
    """A backbone with random weights in its family's half precision (float32 on the CPU), all of it on the
    device.

    tiny: a small network of the same classes, for a dry run.
    """
    dtype = torch.float32 if device.type == "cpu" else half_dtype(spec)
    changes = TINY[spec.architecture] if tiny else {}
    part = "transformer" if spec.family == "flux" else "unet"
    torch.manual_seed(0)
    with default_dtype(dtype):
        made = {
            name: _ready(build(spec.architecture, name, device, **changes.get(name, {})))
            for name in (part, "vae")
        }
        latents = made["vae"].config.latent_channels
        with torch.device(device):
            small = _ready(AutoencoderTiny(latent_channels=latents, **TINY_DECODER if tiny else {}))
    nn.Module.to(made["vae"], decoder_dtype(spec, made["vae"], dtype))  # diffusers' own would warn
    scheduler = getattr(diffusers, spec.scheduler)(**spec.scheduler_config)
    side = 64 if tiny else spec.size
    return FAMILIES[spec.family](
        spec,
        device,
        dtype,
        made[part],
        scheduler,
        "random",
        pipe=_pipeline(spec, part, scheduler, made),
        image=(side, side),
        residency=Residency(device),
        tiny=small,
    )


def random_condition(backbone: PipelineBackbone, batch: int) -> Condition:
    """What a text encoder would have made of `batch` prompts."""
    config, place = backbone.denoiser.config, {"device": backbone.device, "dtype": backbone.dtype}
    if backbone.spec.family == "flux":
        tokens, width, pooled = 256, config.joint_attention_dim, config.pooled_projection_dim
    else:
        tokens, width, pooled = 77, config.cross_attention_dim, 0
        if config.addition_embed_type == "text_time":
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return Condition(
        torch.randn(batch, tokens, width, **place), torch.randn(batch, pooled, **place), (False,) * batch
    )


def variant(backbone: PipelineBackbone, bits: str | None) -> tuple[nn.Module, int, dict[str, int]]:
    """(denoiser, bytes stored, how its layers run): full precision, or quantized beside it as the
    app does.
    """
    if bits is None:
        return backbone.denoiser, stored_bytes(backbone.denoiser), {}
    module = sharing_copy(backbone.denoiser)
    report = quantize(module, bits)
    make_batch_invariant(module)
    return module, report.bytes_after, report.execution


def compiled(module: nn.Module, backend: str) -> nn.Module:
    """A copy on the same weights whose blocks are compiled, each as one graph."""
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = 256  # one for every shape of a block
    module = sharing_copy(module)
    for block in module.modules():
        if type(block).__name__ in BLOCKS:
            block.compile(fullgraph=True, dynamic=False, backend=backend)
    return module


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What is made inside has this floating-point type from the start, so that float32 never needs room."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def _ready(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)


def _pipeline(
    spec: BackboneSpec, part: str, scheduler: Any, made: dict[str, nn.Module]
) -> diffusers.DiffusionPipeline:
    """The stock pipeline around these parts, without text encoders."""
    absent = {"text_encoder": None, "tokenizer": None}
    if spec.family == "sd":
        absent |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    else:
        absent |= {"text_encoder_2": None, "tokenizer_2": None}
    with quiet_libraries():
        return getattr(diffusers, spec.pipeline)(
            vae=made["vae"], scheduler=scheduler, **{part: made[part]}, **absent
        )
