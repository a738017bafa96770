"""Packed weights and rounded activations: post-training quantization on nothing but torch.

Why not a library? A few-step diffusion model wants four things at once: 2/3/4/8-bit weights that take 2/3/4/8
bits of storage, Linear *and* Conv2d (convolutions hold 69 % of Stable Diffusion 1.5), dynamic 8- and 4-bit
activations, and plain tensors that survive safetensors, pickle, deepcopy and a process fork. Every library
offers some of it, and the usual "W4A8" keeps one 4-bit value per byte, so that 4x on paper is 1.2x on disk.
Three short files do the arithmetic in the open instead: packing.py (numbers to bytes), layers.py (the layers)
and this one (models and sizes).

The numbers. Everything is symmetric: q = clamp(round(x / scale)), scale = absmax / (2^(b-1) - 1/2), shrunk by
1e-4 so that the maximum is no rounding tie whose fate depends on the device. At 2 to 4 bits this beats absmax
/ (2^(b-1) - 1). A weight scale belongs to one output channel or, with group_size, to group_size weights of it
in consecutive input channels; in a convolution of one kernel tap, so that a group is group_size weights
everywhere and costs the same. It is stored as bfloat16: a scale needs range, not precision, since the
integers are chosen on the rounded scale. Activation scales are computed in float32 at every call: per token
(Linear), per pixel over its channels (Conv2d), or one per image ("tensor"). No scale depends on what else is
in the batch.

The trade-off is in how it runs. There are two ways, equal up to float rounding (< 1e-5 of the output in
float32):
  "fake" multiplies dequantized weights and activations as floats. Any device, any grouping; the size shrinks,
    the time does not.
  "int8" multiplies int8 by int8 into int32 (torch._int_mm; on a CPU without instructions for it the float
    units, in sums that float32 holds exactly); a convolution is k*k shifted 1x1 products. The
    sums are exact and so do not depend on batch size or kernel; 4-bit operands ride in int8, since neither
    CPUs nor Hopper have int4 products in reach of torch. Grouped weights, grouped and depthwise convolutions,
    16-bit activations and padding with anything but zeros fall back to "fake", and so do layers of more than
    131,071 inputs, whose int32 sums could overflow.
  "auto" is a rule and never a measurement: int8 on a CPU whose integer products are exact, "fake" elsewhere.
    Two kinds of machine may differ; name the execution where bits must repeat: one ulp can flip a rounding
    and 4 bits make that visible.
Unpacking at every call can cost more than a small model's arithmetic (a 12 M-parameter U-Net in "fake": +30 %
at batch 1), so small models may keep the unpacked weights, `cache`. That is memory and not storage: it is in
no state_dict, copy or pickle, no stored size counts it, and SizeReport.cache_bytes names it.

torch.compile takes a quantized model as one graph (fullgraph=True): what "auto" means is found before a layer
is traced, and unpacked weights that are not held yet are unpacked in the graph.

What is left to you: fuse LoRA weights first and expect no gradients. A packed layer's `.weight` is made anew
at every access, for code that looks at its dtype. A model with a config (diffusers, transformers) notes there
how it was quantized, so that a folder saved from it is not taken for an unquantized one; quantized_models.py
loads such a folder.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import Tensor, nn

from .layers import PackedLayer, QuantConv2d, QuantLinear, automatic_execution
from .packing import ACTIVATION_BITS, WEIGHT_BITS, BitWidth, pack, unpack

__all__ = [
    "ACTIVATION_BITS", "ACTIVATION_SCALES", "DEFAULT_KEEP", "EXECUTIONS", "SCOPES", "WEIGHT_BITS", "BitWidth",
    "KeptLayer", "QuantConv2d", "QuantLinear", "SizeReport", "automatic_execution", "cache_bytes",
    "check_options",
    "layers_to_pack", "pack", "quantize", "sharing_copy", "stored_bytes", "unpack",
]  # fmt: skip

ACTIVATION_SCALES = ("token", "tensor")
SCOPES = ("all", "linear")
EXECUTIONS = ("auto", "fake", "int8")
METHOD = "qsched"
"""The quant_method in a quantized model's config."""
OTHER_LAYERS = (nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Layers with weights that are not quantized, and reported so."""
HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
         "_forward_pre_hooks_with_kwargs")  # fmt: skip
"""Where a module keeps its hooks."""
CACHE_LIMIT = 64_000_000
"""cache="auto" keeps unpacked weights in models of at most this many quantized weights."""
DEFAULT_KEEP = (
    "conv_in", "conv_out", "time_embedding", "*.time_emb_proj", "add_embedding", "class_embedding",
    "encoder_hid_proj", "x_embedder", "context_embedder", "time_text_embed", "norm_out", "proj_out",
)  # fmt: skip
"""What stays in high precision by convention in U-Nets and FLUX. A pattern is the whole dotted name of a
layer or of a module around it, so that "proj_out" is FLUX's last layer and none of the attention blocks'
layers of that name."""


class KeptLayer(NamedTuple):
    """A Linear or Conv2d left in high precision: its dotted name, "linear" or "conv2d", and its bytes in
    float16.
    """

    name: str
    kind: str
    bytes: int


@dataclass
class SizeReport:
    """What quantize() did, in bytes that can be checked against a file.

    bytes_before: every parameter and persistent buffer counted as float16, whatever dtype the module had.
    bytes_after: the same sum now: packed weights and scales as they are, what is still floating point as
        float16. Save module.half().state_dict() with safetensors and the file has this size plus its header.
    bytes_in_memory: the same tensors in the dtype at hand (float32 on most CPUs), without the cache.
    cache_bytes: what unpacked weights add in memory once the module has run where it lies now; never stored.
    quantized: packed layers by kind.  execution: the same layers by how they run where the module lies now.
    kept: layers left in high precision.
    per_channel: layers that group_size does not divide and that have one scale per output channel instead.
    layer_bits: packed layers by bit-width, where not all have the same one.
    notes: sentences about what a method other than plain rounding did (qsched.quantizers).
    """

    bits: str
    bytes_before: int
    bytes_after: int = 0
    bytes_in_memory: int = 0
    cache_bytes: int = 0
    quantized: dict[str, int] = field(default_factory=dict)
    execution: dict[str, int] = field(default_factory=dict)
    kept: list[KeptLayer] = field(default_factory=list)
    per_channel: list[str] = field(default_factory=list)
    layer_bits: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """bytes_before / bytes_after: how many times smaller than float16."""
        return self.bytes_before / self.bytes_after

    def to_dict(self) -> dict:
        """Plain lists and numbers, ready for JSON."""
        return {**asdict(self), "kept": [layer._asdict() for layer in self.kept], "ratio": self.ratio}


def stored_bytes(module: nn.Module, float_bytes: int | None = 2) -> int:
    """Bytes of a module's state_dict, shared tensors once.

    Args:
        float_bytes: bytes per floating-point element: 2 as if saved in float16, None as it is now. Integers
            count as they are.
    """
    tensors = {id(t): t for t in module.state_dict(keep_vars=True).values() if isinstance(t, Tensor)}
    as_is = lambda tensor: float_bytes is None or not tensor.is_floating_point()
    return sum(t.numel() * (t.element_size() if as_is(t) else float_bytes) for t in tensors.values())


def cache_bytes(module: nn.Module) -> int:
    """Bytes of unpacked weights held in memory at this moment, besides what stored_bytes() counts."""
    return sum(layer.cache_bytes() for layer in module.modules() if isinstance(layer, PackedLayer))


def quantize(module: nn.Module, bits: str | BitWidth, *, group_size: int | None = None,
    activation_scale: str = "token",
             scope: str = "all", keep: Iterable[str] = DEFAULT_KEEP, execution: str = "auto",
             cache: bool | str = "auto", make: Callable[...,
                 nn.Module] | None = None) -> SizeReport:  # fmt: skip
    """Replace the Linear and Conv2d layers inside a module by packed ones, in place.

    To load a quantized state_dict, quantize a model of the same architecture with the same arguments, then
    load_state_dict. To keep the original, quantize a sharing_copy() of it.

    Args:
        module: a full-precision model on any device ("meta" too: that gives the sizes without the weights).
        bits: "w8a8", "w4a8", ... or a BitWidth.
        group_size: input channels per weight scale; None is one scale per output channel.
        activation_scale: "token" (per token, per pixel) or "tensor" (one per image).
        scope: "all" or "linear".
        keep: shell-style patterns for the names of layers, or of modules around them, to leave alone; ()
            packs all.
        execution: "auto", "fake" or "int8" (this module's docstring says how they differ).
        cache: hold unpacked weights in memory: True, False, or "auto" for at most CACHE_LIMIT quantized
            weights.
        make: called as make(name, layer, pack) for every layer to be packed; returns what stands in its
            place, a module with pack(layer) or pack(layer, BitWidth) in it.
    Raises:
        ValueError: an option out of range, nothing to quantize, or a layer, named, that cannot be packed:
            packed already, weights that are NaN, infinite, float8 or offloaded, LoRA adapters attached. The
            module is then as it was.
    """
    bits, keep = BitWidth.parse(bits), (keep,) if isinstance(keep, str) else tuple(keep)
    check_options(group_size, activation_scale, scope, execution, cache)
    report = SizeReport(str(bits), stored_bytes(module))
    groups, report.kept = layers_to_pack(module, scope, keep)
    if cache == "auto":
        cache = sum(module.get_submodule(names[0]).weight.numel() for names in groups) <= CACHE_LIMIT

    def pack_layer(layer: nn.Module, bits: BitWidth = bits) -> PackedLayer:
        kind = QuantLinear if isinstance(layer, nn.Linear) else QuantConv2d
        return kind(layer, bits, group_size, activation_scale, execution, cache).train(layer.training)

    widths: dict[str, int] = {}
    for names in groups:
        layer = module.get_submodule(names[0])
        device, dtype = layer.weight.device, layer.weight.dtype
        made = pack_layer(layer) if make is None else make(names[0], layer, pack_layer)
        packed = next(part for part in made.modules() if isinstance(part, PackedLayer))
        for hooks in HOOKS:  # the same dicts, so that their handles still remove them
            setattr(made, hooks, getattr(layer, hooks))
        for name in names:  # one layer used in several places stays one layer
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, made)
        mode = packed.uses(device, dtype)
        report.quantized[packed.kind] = report.quantized.get(packed.kind, 0) + 1
        report.execution[mode] = report.execution.get(mode, 0) + 1
        widths[str(packed.bits)] = widths.get(str(packed.bits), 0) + 1
        report.cache_bytes += packed.cache_need(mode, dtype)
        if group_size and packed.group_size is None:
            report.per_channel.append(names[0])
    report.layer_bits = dict(sorted(widths.items())) if set(widths) != {str(bits)} else {}
    report.bytes_after, report.bytes_in_memory = stored_bytes(module), stored_bytes(module, None)
    note(module, {"quant_method": METHOD, "bits": str(bits), "group_size": group_size, "keep": list(keep),
        "scope": scope,
                  "activation_scale": activation_scale, "execution": execution,
                  "plain": make is None})  # fmt: skip
    return report


def note(module: nn.Module, settings: dict) -> None:
    """Write how a model was quantized into its config, where it has one: diffusers and
    transformers save it.
    """
    if hasattr(module, "register_to_config"):
        module.register_to_config(quantization_config=settings)
    elif hasattr(getattr(module, "config", None), "save_pretrained"):
        module.config.quantization_config = settings


def sharing_copy(module: nn.Module) -> nn.Module:
    """A copy of a module that holds the same weights, to be quantized while the original stays as it is.

    It costs no memory, and quantize() then adds the packed weights layer by layer: what is left alone (norms,
    biases, kept layers) lies there once. The tensors are objects of their own on one storage: moving or
    converting one of the two modules gives that one a storage of its own; only writing into a tensor
    (load_state_dict) reaches both.
    """
    shared: dict[int, Tensor] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        same = tensor.detach()
        shared[id(tensor)] = (
            nn.Parameter(same, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else same
        )
    return copy.deepcopy(module, shared)


def check_options(group_size: int | None = None, activation_scale: str = "token", scope: str = "all",
                  execution: str = "auto", cache: bool | str = "auto") -> None:  # fmt: skip
    """Raise ValueError, one sentence, for an option of quantize() that is out of range."""
    options = (("activation_scale", activation_scale, ACTIVATION_SCALES), ("scope", scope, SCOPES),
               ("execution", execution, EXECUTIONS), ("cache", cache, ("auto", True, False)))  # fmt: skip
    for name, value, allowed in options:
        if value not in allowed:
            raise ValueError(f"{name} {value!r} is none of {', '.join(map(repr, allowed))}")
    if group_size is not None and (type(group_size) is not int or group_size < 1):
        raise ValueError(f"group_size {group_size!r} is neither None nor a positive number of input channels")


def layers_to_pack(
    module: nn.Module, scope: str, keep: tuple[str, ...]
) -> tuple[list[list[str]], list[KeptLayer]]:
    """The names of the layers that quantize() would pack (several for one used in several places), and what
    it keeps.

    Raises:
        ValueError: nothing to pack, or a layer that cannot be packed.
    """
    names: dict[int, list[str]] = {}
    kept = []
    owners = Counter(id(p) for part in module.modules() for p in part._parameters.values() if p is not None)
    for name, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, PackedLayer):
            raise ValueError(f"the module is already quantized (to {layer.bits}): take a full-precision copy")
        if id(layer) in names:
            names[id(layer)].append(name)
        elif isinstance(layer, (nn.Linear, nn.Conv2d)):
            kind = "linear" if isinstance(layer, nn.Linear) else "conv2d"
            # a subclass may use its weights in its own way: nn.MultiheadAttention reads out_proj.weight, for
            # one
            packable = (
                type(layer) in (nn.Linear, nn.Conv2d) and name != "" and (scope == "all" or kind == "linear")
            )
            if not packable or _matches(name, keep) or owners[id(layer.weight)] > 1:  # tied weights stay tied
                kept.append(KeptLayer(name, kind, stored_bytes(layer)))
                continue
            if reason := _obstacle(name, layer):
                raise ValueError(f"{name} {reason}; nothing was quantized")
            names[id(layer)] = [name]
        elif isinstance(layer, OTHER_LAYERS):
            kept.append(KeptLayer(name, type(layer).__name__.lower(), stored_bytes(layer)))
    if not names:
        raise ValueError(
            "nothing to quantize: no Linear or Conv2d inside the module is in scope and outside keep"
        )
    return list(names.values()), kept


def _obstacle(name: str, layer: nn.Module) -> str:
    """Why a layer cannot be packed, as the rest of a sentence; empty if it can."""
    weight = layer.weight
    if name.endswith(".base_layer") or hasattr(layer, "lora_A"):
        return (
            "has LoRA adapters attached: fuse them first (pipe.fuse_lora(), then pipe.unload_lora_weights())"
        )
    if hasattr(layer, "_hf_hook"):
        return "is offloaded by accelerate: load the model whole first, or remove its hooks"
    if weight.is_floating_point() and weight.element_size() == 1:
        return (
            f"has {str(weight.dtype).removeprefix('torch.')} weights: convert them to float16 or wider first"
        )
    if not weight.is_meta and not weight.isfinite().all():
        return "has weights that are NaN or infinite"
    return ""


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    # DataParallel, compiled
    parts = [part for part in name.removeprefix("module.").split(".") if part != "_orig_mod"]
    around = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatchcase(path, pattern) for path in around for pattern in patterns)
