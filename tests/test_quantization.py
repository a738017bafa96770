"""quantize() on whole models: sizes that a file confirms, what is kept, and everything one may do to the
result.
"""

import copy
import io
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qsched.quantization import BitWidth, QuantConv2d, QuantLinear, cache_bytes, quantize, stored_bytes

BITS = ["w8a8", "w4a8", "w4a4", "w3a8", "w2a8", "w4a16"]


class Tiny(nn.Module):
    """A U-Net's kinds of layers under a U-Net's names, for images (B, 8, H, W)."""

    def __init__(self):
        super().__init__()
        self.conv_in = nn.Conv2d(8, 32, 3, padding=1)
        self.time_embedding = nn.Sequential(nn.Linear(4, 32), nn.SiLU())
        self.blocks = nn.ModuleList([nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 1)])
        self.norm = nn.GroupNorm(4, 32)
        self.attention = nn.ModuleDict({"to_q": nn.Linear(32, 48), "proj_out": nn.Linear(48, 32)})
        self.conv_out = nn.Conv2d(32, 8, 3, padding=1)

    def forward(self, x):
        h = self.conv_in(x)
        for block in self.blocks:
            h = h + block(self.norm(h))
        tokens = self.attention["proj_out"](self.attention["to_q"](h.flatten(2).transpose(1, 2)))
        return self.conv_out(h + tokens.transpose(1, 2).reshape(h.shape))


QUANTIZED_WEIGHTS = 32 * 32 * 9 + 32 * 32 + 2 * 32 * 48


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture
def x():
    return torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(1))


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def packed_layers(model):
    return [module for module in model.modules() if isinstance(module, (QuantLinear, QuantConv2d))]


def file_bytes(path):
    """Bytes of the tensors in a safetensors file: its length without the header."""
    raw = path.read_bytes()
    return len(raw) - 8 - int.from_bytes(raw[:8], "little")


@pytest.mark.parametrize("weight, expected", [(8, 3_276_800), (4, 1_638_400), (3, 1_228_800), (2, 819_200)])
def test_size_of_a_linear(weight, expected):
    model = nn.Sequential(nn.Linear(1280, 2560, bias=False, device="meta"))
    report = quantize(model, BitWidth(weight, 8))
    assert model[0].packed.nbytes == expected
    assert report.bytes_after == expected + 2560 * 2 + 3  # packed weights, scales, layout
    assert report.bytes_before == 1280 * 2560 * 2
    grouped = nn.Sequential(nn.Linear(1280, 2560, bias=False, device="meta"))
    assert quantize(grouped, BitWidth(weight, 8), group_size=64).bytes_after == expected + 2560 * 20 * 2 + 3


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", [None, 16])
def test_safetensors_round_trip_and_sizes(tiny, x, tmp_path, bits, group_size):
    other = Tiny().eval()
    report = quantize(tiny, bits, group_size=group_size)
    expected = tiny(x)
    save_file(tiny.state_dict(), tmp_path / "model.safetensors")
    quantize(other, bits, group_size=group_size)
    assert relative(other(x), expected) > 1e-2  # this also fills the cache that loading must drop
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert torch.equal(other(x), expected)
    save_file(copy.deepcopy(tiny).half().state_dict(), tmp_path / "half.safetensors")
    assert file_bytes(tmp_path / "model.safetensors") == report.bytes_in_memory
    assert file_bytes(tmp_path / "half.safetensors") == report.bytes_after == stored_bytes(tiny)


def test_bytes_before_are_those_of_the_float16_file(tiny, tmp_path):
    save_file(copy.deepcopy(tiny).half().state_dict(), tmp_path / "half.safetensors")
    report = quantize(tiny, "w4a8")
    assert report.bytes_before == file_bytes(tmp_path / "half.safetensors")
    assert report.ratio == report.bytes_before / report.bytes_after > 1


@pytest.mark.parametrize("cache", [True, False])
def test_pickle_copy_and_torch_save(tiny, x, cache):
    quantize(tiny, "w3a8", cache=cache, execution="int8")
    before = len(pickle.dumps(tiny))
    expected = tiny(x)
    assert (cache_bytes(tiny) > 0) is cache
    assert len(pickle.dumps(tiny)) == before
    buffer = io.BytesIO()
    torch.save(tiny, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for model in (pickle.loads(pickle.dumps(tiny)), copy.deepcopy(tiny), loaded):
        assert cache_bytes(model) == 0
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize(
    "convert", [lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.half().float()]
)
@pytest.mark.parametrize("execution", ["fake", "int8"])
def test_changing_dtype_leaves_the_grid_alone(tiny, x, convert, execution):
    quantize(tiny, "w8a8", execution=execution)
    grid = [(layer.packed.clone(), layer.scale.clone()) for layer in packed_layers(tiny)]
    expected = tiny(x)
    model = convert(tiny)
    dtype = model.conv_in.weight.dtype
    for layer, (packed, scale) in zip(packed_layers(model), grid, strict=True):
        assert torch.equal(layer.packed, packed)
        assert layer.scale.dtype == scale.dtype
        assert torch.equal(layer.scale, scale)
    y = model(x.to(dtype))
    assert y.dtype == dtype
    assert relative(y, expected) < 0.05


@pytest.mark.parametrize("execution", ["fake", "int8"])
def test_inference_mode_no_grad_and_grad_mix(tiny, x, execution):
    with torch.inference_mode():
        quantize(tiny, "w4a8", execution=execution, cache=True)
        first = tiny(x)
    with torch.no_grad():
        assert torch.equal(tiny(x), first)
    assert torch.equal(tiny(x.clone().requires_grad_()).detach(), first)
    tiny.load_state_dict(tiny.state_dict())  # in place: impossible for tensors made in inference mode


def test_cache_is_memory_and_not_storage(tiny, x):
    for execution, each in (("fake", 4), ("int8", 1)):
        outputs = []
        for cache in (True, False):
            model = copy.deepcopy(tiny)
            report = quantize(model, "w4a8", execution=execution, cache=cache)
            outputs.append(model(x))
            assert cache_bytes(model) == report.cache_bytes == (QUANTIZED_WEIGHTS * each if cache else 0)
            assert stored_bytes(model) == report.bytes_after
            assert {name.rpartition(".")[2] for name in model.state_dict()} == {
                "weight",
                "bias",
                "packed",
                "scale",
                "layout",
            }
        assert torch.equal(*outputs)
    # 8-bit weights lie as the int8 product needs them
    assert quantize(tiny, "w8a8", execution="int8", cache=True).cache_bytes == 0
    tiny(x)
    assert cache_bytes(tiny) == 0


def test_moving_the_weights_drops_the_cache(tiny, x):
    quantize(tiny, "w4a8", cache=True, execution="fake")
    tiny(x)
    assert cache_bytes(tiny) == QUANTIZED_WEIGHTS * 4
    assert cache_bytes(tiny.half()) == 0
    tiny(x.half())
    assert cache_bytes(tiny) == QUANTIZED_WEIGHTS * 2


def test_auto_cache_is_for_small_models(tiny, monkeypatch):
    assert quantize(copy.deepcopy(tiny), "w4a8", execution="fake").cache_bytes > 0
    monkeypatch.setattr("qsched.quantization.convert.CACHE_LIMIT", QUANTIZED_WEIGHTS - 1)
    assert quantize(tiny, "w4a8", execution="fake").cache_bytes == 0


def test_error_grows_as_bits_shrink(tiny, x):
    expected, errors = tiny(x), []
    for bits in ("w8a8", "w4a8", "w3a8", "w2a8"):
        model = copy.deepcopy(tiny)
        quantize(model, bits)
        errors.append(relative(model(x), expected))
    assert errors == sorted(errors)
    assert errors[0] < 0.02 < errors[-1]


def test_kept_layers_are_named_with_their_bytes(tiny):
    everything, linear = copy.deepcopy(tiny), copy.deepcopy(tiny)
    report = quantize(tiny, "w4a8", execution="int8")
    assert {layer.name: (layer.kind, layer.bytes) for layer in report.kept} == {
        "conv_in": ("conv2d", (8 * 32 * 9 + 32) * 2),
        "time_embedding.0": ("linear", (4 * 32 + 32) * 2),
        "conv_out": ("conv2d", (8 * 32 * 9 + 8) * 2),
    }
    assert report.quantized == {"conv2d": 2, "linear": 2}
    assert report.execution == {"int8": 4}
    assert type(tiny.conv_in) is nn.Conv2d
    assert isinstance(tiny.attention["proj_out"], QuantLinear)
    full = quantize(everything, "w4a8", keep=())
    assert full.kept == []
    assert full.quantized == {"conv2d": 4, "linear": 3}
    scoped = quantize(linear, "w4a8", scope="linear", keep="*.to_q")
    assert scoped.quantized == {"linear": 2}
    assert {layer.name for layer in scoped.kept} == {
        "conv_in",
        "blocks.0",
        "blocks.1",
        "conv_out",
        "attention.to_q",
    }
    assert scoped.ratio < report.ratio < full.ratio
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["kept"][0] == {"name": "conv_in", "kind": "conv2d", "bytes": 4672}
    assert plain["ratio"] == report.ratio


def test_flux_names_keep_the_final_projection_only():
    model = nn.ModuleDict({"proj_out": nn.Linear(16, 8), "x_embedder": nn.Linear(8, 16)})
    model["norm_out"] = nn.ModuleDict({"linear": nn.Linear(16, 32)})
    model["single_transformer_blocks"] = nn.ModuleList([nn.ModuleDict({"proj_out": nn.Linear(16, 16)})])
    model["time_text_embed"] = nn.ModuleDict(
        {"timestep_embedder": nn.ModuleDict({"linear_1": nn.Linear(4, 16)})}
    )
    assert quantize(model, "w4a8").quantized == {"linear": 1}
    assert isinstance(model["single_transformer_blocks"][0]["proj_out"], QuantLinear)


def test_group_size_that_does_not_divide_falls_back_and_says_so(tiny):
    report = quantize(tiny, "w4a8", group_size=32, execution="int8")
    assert report.per_channel == ["attention.proj_out"]  # 48 input channels
    assert tiny.attention["proj_out"].group_size is None
    assert tiny.attention["to_q"].group_size == 32
    assert report.execution == {"fake": 3, "int8": 1}


def test_shared_layers_stay_shared_and_readers_of_weight_are_left_alone():
    shared = nn.Linear(16, 16)
    model = nn.ModuleDict(
        {"a": shared, "b": nn.Sequential(shared), "attention": nn.MultiheadAttention(16, 2)}
    )
    report = quantize(model, "w4a8")
    assert model["a"] is model["b"][0]
    assert report.quantized == {"linear": 1}
    assert [layer.name for layer in report.kept] == ["attention.out_proj"]
    assert model["attention"](*[torch.randn(3, 1, 16)] * 3)[0].isfinite().all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"bits": "w5a8"}, "2, 3, 4, 8"),
        ({"group_size": 0}, "group_size"),
        ({"group_size": 1.5}, "group_size"),
        ({"activation_scale": "row"}, "'token', 'tensor'"),
        ({"scope": "conv"}, "'all', 'linear'"),
        ({"execution": "fast"}, "'auto', 'fake', 'int8'"),
        ({"cache": "yes"}, "cache"),
        ({"keep": "*"}, "nothing to quantize"),
    ],
)
def test_bad_options_leave_the_model_alone(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        quantize(tiny, **{"bits": "w4a8", **options})
    assert packed_layers(tiny) == []


def test_quantizing_twice(tiny):
    quantize(tiny, "w4a8")
    before = copy.deepcopy(tiny.state_dict())
    with pytest.raises(ValueError, match=r"already quantized .to w4a8"):
        quantize(tiny, "w8a8")
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.state_dict().items())


def test_broken_weights_and_a_bare_layer(tiny):
    tiny.attention["proj_out"].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"attention\.proj_out"):
        quantize(tiny, "w4a8")
    assert packed_layers(tiny) == []
    with pytest.raises(ValueError, match="nothing to quantize"):  # nothing to put the packed layer into
        quantize(nn.Linear(4, 4), "w4a8")


def test_a_diffusers_unet_runs_and_shrinks():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=8, out_channels=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D",
            "UpBlock2D"),
        cross_attention_dim=16, attention_head_dim=16,
    ).eval()  # fmt: skip
    sample, embeds, parameters = torch.randn(2, 8, 8, 8), torch.randn(2, 5, 16), unet.num_parameters()
    with torch.inference_mode():
        expected = unet(sample, 500, embeds).sample
        report = quantize(unet, "w8a8")
        assert relative(unet(sample, 500, embeds).sample, expected) < 0.1
        assert unet.half()(sample.half(), 500, embeds.half()).sample.isfinite().all()
    kept = {layer.name for layer in report.kept}
    assert {"conv_in", "conv_out", "time_embedding.linear_1", "mid_block.resnets.0.time_emb_proj"} <= kept
    assert report.bytes_before == 2 * parameters
    assert 1.5 < report.ratio < 2
