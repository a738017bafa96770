"""MixDQ's and SVDQuant's ideas on our packed layers: what each promises, on layers planted to need it."""

import copy
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qsched.quantization import BitWidth, PackedLayer, pack, packed_bytes, quantize, stored_bytes
from qsched.quantizers.allocation import allocate
from qsched.quantizers.bos import BosLinear
from qsched.quantizers.low_rank import LowRankLayer, factors
from qsched.quantizers.mixdq import Plan, Sensitivity, mixdq, plan
from qsched.quantizers.sensitivity import CHOICES
from qsched.quantizers.svdquant import LIMIT, rank_for, smoothing, svdquant

WIDTH, TOKENS = 64, 16


class Reader(nn.Module):
    """Cross-attention's two readers of a text and a convolution behind them:

    (B, TOKENS, WIDTH) -> (B, 8, 4, 4).
    """

    def __init__(self):
        super().__init__()
        self.attn2 = nn.ModuleDict(
            {"to_k": nn.Linear(WIDTH, WIDTH), "to_v": nn.Linear(WIDTH, WIDTH, bias=False)}
        )
        self.middle = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.last = nn.Linear(WIDTH, 8)

    def forward(self, text):
        k, v = self.attn2["to_k"](text), self.attn2["to_v"](text)
        mixed = torch.softmax(k @ k.transpose(1, 2) / 64, -1) @ v
        image = self.middle(mixed.transpose(1, 2).reshape(-1, WIDTH, 4, 4))
        return self.last(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.fixture
def reader():
    torch.manual_seed(0)
    return Reader().eval().requires_grad_(False)


@pytest.fixture
def text():
    """Ordinary tokens of magnitude 10 behind a first one of 800 that all texts share."""
    generator = torch.Generator().manual_seed(1)
    text = 3 * torch.randn(3, TOKENS, WIDTH, generator=generator).clamp(-3.3, 3.3)
    text[:, 0] = 5 * torch.randn(WIDTH, generator=generator)
    text[:, 0, 7] = 800.0
    return text


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def file_bytes(path):
    raw = path.read_bytes()
    return len(raw) - 8 - int.from_bytes(raw[:8], "little")


# --- MixDQ --------------------------------------------------------------------------------------------------


def test_a_planted_first_token_ruins_per_tensor_scales_and_is_kept_out(reader, text):
    expected = {name: reader.attn2[name](text)[:, 1:] for name in ("to_k", "to_v")}
    plain, aware = copy.deepcopy(reader), copy.deepcopy(reader)
    quantize(plain, "w8a8", activation_scale="tensor")
    tokens = {"attn2.to_k": text[0, 0], "attn2.to_v": text[0, 0]}
    report = mixdq(aware, "w8a8", Plan(tokens=tokens), activation_scale="tensor")
    for name, want in expected.items():
        assert relative(plain.attn2[name](text)[:, 1:], want) > 0.3
        assert relative(aware.attn2[name](text)[:, 1:], want) < 0.03
        torch.testing.assert_close(aware.attn2[name](text)[:, 0], reader.attn2[name](text)[:, 0])
    assert relative(aware(text), reader(text)) < relative(plain(text), reader(text)) / 5
    assert isinstance(aware.attn2["to_k"], BosLinear) and "2 layers" in report.notes[1]


def test_a_first_token_that_differs_is_not_taken_for_a_constant():
    from qsched.quantizers.calibration import LayerInputs, _first_row, _largest

    x = torch.randn(2, 5, 4)
    assert _first_row(x) is None
    x[:, 0] = x[:1, 0]
    seen = LayerInputs(_largest(x, False), _first_row(x))
    assert torch.equal(seen.first, x[0, 0])
    seen.add(x, False)
    assert torch.equal(seen.first, x[0, 0])
    seen.add(-x, False)
    assert seen.first is None and torch.equal(seen.largest, x.abs().amax((0, 1)))


def brute_force(errors, sizes, budget):
    from itertools import product

    names = list(errors)
    fits = (dict(zip(names, bits, strict=True)) for bits in product(CHOICES, repeat=len(names)))
    total = lambda table, bits: sum(table[n][b] for n, b in bits.items())
    return min(total(errors, bits) for bits in fits if total(sizes, bits) <= budget)


def test_bits_go_where_they_matter_within_the_budget():
    generator = torch.Generator().manual_seed(0)
    for uniform in CHOICES:
        numel = {str(i): int(torch.randint(100, 5000, (), generator=generator)) for i in range(7)}
        scale = {n: float(torch.rand((), generator=generator)) ** 6 for n in numel}
        errors = {n: {2: 100 * s, 4: 8 * s, 8: 0.03 * s} for n, s in scale.items()}
        sizes = {n: {b: packed_bytes(count, b) for b in CHOICES} for n, count in numel.items()}
        budget = sum(packed_bytes(count, uniform) for count in numel.values())
        bits = allocate(errors, sizes, budget, uniform)
        assert sum(sizes[n][b] for n, b in bits.items()) <= budget
        found = sum(errors[n][b] for n, b in bits.items())
        assert found <= sum(errors[n][uniform] for n in bits)
        assert found <= 1.5 * brute_force(errors, sizes, budget) + 1e-9
    with pytest.raises(ValueError, match="too small by"):
        allocate(errors, sizes, 10, 2)


def test_equal_layers_get_what_plain_quantization_gives_them():
    errors = {n: {2: 1.0, 4: 0.1, 8: 0.09} for n in "abc"}
    sizes = {n: {b: 100 * b for b in CHOICES} for n in "abc"}
    assert allocate(errors, sizes, 1200, 4) == {"a": 4, "b": 4, "c": 4}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("numel", [1, 7, 8, 1001])
def test_packed_bytes_are_those_of_packing(bits, numel):
    assert packed_bytes(numel, bits) == pack(torch.zeros(numel, dtype=torch.int8), bits).nbytes


def test_a_plan_keeps_to_the_bytes_of_plain_quantization(reader):
    errors = {n: {2: 1.0, 4: 0.1, 8: 0.01} for n in ("attn2.to_k", "attn2.to_v", "last")}
    errors["middle"] = {2: 2e-5, 4: 1e-6, 8: 1e-8}
    plain, mixed = copy.deepcopy(reader), copy.deepcopy(reader)
    report = mixdq(mixed, "w4a8", plan(Sensitivity(errors, {}), reader, "w4a8"))
    assert report.bytes_after <= quantize(plain, "w4a8").bytes_after
    assert report.layer_bits == {"w2a8": 1, "w8a8": 3} and mixed.middle.bits == BitWidth(2, 8)
    assert "first token" in report.notes[1] and json.dumps(report.to_dict())


# --- SVDQuant -----------------------------------------------------------------------------------------------


def test_outlier_columns_go_into_the_branch(reader, text):
    for weight in (
        reader.attn2["to_k"].weight,
        reader.attn2["to_v"].weight,
        reader.middle.weight[:, :, 1, 1],
    ):
        weight[:, ::9] *= 30
    text = text[:, 1:].repeat(1, 2, 1)[:, :TOKENS]
    plain, branch = copy.deepcopy(reader), copy.deepcopy(reader)
    quantize(plain, "w4a4")
    svdquant(branch, "w4a4", rank=16)
    assert relative(branch(text), reader(text)) < 0.7 * relative(plain(text), reader(text))
    for name in ("attn2.to_k", "middle"):
        layer, split = reader.get_submodule(name), branch.get_submodule(name)
        x = text if name != "middle" else text.transpose(1, 2).reshape(-1, WIDTH, 4, 4)
        assert relative(split(x), layer(x)) < relative(plain.get_submodule(name)(x), layer(x)) / 3
        assert isinstance(split, LowRankLayer) and split.down.weight.shape[0] == 16


@pytest.mark.parametrize("kernel", [dict(kernel_size=3, padding=1, stride=2), dict(kernel_size=(3, 5),
    padding="same", dilation=2),
                                    dict(kernel_size=1), dict(kernel_size=3, padding=1,
                                        padding_mode="reflect")])  # fmt: skip
def test_branch_and_residual_add_up_to_the_convolution(kernel):
    torch.manual_seed(0)
    conv, x = nn.Conv2d(48, 40, **kernel), torch.randn(2, 48, 9, 9)
    expected = conv(x)
    divisors = torch.rand(48) + 0.5
    model = nn.ModuleDict({"conv": LowRankLayer(conv, 8, divisors, lambda rest: rest)})  # nothing is rounded
    torch.testing.assert_close(model["conv"](x), expected, atol=1e-5, rtol=1e-5)


def test_factors_are_as_good_as_the_full_decomposition():
    matrix = torch.randn(200, 300, generator=torch.Generator().manual_seed(0))
    up, down = factors(matrix, 32)
    values = torch.linalg.svdvals(matrix)
    assert (matrix - up @ down).norm() <= 1.005 * values[32:].norm()
    assert torch.equal(up @ down, torch.matmul(*factors(matrix, 32)))
    wide = torch.randn(4, 3)
    torch.testing.assert_close(torch.matmul(*factors(wide, 3)), wide, atol=1e-5, rtol=1e-5)


def test_ranks_stay_small_and_branches_that_do_not_pay_are_left_out():
    linear = lambda rows, columns: nn.Linear(columns, rows, device="meta")
    assert rank_for(linear(1280, 1280), BitWidth(4, 4)) == 32
    assert rank_for(linear(48, 1280), BitWidth(4, 4)) == 23
    assert rank_for(linear(2, 64), BitWidth(4, 4)) == 0
    assert rank_for(linear(66, 66), BitWidth(8, 8)) == 0
    assert rank_for(nn.Conv2d(64, 64, 3, groups=64, device="meta"), BitWidth(4, 4)) == 0
    model = nn.ModuleDict({"large": nn.Linear(256, 256), "small": nn.Linear(2, 64)})
    report = svdquant(model, "w4a4")
    assert isinstance(model["small"], PackedLayer) and isinstance(model["large"], LowRankLayer)
    assert "beside 1 of 2 layers" in report.notes[0] and report.notes[1].startswith(
        "no branch beside 1 of them"
    )
    with pytest.raises(ValueError, match="rank 0"):
        svdquant(nn.ModuleDict({"a": nn.Linear(8, 8)}), "w4a4", rank=0)


def test_smoothing_moves_outliers_of_the_input_into_the_weights(reader, text):
    largest = text.abs().amax((0, 1))
    s = smoothing(largest, reader.attn2["to_k"].weight, 0.5)
    assert s.argmax() == 7 and s.min() >= 1 / LIMIT and s.max() <= LIMIT
    assert (largest / s).max() / (largest / s).median() < largest.max() / largest.median() / 5
    without, smooth = copy.deepcopy(reader), copy.deepcopy(reader)
    svdquant(without, "w4a4", rank=8)
    report = svdquant(smooth, "w4a4", rank=8, largest={"attn2.to_v": largest})
    want = reader.attn2["to_v"](text)[:, 0]
    assert relative(smooth.attn2["to_v"](text)[:, 0], want) < relative(
        without.attn2["to_v"](text)[:, 0], want
    )
    assert "smoothed in 1" in report.notes[0]
    assert smoothing(torch.zeros(WIDTH), reader.attn2["to_k"].weight).isfinite().all()


# --- both ---------------------------------------------------------------------------------------------------

PLAN = Plan({"middle": 2, "last": 8}, {"attn2.to_k": torch.ones(WIDTH)})
QUANTIZERS = {
    "mixdq": lambda model: mixdq(model, "w4a8", PLAN),
    "svdquant": lambda model: svdquant(model, "w4a4", rank=16),
}


@pytest.mark.parametrize("method", QUANTIZERS)
def test_what_is_saved_is_what_is_reported_and_loads_again(reader, text, tmp_path, method):
    report = QUANTIZERS[method](reader)
    expected = reader(text)
    save_file(reader.state_dict(), tmp_path / "model.safetensors")
    other = Reader().eval()
    QUANTIZERS[method](other)
    assert relative(other(text), expected) > 1e-2
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert torch.equal(other(text), expected)
    save_file(copy.deepcopy(reader).half().state_dict(), tmp_path / "half.safetensors")
    assert file_bytes(tmp_path / "model.safetensors") == report.bytes_in_memory
    assert file_bytes(tmp_path / "half.safetensors") == report.bytes_after == stored_bytes(reader)


@pytest.mark.parametrize("method", QUANTIZERS)
def test_copies_pickles_half_precision_and_inference_mode(reader, text, method):
    with torch.inference_mode():
        report = QUANTIZERS[method](reader)
        expected = reader(text)
    for model in (copy.deepcopy(reader), pickle.loads(pickle.dumps(reader))):
        assert torch.equal(model(text), expected)
    reader.load_state_dict(reader.state_dict())
    assert relative(copy.deepcopy(reader).to(torch.bfloat16)(text.bfloat16()), expected) < 0.1
    with pytest.raises(ValueError, match="already quantized"):
        quantize(reader, "w4a8")
    sizes = QUANTIZERS[method](Reader().to("meta"))
    assert sizes.bytes_after == report.bytes_after
