"""A latent model of the embedded family: its folder loads, its sizes come from its configs, and all that the
page does works with it.
"""

import json
import shutil

import pytest
import torch
from latent_model import FACTOR, LATENT_CHANNELS, SIDE, write_latent_model

from qsched import load_backbone
from qsched.commands.cli import main
from qsched.comparison.result import Settings
from qsched.hub.source import BackboneError
from qsched.models.registry import SPECS
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.schedulers import QSchedLCMScheduler
from qsched.server.engine import Engine, named

PIXELS = SIDE * FACTOR
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_latent_model(tmp_path_factory.mktemp("latent"))


@pytest.fixture(scope="module")
def backbone(folder):
    return load_backbone("emoji-lcm", device="cpu", source=str(folder))


def test_sizes_come_from_the_folders_configs(backbone):
    assert backbone.latent_shape == (LATENT_CHANNELS, SIDE, SIDE)
    assert backbone.spec.size == PIXELS != SPECS["emoji-lcm"].size
    images = backbone.decode(torch.randn(2, *backbone.latent_shape))
    assert images.shape == (2, 3, PIXELS, PIXELS) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    for part in (backbone.denoiser, backbone.vae):
        assert not part.training and not any(p.requires_grad for p in part.parameters())


def test_decoding_takes_the_scaling_factor_away(backbone):
    latents = torch.randn(1, *backbone.latent_shape)
    with torch.inference_mode():
        expected = backbone.vae.decoder(latents / 0.8) / 2 + 0.5
    assert torch.equal(backbone.decode(latents), expected.clamp(0, 1))


def test_the_revision_tells_autoencoders_apart(folder, backbone, tmp_path):
    other = shutil.copytree(folder.parent, tmp_path / "other", symlinks=True) / folder.name
    same = load_backbone("emoji-lcm", device="cpu", source=str(other))
    assert same.revision == backbone.revision
    write_latent_model(other.parent, num_decoder_blocks=(2, 1, 1))
    assert load_backbone("emoji-lcm", device="cpu", source=str(other)).revision != backbone.revision


def test_first_and_last_layer_stay_in_high_precision(backbone):
    report = backbone.quantized(Quantization("w4a8")).report
    assert {"conv_in", "conv_out"} <= {layer.name for layer in report.kept}


@pytest.mark.parametrize("damage", ["missing", "other channels", "other class", "truncated"])
def test_an_autoencoder_that_does_not_belong_is_one_sentence(tmp_path, damage):
    changes = {"latent_channels": 4} if damage == "other channels" else {}
    vae = write_latent_model(tmp_path, **changes) / "vae"
    if damage == "missing":
        shutil.rmtree(vae)
    elif damage == "other class":
        config = json.loads((vae / "config.json").read_text())
        (vae / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderKL"}))
    elif damage == "truncated":
        (vae / WEIGHTS).write_bytes((vae / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(BackboneError) as caught:
        load_backbone("emoji-lcm", device="cpu", source=str(vae.parent))
    assert "\n" not in str(caught.value)
    if damage == "missing":
        assert "without a vae folder" in str(caught.value)
    if damage == "other class":
        assert "AutoencoderKL" in str(caught.value)


def test_the_page_compares_and_rescales_it(folder, tmp_path):
    engine = Engine(device="cpu", presets=tmp_path)
    name = named("emoji-lcm", str(folder))
    settings = Settings("fox on a blue background", 0, 3, Quantization("w4a4"))
    first = engine.compare("a", name, settings, Coefficients.identity())
    columns = (first.full_precision, first.naive, first.qsched)
    assert {column.image.size for column in columns} == {(PIXELS, PIXELS)}
    assert all(len(column.path) == 3 and column.quality is not None for column in columns)
    assert first.naive.image == first.qsched.image != first.full_precision.image
    moved = engine.rescale("a", Coefficients.constant(1.2, 0.8))
    assert moved.qsched.image != first.qsched.image and moved.naive.image == first.naive.image


def test_search_and_export_take_it(folder, tmp_path, capsys):
    preset, out = tmp_path / "preset.json", tmp_path / "scheduler"
    source = ["--source", str(folder), "--device", "cpu"]
    search = ["search", "--bits", "w4a8", "--steps", "2", "--prompts", "2", "--grid", "3", "--seeds", "1"]
    search += ["--strategy", "shared", "--storage", f"sqlite:///{tmp_path}/s.sqlite3", "--out", str(preset)]
    assert main([*search, *source]) == 0, capsys.readouterr().err
    assert json.loads(preset.read_text())["revision"] == load_backbone("emoji-lcm", source=folder).revision
    assert main(["export", "--preset", str(preset), "--out", str(out), *source]) == 0
    assert QSchedLCMScheduler.from_pretrained(out).config.num_train_timesteps == 1000
