"""A quantized denoiser beside its original: what both keep lies in memory once, and neither notices when the
other moves.
"""

import pytest
import torch
from bench.memory_table import peak_activation_bytes
from tiny_models import PROMPTS, REAL, fresh, tiny
from torch import nn

from qsched.models.memory import packed_and_kept, packing_need
from qsched.quantization import Quantization, quantize, sharing_copy, stored_bytes
from qsched.sampling.loop import draw_noise


def tensors(module):
    return module.state_dict(keep_vars=True)


def bytes_of(*modules):
    """Bytes of all storages, each once."""
    return sum({t.data_ptr(): t.nbytes for module in modules for t in tensors(module).values()}.values())


def elsewhere(module):
    """What a move to another device does to a module: every tensor gets memory of its own."""
    return module._apply(lambda tensor: tensor.clone())


def predict(backbone, denoiser):
    x = draw_noise(backbone.latent_shape, 0, [0]).start
    return backbone._predict(denoiser, x, torch.tensor(500.0), backbone.encode(PROMPTS[:1]))


def relative(a, b):
    """How far a is from b; kernels may sum in another order in memory that lies otherwise."""
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("id", REAL)
def test_what_stays_in_full_precision_lies_there_once(id):
    full = tiny(id).denoiser
    module = sharing_copy(full)
    assert bytes_of(full, module) == bytes_of(full)
    quantize(module, "w4a8", cache=False)
    kept = {name: tensor for name, tensor in tensors(module).items() if name in tensors(full)}
    assert all(tensor.data_ptr() == tensors(full)[name].data_ptr() for name, tensor in kept.items())
    assert {"conv_in.weight", "conv_out.weight"} <= kept.keys() or "x_embedder.weight" in kept
    assert any("norm" in name for name in kept) and any(name.endswith(".bias") for name in kept)
    packed, rest = packed_and_kept(full, "w4a8")
    assert bytes_of(full, module) == bytes_of(full) + packed
    assert stored_bytes(module) == packed + rest


@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w3a8"])
def test_the_peak_has_no_second_copy_of_the_denoiser(bits):
    layers = nn.Sequential(*(nn.Linear(256, 256) for _ in range(40)), nn.Conv2d(256, 256, 3))
    made = []

    def make():
        made.append(sharing_copy(layers))
        quantize(made[0], bits, cache=False, execution="fake")

    peak = peak_activation_bytes(layers, make)
    assert (
        bytes_of(layers, made[0]) - bytes_of(layers)
        < peak
        <= packing_need(layers, bits)
        < stored_bytes(layers, 4)
    )


@pytest.mark.parametrize("method", ["plain", "mixdq", "svdquant", "torchao"])
def test_no_method_touches_the_original(method):
    if method == "torchao":
        pytest.importorskip("torchao", reason="the optional package torchao is not installed")
    backbone = fresh("sdxl-turbo")
    before = {name: tensor.clone() for name, tensor in tensors(backbone.denoiser).items()}
    made = backbone.quantized(Quantization("w4a8", method=method)).module
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(backbone.denoiser).items())
    assert made.conv_in.weight.data_ptr() == backbone.denoiser.conv_in.weight.data_ptr()
    assert type(made.conv_in) is not type(backbone.denoiser.conv_in), "steadied only in the copy"


@pytest.mark.parametrize("id", ["lcm-dreamshaper-v7", "flux1-schnell"])
@pytest.mark.parametrize("moved", ["full precision", "quantized"])
def test_either_may_move_or_change_its_dtype(id, moved):
    backbone = fresh(id)
    made = backbone.quantized(Quantization("w4a8")).module
    expected = [predict(backbone, module) for module in (backbone.denoiser, made)]
    first, other = (made, backbone.denoiser) if moved == "quantized" else (backbone.denoiser, made)
    there = {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in tensors(other).items()}
    elsewhere(first)
    assert not {t.data_ptr() for t in tensors(first).values()} & {pointer for pointer, _ in there.values()}
    for module, before in zip((backbone.denoiser, made), expected, strict=True):
        assert relative(predict(backbone, module), before) < 1e-2
    elsewhere(other)
    nn.Module.to(first, torch.bfloat16)
    assert all(t.dtype == there[name][1] for name, t in tensors(other).items())
    assert relative(predict(backbone, other), expected[other is made]) < 1e-2


def test_a_full_precision_one_that_is_dropped_leaves_its_share_behind():
    backbone = fresh("lcm-dreamshaper-v7")
    made = backbone.quantized(Quantization("w4a8")).module
    expected = predict(backbone, made)
    for tensor in backbone.denoiser.parameters():
        tensor.data = torch.empty(0)
    assert relative(predict(backbone, made), expected) < 1e-2


def test_what_was_made_in_inference_mode_can_be_loaded_into():
    with torch.inference_mode():
        layers = nn.Sequential(nn.Linear(32, 32))
        quantize(layers, "w8a8")
    layers.load_state_dict(layers.state_dict())
