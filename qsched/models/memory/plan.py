"""What a backbone needs of memory, as arithmetic on its architecture, and how it can be run in what there is.

Weights are counted exactly: the published configuration is built on the meta device and the quantizer's own
rules pick the layers. Activations are an estimate from above (see `Footprint`). Nothing here needs weights or
a GPU.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from torch import nn

from qsched.models.memory.activations import peak_activation_bytes
from qsched.models.memory.architectures import ARCHITECTURES, build
from qsched.models.registry import SPECS
from qsched.models.spec import BackboneSpec
from qsched.quantization import DEFAULT_KEEP, BitWidth, layers_to_pack, packed_bytes, stored_bytes
from qsched.quantization.packing import LAYOUT_BYTES
from qsched.words import size

BITS = ("w8a8", "w4a8", "w4a4", "w3a8", "w2a8")
RESERVE = 512 << 20
"""Bytes for what nobody counts: the kernels' workspaces and fragmentation."""
CONTEXT = 512 << 20
"""Bytes of a card that the driver and torch take before anything else."""
CARDS = (6, 8, 12, 16, 24, 48)
"""Usual cards as their makers name them: one of "8 GB" holds 8 << 30 bytes."""
SCORER = 2_200_000_000
"""Bytes of the photographs' scorer, CLIP ViT-L/14 and ResNet-50 in float32 with LPIPS, and of its work on an
image.
"""
UNPACKED = 9
"""Bytes per weight while a packed layer is unpacked: int8 values and two float32 tensors."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of a backbone's parts in the dtype it runs in.

    denoiser: at full precision. largest_block: its part that must be there while it is run block by block.
        packed: packed
    weights and their scales, per bit-width, one scale per output channel. kept: what a quantized denoiser
    leaves in full precision. text_encoders: all of them. vae: its decoder and encoder, in float32 where half
    precision would give black images. denoise: activations of one image, twice the full-precision peak, since
    packed layers round activations in float32. unpack: the largest layer, unpacked, or packed. decode: one
    image in the decoder.
    """

    denoiser: int
    largest_block: int
    packed: Mapping[str, int]
    kept: int
    text_encoders: int
    vae: int
    denoise: int
    unpack: int
    decode: int

    @property
    def quantized(self) -> dict[str, int]:
        """A quantized denoiser, per bit-width."""
        return {bits: packed + self.kept for bits, packed in self.packed.items()}

    @property
    def work(self) -> int:
        """Activations of one image, wherever they are largest."""
        return max(self.denoise + self.unpack, self.decode)


@dataclass(frozen=True)
class MemoryPlan:
    """How a backbone runs in the memory there is. kind: a key of PLANS; peak: bytes on the device; host:
    bytes of main memory for what is moved off."""

    kind: str
    peak: int
    host: int

    @property
    def sentence(self) -> str:
        """What will happen, in words."""
        return PLANS[self.kind]

    @property
    def fits(self) -> bool:
        """Whether it can run at all."""
        return self.kind != "none"


PLANS = {
    "resident": "everything stays on the device",
    "swapped": "full precision is computed first, then moved off",
    "offloaded": "one module at a time is on the device",
    "streamed": "full precision runs block by block from main memory",
    "none": "does not fit",
}
"""From the fastest to the slowest, and none."""


def needs(parts: Footprint, bits: str) -> dict[str, int]:
    """Bytes of device memory that each kind of plan needs at this bit-width.

    With both denoisers there, what they share counts twice: once either has been moved off, each has its own.
    A quantized one is made layer by layer beside the original, which takes no more than running it.
    """
    full, quantized, text, vae = parts.denoiser, parts.quantized[bits], parts.text_encoders, parts.vae
    larger, step = max(full, quantized), parts.denoise + parts.unpack
    return {
        "resident": RESERVE + text + vae + full + quantized + parts.work,
        "swapped": RESERVE + text + vae + larger + parts.work,
        "offloaded": RESERVE + max(text, larger + step, vae + parts.decode),
        "streamed": RESERVE + max(text, quantized + step, parts.largest_block + step, vae + parts.decode),
    }


def plan(parts: Footprint, bits: str, free: int) -> MemoryPlan:
    """The fastest way to run in `free` bytes of device memory; the scorer takes what that leaves, or main
    memory.
    """
    options = needs(parts, bits)
    host = parts.text_encoders + parts.vae + parts.denoiser + parts.quantized[bits]
    for kind, peak in options.items():
        if peak <= free:
            return MemoryPlan(kind, peak, 0 if kind == "resident" else host)
    return MemoryPlan("none", min(options.values()), host)


def plan_on_card(parts: Footprint, bits: str, gibibytes: int) -> MemoryPlan:
    """The fastest way to run on a card of this size with nothing else on it."""
    return plan(parts, bits, (gibibytes << 30) - CONTEXT)


def plan_on_host(parts: Footprint, bits: str) -> MemoryPlan:
    """What running on the CPU needs of main memory, whether there is so much or not: nothing is ever moved,
    so that both denoisers share what is kept, and the scorer lies there, too."""
    peak = parts.text_encoders + parts.vae + parts.denoiser + parts.packed[bits] + parts.work + SCORER
    return MemoryPlan("resident", peak, peak)


def published(architecture: str, size: int, dtype: torch.dtype = torch.float16) -> Footprint:
    """The footprint of a published architecture for square images of this size."""
    return _in_dtype(_published_half(architecture, size), dtype, ARCHITECTURES[architecture]["vae"][1])


def footprint(parts: Mapping[str, nn.Module], height: int, width: int, dtype: torch.dtype) -> Footprint:
    """Bytes of the parts of a pipeline.

    Args:
        parts: "unet" or "transformer", and "vae", on the meta device; every "text_encoder..." on any device.
        height, width: of the images in pixels. dtype: what the backbone runs in.
    """
    sdxl = (
        "unet" in parts and "text_encoder_2" in parts
    )  # only its pipeline heeds what the decoder's configuration says
    return _in_dtype(_half(parts, height, width), dtype, parts["vae"].config if sdxl else {})


@functools.cache
def _published_half(architecture: str, size: int) -> Footprint:
    return _half({name: _built(architecture, name) for name in ARCHITECTURES[architecture]}, size, size)


@functools.cache
def _built(architecture: str, name: str) -> nn.Module:
    return build(architecture, name)


def _half(parts: Mapping[str, nn.Module], height: int, width: int) -> Footprint:
    """The footprint in 16 bits throughout."""
    name = next(name for name in ("unet", "transformer") if name in parts)
    # diffusers' own `to` would warn of what float32 loses
    denoiser, vae = (nn.Module.to(parts[key], torch.float16) for key in (name, "vae"))
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    blocks = [stored_bytes(block) for block in outer_blocks(denoiser)]
    sizes = {bits: packed_and_kept(denoiser, bits) for bits in BITS}
    return Footprint(
        denoiser=stored_bytes(denoiser),
        largest_block=stored_bytes(denoiser) - sum(blocks) + max(blocks, default=0),
        packed={bits: packed for bits, (packed, _) in sizes.items()},
        kept=sizes[BITS[0]][1],
        text_encoders=sum(
            stored_bytes(part) for key, part in parts.items() if key.startswith("text_encoder")
        ),
        vae=stored_bytes(vae),
        denoise=2 * _denoise_bytes(denoiser, height // factor, width // factor),
        unpack=UNPACKED * max(p.numel() for p in denoiser.parameters()),
        decode=_decode_bytes(vae, height // factor, width // factor),
    )


def _in_dtype(half: Footprint, dtype: torch.dtype, vae_config: Mapping[str, Any]) -> Footprint:
    """The same in another dtype; packed weights and their scales stay as they are."""
    times, vae_times = dtype.itemsize // 2, decoder_dtype(vae_config, dtype).itemsize // 2
    return replace(
        half,
        denoiser=half.denoiser * times,
        largest_block=half.largest_block * times,
        kept=half.kept * times,
        text_encoders=half.text_encoders * times,
        vae=half.vae * vae_times,
        denoise=half.denoise * times,
        decode=half.decode * vae_times,
    )


def quantized_bytes(module: nn.Module, bits: str) -> int:
    """What `quantize(module, bits)` would report as bytes_after, from shapes alone."""
    return sum(packed_and_kept(module, bits))


def packed_and_kept(module: nn.Module, bits: str) -> tuple[int, int]:
    """Bytes of the packed weights with their scales, and of everything else in 16 bits, from shapes alone."""
    layers = [
        module.get_submodule(names[0]).weight for names in layers_to_pack(module, "all", DEFAULT_KEEP)[0]
    ]
    packed = sum(
        packed_bytes(w.numel(), BitWidth.parse(bits).weight) + 2 * len(w) + LAYOUT_BYTES for w in layers
    )
    return packed, stored_bytes(module) - sum(2 * w.numel() for w in layers)


def packing_need(module: nn.Module, bits: str, group_size: int | None = None) -> int:
    """Bytes that quantizing a sharing_copy() of a module takes at most: all its matrices packed, one in the
    making.
    """
    width, weights = BitWidth.parse(bits).weight, [p for p in module.parameters() if p.dim() > 1]
    scales = lambda weight: 2 * (weight.numel() // group_size if group_size else len(weight))
    packed = sum(packed_bytes(weight.numel(), width) + scales(weight) + LAYOUT_BYTES for weight in weights)
    return packed + UNPACKED * max((weight.numel() for weight in weights), default=0)


def decoder_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a decoder of this configuration gives images: SDXL's overflows float16 to black."""
    return torch.float32 if dtype == torch.float16 and config.get("force_upcast") else dtype


def outer_blocks(module: nn.Module) -> list[nn.Module]:
    """The elements of a denoiser's outermost lists (down and up blocks, transformer blocks): what can run one
    by one.
    """
    return [block for child in module.children() if isinstance(child, nn.ModuleList) for block in child]


def foreseen(
    spec: BackboneSpec, device: torch.device, free: int, dtype: torch.dtype | None = None
) -> MemoryPlan:
    """How a published model runs at its default bit-width in `free` bytes of a device; its kind is "none" if
    it does not.

    dtype: None for what load_backbone would take.
    """
    on_host = device.type == "cpu"
    parts = published(spec.architecture, spec.size, dtype or (torch.float32 if on_host else half_dtype(spec)))
    if not on_host:
        return plan(parts, spec.default_bits, free)
    found = plan_on_host(parts, spec.default_bits)
    return found if found.peak <= free else replace(found, kind="none")


def room_for_scorer(parts: Footprint, bits: str, free: int) -> bool:
    """Whether the scorer fits into `free` bytes of device memory without the backbone having to run in
    another way.
    """
    return plan(parts, bits, free - SCORER).kind == plan(parts, bits, free).kind


def would_fit(free: int, device: torch.device) -> str | None:
    """The largest real backbone that runs in `free` bytes of a device, by its id;

    None if not even the smallest does.
    """
    real = [spec for spec in SPECS.values() if spec.architecture]
    fitting = {spec.id: facts(spec).denoiser for spec in real if foreseen(spec, device, free).fits}
    return max(fitting, key=fitting.get, default=None)


def facts(spec: BackboneSpec) -> Footprint | None:
    """The footprint of a spec's published model in half precision;

    None for the embedded one, which fits anywhere.
    """
    return published(spec.architecture, spec.size, half_dtype(spec)) if spec.architecture else None


def half_dtype(spec: BackboneSpec) -> torch.dtype:
    """The half precision of a family: FLUX was trained in bfloat16 and overflows float16."""
    return torch.bfloat16 if spec.family == "flux" else torch.float16


def free_bytes(device: torch.device) -> int:
    """Bytes that can be had now: of a GPU's memory, with what torch holds back for reuse, or of
    main memory.
    """
    if device.type == "cuda":
        held_back = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held_back
    return psutil.virtual_memory().available


def too_large(spec: BackboneSpec, peak: int, free: int, device: torch.device) -> str:
    """One sentence: it does not fit, by how much, and what would."""
    other = would_fit(free, device) or "emoji-lcm"
    return f"{spec.title} needs {size(peak)} of memory and {size(free)} are free: {other} would fit."


def out_of_memory(spec: BackboneSpec, device: torch.device) -> str:
    """One sentence after the device ran out of memory: what would fit in what is free now."""
    largest = would_fit(free_bytes(device), device)
    others = [id for id in dict.fromkeys((largest, "emoji-lcm")) if id not in (None, spec.id)]
    others += ["the CPU"] * (device.type != "cpu")
    return f"{spec.title} ran out of memory: {' or '.join(['a smaller batch', *others])} would fit."


def _denoise_bytes(denoiser: nn.Module, height: int, width: int) -> int:
    empty = lambda *shape: torch.empty(*shape, device="meta", dtype=torch.float16)
    config = denoiser.config
    if "joint_attention_dim" in config:  # FLUX: latents are packed 2 x 2, the text has 256 tokens
        tokens = height * width // 4
        inputs = (empty(1, tokens, config.in_channels), empty(1, 256, config.joint_attention_dim))
        inputs += (empty(1, config.pooled_projection_dim), empty(1), empty(tokens, 3), empty(256, 3))
        return peak_activation_bytes(denoiser, lambda: denoiser(*inputs))
    inputs = (empty(1, config.in_channels, height, width), empty(1), empty(1, 77, config.cross_attention_dim))
    added = None
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": empty(1, pooled), "time_ids": empty(1, 6)}
    return peak_activation_bytes(denoiser, lambda: denoiser(*inputs, added_cond_kwargs=added))


def _decode_bytes(vae: nn.Module, height: int, width: int) -> int:
    latents = torch.empty(1, vae.config.latent_channels, height, width, device="meta", dtype=torch.float16)
    return peak_activation_bytes(vae, lambda: vae.decode(latents))
