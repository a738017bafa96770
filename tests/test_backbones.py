"""Loading the embedded backbone, its three calls, its quantized copies, and everything that can be wrong with
its files.
"""

import shutil
from pathlib import Path

import pytest
import torch
from embedded_model import PROMPTS, embedded

from qsched import load_backbone
from qsched.hub.source import BackboneError
from qsched.models.base import CACHED_DENOISERS
from qsched.models.registry import SPECS
from qsched.quantization import Quantization, Quantized
from qsched.sampling.loop import draw_noise, sample

ASSETS = Path(SPECS["emoji-lcm"].source).parent


@pytest.fixture
def copied(tmp_path):
    """A copy of the model's folders that a test may damage."""
    for name in ("emoji-lcm", "emoji-clip"):
        shutil.copytree(ASSETS / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(id="sd15"), "Unknown backbone 'sd15'; known are emoji-lcm"),
        (dict(id="emoji-lcm", device="abacus"), "Unknown device 'abacus'"),
        (dict(id="emoji-lcm", dtype="float99"), "Unknown dtype 'float99'"),
        (dict(id="emoji-lcm", dtype="int8"), "Unknown dtype 'int8'"),
        (dict(id="emoji-lcm", dtype="nn"), "Unknown dtype 'nn'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_backbone(**arguments)


def test_cuda_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device"):
        load_backbone("emoji-lcm", device="cuda")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(BackboneError, match="nowhere"):
        load_backbone("emoji-lcm", source=tmp_path / "nowhere")
    with pytest.raises(BackboneError, match="unet"):
        load_backbone("emoji-lcm", source=tmp_path)


DAMAGES = {
    "truncated denoiser": (
        "emoji-lcm/unet/diffusion_pytorch_model.safetensors",
        lambda data: data[: len(data) // 2],
    ),
    "foreign denoiser": (
        "emoji-lcm/unet/diffusion_pytorch_model.safetensors",
        lambda data: b"not a tensor file",
    ),
    "no denoiser": ("emoji-lcm/unet/diffusion_pytorch_model.safetensors", None),
    "foreign config": ("emoji-lcm/unet/config.json", lambda data: b"[1, 2"),
    "no scheduler config": ("emoji-lcm/scheduler/scheduler_config.json", None),
    "truncated judge": ("emoji-clip/open_clip_model.safetensors", lambda data: data[: len(data) // 2]),
    "no judge": ("emoji-clip/open_clip_model.safetensors", None),
    "foreign judge config": ("emoji-clip/open_clip_config.json", lambda data: b"{}"),
    "no tokenizer": ("emoji-clip/tokenizer.json", None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_give_one_sentence(copied, damage):
    name, change = DAMAGES[damage]
    path = copied / name
    content = path.read_bytes()
    path.unlink()
    if change is not None:
        path.write_bytes(change(content))
    with pytest.raises(BackboneError) as caught:
        load_backbone("emoji-lcm", device="cpu", source=copied / "emoji-lcm")
    assert "emoji-lcm" in str(caught.value) and "\n" not in str(caught.value)


def test_a_copy_of_the_folders_is_the_same_model(copied):
    backbone = load_backbone("emoji-lcm", device="cpu", source=copied / "emoji-lcm")
    assert backbone.revision == embedded().revision
    assert all(
        torch.equal(a, b)
        for a, b in zip(backbone.denoiser.parameters(), embedded().denoiser.parameters(), strict=True)
    )


def test_what_is_loaded_fits_its_spec():
    backbone = embedded()
    channels, height, width = backbone.latent_shape
    images = backbone.decode(torch.full((2, channels, height, width), 5.0))
    assert images.shape == (2, 3, backbone.spec.size, backbone.spec.size) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    assert not any(p.requires_grad for p in backbone.denoiser.parameters()) and not backbone.denoiser.training
    assert backbone.spec.default_steps in backbone.spec.steps and backbone.scorer() is backbone.scorer()
    assert backbone.full_precision_bytes == 2 * sum(p.numel() for p in backbone.denoiser.parameters())


def test_a_prompt_is_encoded_the_same_in_any_batch():
    backbone = embedded()
    together = backbone.encode(PROMPTS)
    assert len(together) == 3 and together.truncated == (False, False, False)
    alone = backbone.encode(PROMPTS[1:2])
    torch.testing.assert_close(alone.embeds[0], together.embeds[1], atol=1e-5, rtol=1e-5)
    picked = together.select([2, 0, 2])
    assert torch.equal(picked.embeds[0], picked.embeds[2]) and torch.equal(
        picked.pooled[1], together.pooled[0]
    )
    assert together.to("cpu").truncated == together.truncated


def test_long_prompts_are_marked_and_say_nothing_on_stderr(capfd):
    condition = embedded().encode(["fox", "a very " * 200 + "red fox", "🦊 füchschen 狐 \u202e", " "])
    assert condition.truncated == (False, True, False, False)
    assert condition.embeds.isfinite().all() and condition.pooled.isfinite().all()
    captured = capfd.readouterr()
    assert captured.err == "" and captured.out == ""


def test_quantized_copies_are_cached_and_leave_the_original_alone():
    backbone = embedded()
    before = [p.clone() for p in backbone.denoiser.parameters()]
    made = backbone.quantized(Quantization("w2a8"))
    assert isinstance(made, Quantized) and made.module is not backbone.denoiser
    assert backbone.quantized(Quantization("w2a8")) is made
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.denoiser.parameters(), strict=True))
    for bits in ("w8a8", "w4a8", "w4a4", "w3a8", "w2a8"):
        backbone.quantized(Quantization(bits))
        assert len(backbone._quantized) <= CACHED_DENOISERS


def test_fewer_bits_are_fewer_bytes_and_the_kept_layers_can_be_quantized_too():
    backbone = embedded()
    sizes = [backbone.quantized(Quantization(bits)).report.bytes_after for bits in ("w8a8", "w4a8", "w2a8")]
    assert backbone.full_precision_bytes > sizes[0] > sizes[1] > sizes[2]
    everything = backbone.quantized(Quantization("w2a8", keep_high_precision=False)).report
    assert everything.bytes_after < sizes[2] and not any(layer.name == "conv_in" for layer in everything.kept)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        (Quantization("w5a8"), "5"),
        (Quantization("four"), "unknown bit-width 'four'"),
        (Quantization(group_size=0), "group_size"),
        (Quantization(activation_scale="image"), "activation_scale"),
        (Quantization(scope="some"), "scope"),
    ],
)
def test_bad_quantizations_are_named(quantization, message):
    with pytest.raises(ValueError, match=message):
        embedded().quantized(quantization)


def test_half_precision_draws_nearly_the_same_image():
    half = load_backbone("emoji-lcm", device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16 and half.encode(PROMPTS[:1]).embeds.dtype == torch.bfloat16
    one, other = (
        b.decode(sample(b, b.encode(PROMPTS[:1]), draw_noise(b.latent_shape, 0, [0]), 1))
        for b in (half, embedded())
    )
    assert (one - other).abs().mean() < 0.05 and not torch.equal(one, other)
