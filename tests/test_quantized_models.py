"""quantize() on the models of libraries: what it refuses, what goes on working, and folders that reload."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, T5Config, T5EncoderModel

from qsched.quantization import PackedLayer, quantize
from qsched.quantized_models import from_quantized


class Small(nn.Module):
    """A layer of every kind that matters here."""

    def __init__(self):
        super().__init__()
        self.conv_in, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.linear, self.conv_out = nn.Linear(8, 8), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        x = self.conv(self.conv_in(x))
        return self.conv_out(x + self.linear(x.mean((2, 3)))[:, :, None, None])


def unet():
    torch.manual_seed(0)
    sizes = dict(block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=8, norm_num_groups=4)
    blocks = dict(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    return UNet2DConditionModel(sample_size=8, attention_head_dim=4, **sizes, **blocks).eval()


def t5():
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return T5EncoderModel(config).eval()


def clip_vision():
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4)
    return CLIPVisionModel(CLIPVisionConfig(image_size=16, patch_size=4, **sizes)).eval()


def call(model):
    torch.manual_seed(1)
    with torch.no_grad():
        if isinstance(model, UNet2DConditionModel):
            return model(torch.randn(1, 4, 8, 8), torch.tensor(10), torch.randn(1, 5, 8)).sample
        if isinstance(model, T5EncoderModel):
            return model(torch.tensor([[3, 4, 5]])).last_hidden_state
        return model(torch.randn(1, 3, 16, 16).to(model.dtype)).last_hidden_state


def float8(model):
    model.linear.weight = nn.Parameter(
        model.linear.weight.detach().to(torch.float8_e4m3fn), requires_grad=False
    )


def offloaded(model):
    from accelerate import cpu_offload

    cpu_offload(model)


def adapted(model):
    base, model.linear = model.linear, nn.Module()
    model.linear.base_layer, model.linear.lora_A = base, nn.ModuleDict()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (float8, "linear has float8_e4m3fn weights"),
        (offloaded, "conv is offloaded by accelerate"),
        (adapted, r"linear\.base_layer has LoRA adapters attached: fuse them first"),
        (lambda model: model.linear.weight.data.fill_(float("nan")), "linear has weights that are NaN"),
    ],
)
def test_what_cannot_be_packed_is_named_before_anything_changes(spoil, said):
    model = Small()
    spoil(model)
    before = [type(part) for part in model.modules()]
    with pytest.raises(ValueError, match=f"^{said}.*; nothing was quantized$"):
        quantize(model, "w4a8")
    assert [type(part) for part in model.modules()] == before


def test_hooks_stay_with_the_layer_and_their_handles_remove_them():
    model, seen = Small(), []
    handles = [
        model.conv.register_forward_hook(lambda module, inputs, output: seen.append("after")),
        model.conv.register_forward_pre_hook(
            lambda module, inputs, options: seen.append("before"), with_kwargs=True
        ),
    ]
    quantize(model, "w4a8")
    model(torch.randn(1, 3, 4, 4))
    assert isinstance(model.conv, PackedLayer) and seen == ["before", "after"]
    for handle in handles:
        handle.remove()
    model(torch.randn(1, 3, 4, 4))
    assert seen == ["before", "after"]


def test_tied_weights_stay_tied_and_the_model_does_not_grow():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.inner, self.head = (
                nn.Embedding(512, 64),
                nn.Linear(64, 64),
                nn.Linear(64, 512, bias=False),
            )
            self.head.weight = self.tokens.weight

    model = Tied()
    report = quantize(model, "w8a8")
    assert model.head.weight is model.tokens.weight and isinstance(model.inner, PackedLayer)
    assert report.bytes_after < report.bytes_before and [layer.name for layer in report.kept] == ["head"]


def test_prefixes_of_wrappers_hide_no_kept_layer():
    plain = quantize(Small(), "w4a8")
    names = [layer.name for layer in plain.kept]
    assert names == ["conv_in", "conv_out"]
    for wrapper, prefix in ((nn.DataParallel, "module."), (torch.compile, "_orig_mod.")):
        report = quantize(wrapper(Small()), "w4a8")
        assert [layer.name for layer in report.kept] == [prefix + name for name in names]
        assert report.quantized == plain.quantized


def test_other_convolutions_are_reported_as_not_quantized():
    kinds = (nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    model = nn.ModuleDict({kind.__name__: kind(2, 2, 1) for kind in kinds} | {"linear": nn.Linear(4, 4)})
    report = quantize(model, "w4a8")
    assert {(layer.name, layer.kind) for layer in report.kept} == {
        (k.__name__, k.__name__.lower()) for k in kinds
    }


@pytest.mark.parametrize("bits", ["w4a4", "w8a8"])
def test_a_state_dict_of_other_bits_is_refused(bits):
    state = Small()
    quantize(state, "w4a8")
    other = Small()
    quantize(other, bits)
    with pytest.raises(RuntimeError, match=rf"linear holds weights for W4A8 .* was quantized to {bits}"):
        other.load_state_dict(state.state_dict())
    same = Small()
    quantize(same, "w4a8")
    older = {name: value for name, value in state.state_dict().items() if not name.endswith("layout")}
    same.load_state_dict(older)  # saved before the layout was noted
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(same(x), state(x))


@pytest.mark.parametrize("make", [t5, clip_vision])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_look_at_weights_run(make, dtype):
    expected, model = call(make()), make().to(dtype)
    quantize(model, "w8a8", keep=())
    found = call(model).float()
    assert (found - expected).abs().mean() < 0.1 * expected.abs().mean()


def test_fused_projections_run():
    model = unet()
    expected = call(model)
    quantize(model, "w8a8")
    model.fuse_qkv_projections()
    assert (call(model) - expected).abs().mean() < 0.1 * expected.abs().mean()


@pytest.mark.parametrize("make", [unet, t5, clip_vision])
@pytest.mark.parametrize("options", [{}, {"group_size": 8, "scope": "linear", "activation_scale": "tensor"}])
def test_a_quantized_folder_reloads_and_the_stock_loader_refuses_it(make, options, tmp_path):
    model = make()
    quantize(model, "w4a8", **options)
    expected = call(model)
    model.save_pretrained(tmp_path)
    loaded = from_quantized(type(model), tmp_path)
    assert torch.equal(call(loaded), expected)
    assert loaded.training is False and not any(p.requires_grad for p in loaded.parameters())
    with pytest.raises(ValueError, match=r"(?i)qsched"):
        type(model).from_pretrained(tmp_path)
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(call(from_quantized(type(model), tmp_path / "again")), expected)


def test_folders_that_are_none_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        from_quantized(UNet2DConditionModel, tmp_path)
    unet().save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="was not quantized by this package"):
        from_quantized(UNet2DConditionModel, tmp_path / "plain")
    model = unet()
    quantize(model, "w4a8", make=lambda name, layer, pack: nn.Sequential(pack(layer)))
    model.save_pretrained(tmp_path / "mixed")
    with pytest.raises(ValueError, match="another method than plain rounding"):
        from_quantized(UNet2DConditionModel, tmp_path / "mixed")
    model = unet()
    quantize(model, "w4a8")
    model.save_pretrained(tmp_path / "torch", safe_serialization=False)
    with pytest.raises(ValueError, match="no safetensors"):
        from_quantized(UNet2DConditionModel, tmp_path / "torch")
