"""Packing, rounding and the packed layers against a plain simulation in float64."""

import copy

import pytest
import torch
from torch import nn

from qsched.quantization import BitWidth, QuantConv2d, QuantLinear, pack, unpack
from qsched.quantization import layers as packed_layers
from qsched.quantization.layers import _int_mm_is_exact, automatic_execution
from qsched.quantization.packing import int_mm, quantize_activation

CPU = torch.device("cpu")
BITS = ["w8a8", "w4a8", "w4a4", "w3a8", "w2a8", "w4a16", "w8a4"]
CONVOLUTIONS = {
    "3x3": dict(out_channels=24, kernel_size=3, padding=1),
    "strided": dict(out_channels=24, kernel_size=3, padding=1, stride=2),
    "strided without padding": dict(out_channels=8, kernel_size=2, stride=2),
    "1x1": dict(out_channels=24, kernel_size=1),
    "1x1 strided": dict(out_channels=24, kernel_size=1, stride=3),
    "5x5": dict(out_channels=8, kernel_size=5, padding=2),
    "3x5 uneven": dict(out_channels=8, kernel_size=(3, 5), padding=(2, 1), stride=(1, 2)),
    "dilated": dict(out_channels=8, kernel_size=3, padding=2, dilation=2),
    "same": dict(out_channels=8, kernel_size=(5, 3), padding="same", dilation=2),
    "reflect": dict(out_channels=8, kernel_size=3, padding=1, padding_mode="reflect"),
    "depthwise": dict(out_channels=16, kernel_size=3, padding=1, groups=16),
    "grouped": dict(out_channels=8, kernel_size=3, padding=1, groups=2, bias=False),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def on_a_grid(x, bits, dims):
    """x (float64) rounded to 2^bits levels, one scale per dims in float32 as documented."""
    scale = x.abs().amax(dims, keepdim=True).float() * ((1 - 1e-4) / (2 ** (bits - 1) - 0.5))
    return (x / scale.double()).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale.double()


def weight_on_a_grid(weight, bits, group_size=None):
    """Weights (N, C, ...) on their grid in float64, one plain loop over the groups; scales in bfloat16."""
    limit, result = 2 ** (bits - 1), weight.detach().clone().double()
    flat = result.view(*weight.shape[:2], -1)  # N, C, taps
    size = group_size or flat.shape[1]
    taps = [slice(t, t + 1) for t in range(flat.shape[2])] if group_size else [slice(None)]
    for row in flat:
        for start in range(0, flat.shape[1], size):
            for tap in taps:
                group = row[start : start + size, tap]
                scale = (group.abs().max().float() * ((1 - 1e-4) / (limit - 0.5))).bfloat16().double()
                group.copy_((group / scale).round().clamp(-limit, limit - 1) * scale)
    return result


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5, 11), (2, 256), (1, 1000, 13)])
def test_pack_is_bit_exact_and_wastes_nothing(bits, shape):
    values = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), shape, dtype=torch.int8)
    packed = pack(values, bits)
    assert torch.equal(unpack(packed, bits, shape), values)
    assert packed.nbytes <= -(-values.numel() * bits // 8) + (bits == 3)  # 3 bits round two planes up


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_pack_keeps_the_extremes(bits):
    values = torch.tensor([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0, -1], dtype=torch.int8)
    assert torch.equal(unpack(pack(values, bits), bits, (4,)), values)


@pytest.mark.parametrize("m, k, n", [(1, 8, 8), (17, 9, 5), (40, 16, 24), (3, 1, 1)])
def test_padded_int_mm_is_exact(m, k, n):
    a, b = (torch.randint(-128, 128, (rows, k), dtype=torch.int8) for rows in (m, n))
    for pad in (False, True):
        assert torch.equal(int_mm(a, b, pad=pad).long(), a.long() @ b.long().t())


def test_bit_widths():
    assert BitWidth.parse("w4a8") == BitWidth(4, 8)
    assert str(BitWidth(4, 8)) == "w4a8"
    assert BitWidth.parse(" W3A16 ") == BitWidth.parse(BitWidth(3, 16))
    for bad in ("w5a8", "w4a2", "int4", "", "w4", "w16a16", None):
        with pytest.raises(ValueError, match=r"2, 3, 4, 8 and M .* 4, 8, 16"):
            BitWidth.parse(bad)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", [None, 16])
@pytest.mark.parametrize("activation_scale", ["token", "tensor"])
def test_linear_equals_a_plain_simulation(bits, group_size, activation_scale):
    linear, x = nn.Linear(48, 20), torch.randn(3, 10, 48) * torch.rand(3, 10, 1) * 5
    width = BitWidth.parse(bits)
    rounded = x.double()
    if width.activation < 16:
        rounded = on_a_grid(rounded, width.activation, -1 if activation_scale == "token" else (1, 2))
    weight = weight_on_a_grid(linear.weight, width.weight, group_size)
    expected, outputs = rounded @ weight.t() + linear.bias.double(), []
    for execution in ("fake", "int8"):
        layer = QuantLinear(linear, width, group_size, activation_scale, execution)
        assert torch.equal(layer.dequantize().double(), weight)
        outputs.append(layer(x))
        assert outputs[-1].dtype == x.dtype
        assert relative(outputs[-1], expected) < 1e-5
    assert relative(*outputs) < 1e-5
    assert layer.uses(CPU, x.dtype) == ("int8" if group_size is None and width.activation < 16 else "fake")


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w3a8"])
@pytest.mark.parametrize("activation_scale", ["token", "tensor"])
def test_conv_equals_a_plain_simulation(options, bits, activation_scale):
    conv, x = nn.Conv2d(16, **options), torch.randn(2, 16, 13, 11) * torch.rand(2, 1, 13, 11) * 5
    width = BitWidth.parse(bits)
    reference = copy.deepcopy(conv).double()
    reference.weight.data = weight_on_a_grid(conv.weight, width.weight)
    expected = reference(
        on_a_grid(x.double(), width.activation, 1 if activation_scale == "token" else (1, 2, 3))
    )
    outputs = []
    for execution in ("fake", "int8"):
        layer = QuantConv2d(conv, width, None, activation_scale, execution)
        assert torch.equal(layer.dequantize().double(), reference.weight.data)
        outputs.append(layer(x))
        assert outputs[-1].shape == expected.shape
        assert relative(outputs[-1], expected) < 1e-5
        assert torch.equal(layer(x[0]), layer(x[:1])[0])  # without a batch dimension, as nn.Conv2d allows
    assert relative(*outputs) < 1e-5
    fallback = conv.groups > 1 or conv.padding_mode != "zeros"
    assert layer.uses(CPU, x.dtype) == ("fake" if fallback else "int8")


def test_a_group_of_conv_weights_lies_in_one_tap():
    conv, x = nn.Conv2d(16, 4, 3, padding=1), torch.randn(2, 16, 6, 6)
    layer = QuantConv2d(conv, BitWidth(4, 16), group_size=8)
    assert layer.scale.numel() == conv.weight.numel() // 8
    reference = copy.deepcopy(conv).double()
    reference.weight.data = weight_on_a_grid(conv.weight, 4, 8)
    assert relative(layer(x), reference(x.double())) < 1e-5


@pytest.mark.parametrize("activation_scale", ["token", "tensor"])
@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
def test_results_do_not_depend_on_the_batch(bits, activation_scale):
    options = dict(bits=BitWidth.parse(bits), activation_scale=activation_scale, execution="int8")
    linear, conv = (
        QuantLinear(nn.Linear(32, 16), **options),
        QuantConv2d(nn.Conv2d(32, 16, 3, padding=1), **options),
    )
    tokens, images = torch.randn(5, 7, 32), torch.randn(5, 32, 6, 6)
    tokens[3] *= 100
    images[3] *= 100  # a loud neighbour must not coarsen the others' grid
    for layer, x in ((linear, tokens), (conv, images)):
        assert torch.equal(layer(x)[:2], layer(x[:2]))
        layer.execution = "fake"
        assert relative(layer(x)[:2], layer(x[:2])) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("execution", ["fake", "int8"])
def test_all_zero_tokens_and_pixels_stay_finite(dtype, execution):
    linear = QuantLinear(nn.Linear(16, 8), BitWidth(8, 8), execution=execution).to(dtype)
    tokens = torch.randn(2, 4, 16).to(dtype)
    tokens[:, 1] = 0
    y = linear(tokens)
    assert y.dtype == dtype
    assert y.isfinite().all()
    assert torch.equal(y[:, 1], linear.bias.expand(2, 8))
    conv = QuantConv2d(nn.Conv2d(16, 8, 3, padding=1), BitWidth(4, 4), execution=execution).to(dtype)
    y = conv(torch.zeros(2, 16, 5, 5, dtype=dtype))
    assert torch.equal(y, conv.bias.view(1, 8, 1, 1).expand(2, 8, 5, 5))


def test_activation_scales_are_float32_and_levels_in_range():
    x = torch.tensor([[1e-7, -1e-7, 5e-8, 0.0]], dtype=torch.float16)  # below what a float16 scale could hold
    q, scale = quantize_activation(x, 8, (-1,))
    assert scale.dtype == torch.float32
    assert relative(q * scale, x.float()) < 0.01
    for bits in (4, 8):
        q, _ = quantize_activation(torch.tensor([[3.0, -3.0, 0.1]]), bits, (-1,))
        assert q.tolist()[0][:2] == [2 ** (bits - 1) - 1, -(2 ** (bits - 1))]


def test_all_zero_and_tiny_weights():
    linear, x = nn.Linear(16, 8, bias=False), torch.randn(3, 16)
    linear.weight.data[:4] = 0
    linear.weight.data[4:] *= 1e-7  # a float16 scale would vanish
    y = QuantLinear(linear, BitWidth(8, 16))(x)
    assert (y[:, :4] == 0).all()
    assert relative(y[:, 4:], linear(x)[:, 4:]) < 0.02


@pytest.mark.parametrize("vnni", [True, False])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (17, 1024, 8), (33, 3000, 24), (5, 9999, 3)])
def test_integer_products_are_exact_with_and_without_instructions_for_them(monkeypatch, vnni, m, k, n):
    monkeypatch.setattr("qsched.quantization.packing.has_vnni", lambda: vnni)
    for a in (torch.full((m, k), -128, dtype=torch.int8), torch.randint(-128, 128, (m, k), dtype=torch.int8)):
        b = torch.full((n, k), -128, dtype=torch.int8)
        b[:, ::3] = 127
        product = int_mm(a, b)
        assert product.dtype == torch.int32
        assert torch.equal(product.double(), a.double() @ b.double().t())


def test_empty_batch_and_single_token():
    for execution in ("fake", "int8"):
        linear = QuantLinear(nn.Linear(16, 8), BitWidth(4, 8), execution=execution)
        x = torch.randn(16)
        assert torch.allclose(linear(x), linear(x[None])[0])
        assert linear(torch.zeros(0, 16)).shape == (0, 8)


def test_auto_is_a_rule_and_no_measurement(monkeypatch):
    layer = QuantLinear(nn.Linear(16, 8), BitWidth(4, 8))
    try:
        _int_mm_is_exact.cache_clear()
        assert layer.uses(CPU, torch.float32) == ("int8" if _int_mm_is_exact() else "fake")
        assert (
            automatic_execution(torch.device("cuda"))
            == layer.uses(torch.device("meta"), torch.float32)
            == "fake"
        )
        _int_mm_is_exact.cache_clear()
        saturating = lambda a, b: (a.float() @ b.float().t()).clamp(-(2**15), 2**15 - 1)
        monkeypatch.setattr(packed_layers, "int_mm", saturating)
        assert layer.uses(CPU, torch.float32) == "fake"  # a kernel that saturates is not trusted
    finally:
        _int_mm_is_exact.cache_clear()


def test_sums_that_could_overflow_are_not_made_of_integers():
    most = 2**31 // 128**2 - 1
    worst = lambda width: (torch.full((2, width), -1.0), nn.Linear(width, 2, bias=False))
    for width, expected in ((most, "int8"), (most + 1, "fake")):
        x, linear = worst(width)
        nn.init.constant_(linear.weight, -1.0)
        layer = QuantLinear(linear, BitWidth(8, 8), execution="int8")
        assert layer.uses(CPU, torch.float32) == expected
        assert torch.allclose(layer(x), torch.full((2, 2), float(width)), rtol=0.02)
    conv = QuantConv2d(nn.Conv2d(most // 9 + 1, 1, 3, bias=False), BitWidth(8, 8), execution="int8")
    assert conv.uses(CPU, torch.float32) == "fake"


@pytest.mark.parametrize("execution", ["fake", "int8"])
@pytest.mark.parametrize("layer", [nn.Linear(16, 8), nn.Conv2d(16, 8, 3)], ids=["linear", "conv2d"])
def test_autocast_gives_its_own_dtype_as_the_stock_layer_does(execution, layer):
    kind = QuantLinear if isinstance(layer, nn.Linear) else QuantConv2d
    packed = kind(layer, BitWidth(8, 8), execution=execution)
    x = torch.randn(2, 16) if kind is QuantLinear else torch.randn(2, 16, 6, 6)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert packed(x).dtype == layer(x).dtype == torch.bfloat16
    assert packed(x).dtype == torch.float32


def test_a_packed_layer_has_a_weight_to_look_at():
    linear = nn.Linear(16, 8)
    packed = QuantLinear(linear, BitWidth(8, 8))
    assert torch.allclose(packed.weight, linear.weight, atol=0.01) and packed.weight.dtype == torch.float32
    assert (
        packed.half().weight.dtype == torch.float16
        and packed.to(torch.bfloat16).weight.dtype == torch.bfloat16
    )
