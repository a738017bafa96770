"""Whether a backbone fits the memory there is, from a table of sizes.

The table, memory.json, is what `python tests/bench/memory_table.py` writes: weights counted exactly on the
published configurations, activations an estimate from above. Nothing here needs weights or a GPU.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from torch import nn

from qsched.models.devices import pick_dtype
from qsched.models.registry import SPECS
from qsched.models.spec import BackboneSpec
from qsched.quantization import DEFAULT_KEEP, BitWidth, layers_to_pack, packed_bytes, stored_bytes
from qsched.quantization.packing import LAYOUT_BYTES
from qsched.words import size

TABLE = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
"""Backbone -> "half" and "float32" -> the fields of a Footprint."""
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
PLANS = {
    "resident": "everything stays on the device",
    "offloaded": "what is not used just now waits in main memory",
    "none": "does not fit",
}
"""From the fastest to the slowest, and none."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of a backbone's parts.

    denoiser: at full precision. largest_block: its part that must be there while it is run block by block.
    packed: packed weights and their scales, per bit-width, one scale per output channel. kept: what a
    quantized denoiser leaves in full precision. text_encoders: all of them. vae: its decoder and encoder, in
    float32 where half precision would give black images. denoise: activations of one image, twice the
    full-precision peak, since packed layers round activations in float32. unpack: the largest layer,
    unpacked, or packed. decode: one image in the decoder.
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

    def quantized(self, bits: str) -> int:
        """A quantized denoiser."""
        return self.packed[bits] + self.kept

    @property
    def work(self) -> int:
        """Activations of one image, wherever they are largest."""
        return max(self.denoise + self.unpack, self.decode)


@dataclass(frozen=True)
class MemoryPlan:
    """How a backbone runs in the memory there is. kind: a key of PLANS; peak: bytes it takes at least."""

    kind: str
    peak: int

    @property
    def sentence(self) -> str:
        """What will happen, in words."""
        return PLANS[self.kind]

    @property
    def fits(self) -> bool:
        """Whether it can run at all."""
        return self.kind != "none"


def footprint(spec: BackboneSpec, dtype: torch.dtype = torch.float16, pixels: int | None = None) -> Footprint:
    """The published model's, by the table.

    Args:
        pixels: of an image; activations grow with them. None: the published size.
    """
    row = Footprint(**TABLE[spec.id]["half" if dtype.itemsize == 2 else "float32"])
    share = 1 if pixels is None else pixels / spec.size**2
    return replace(row, denoise=int(row.denoise * share), decode=int(row.decode * share))


def needs(parts: Footprint, bits: str) -> dict[str, int]:
    """Bytes of device memory that each kind of plan needs at this bit-width.

    With both denoisers there, what they share counts twice: once either has been moved off, each has its own.
    Offloaded, one part lies there at a time, and of full precision one block.
    """
    full, quantized, text, vae = parts.denoiser, parts.quantized(bits), parts.text_encoders, parts.vae
    step = max(quantized, parts.largest_block) + parts.denoise + parts.unpack
    return {
        "resident": RESERVE + text + vae + full + quantized + parts.work,
        "offloaded": RESERVE + max(text, step, vae + parts.decode),
    }


def plan(options: Mapping[str, int], free: int) -> MemoryPlan:
    """The first of these ways that runs in `free` bytes; if none does, what the smallest would take."""
    kind = next((kind for kind, peak in options.items() if peak <= free), "none")
    return MemoryPlan(kind, options.get(kind, min(options.values())))


def foreseen(
    spec: BackboneSpec, device: torch.device, free: int, dtype: torch.dtype | None = None
) -> MemoryPlan:
    """How a published model runs at its default bit-width in `free` bytes of a device; its kind is "none" if
    it does not. In main memory both denoisers share what is kept, and the scorer lies there, too.

    dtype: None for what load_backbone would take.
    """
    parts = footprint(spec, dtype or pick_dtype(spec, device))
    if device.type != "cpu":
        return plan(needs(parts, spec.default_bits), free)
    weights = parts.text_encoders + parts.vae + parts.denoiser + parts.packed[spec.default_bits]
    return plan({"resident": weights + parts.work + SCORER}, free)


def would_fit(free: int, device: torch.device) -> str | None:
    """The largest real backbone that runs in `free` bytes of a device, by its id;

    None if not even the smallest does.
    """
    fitting = {id: footprint(SPECS[id]).denoiser for id in TABLE if foreseen(SPECS[id], device, free).fits}
    return max(fitting, key=fitting.get, default=None)


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


def packed_and_kept(module: nn.Module, bits: str, group_size: int | None = None) -> tuple[int, int]:
    """Bytes of the packed weights with their scales, and of everything else in 16 bits, from shapes alone."""
    names, _ = layers_to_pack(module, "all", DEFAULT_KEEP)
    weights = [module.get_submodule(same[0]).weight for same in names]
    scales = lambda weight: 2 * (weight.numel() // group_size if group_size else len(weight))
    width = BitWidth.parse(bits).weight
    packed = sum(packed_bytes(weight.numel(), width) + scales(weight) + LAYOUT_BYTES for weight in weights)
    return packed, stored_bytes(module) - sum(2 * weight.numel() for weight in weights)


def packing_need(module: nn.Module, bits: str, group_size: int | None = None) -> int:
    """Bytes that quantizing a sharing_copy() of a module takes at most: all that is packed, and one matrix in
    the making.
    """
    return packed_and_kept(module, bits, group_size)[0] + UNPACKED * largest_weight(module)


def largest_weight(module: nn.Module) -> int:
    """Elements of its largest parameter."""
    return max(parameter.numel() for parameter in module.parameters())
