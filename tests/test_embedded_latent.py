"""How the latent embedded model is made: its networks, and its folder from weights in every form."""

import json

import pytest
import torch
from emoji_art import write_packages
from safetensors.torch import save_file

from qsched import load_backbone
from qsched.embedded.__main__ import main
from qsched.embedded.data import dataset
from qsched.embedded.data.scenes import Scenes
from qsched.embedded.denoiser import latent
from qsched.embedded.training.weights import read_weights


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    networks = latent.new_latent_unet(), latent.new_autoencoder(16)
    return [{name: value.half() for name, value in net.state_dict().items()} for net in networks]


def test_the_denoiser_has_the_size_that_was_chosen_and_no_layer_is_an_identity():
    unet = latent.new_latent_unet()
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(20.3e6, rel=0.01)
    shares = [(p != 0).float().mean() for n, p in unet.named_parameters() if p.dim() > 1]
    assert min(shares) > 0.99


def test_weights_become_a_folder_that_the_app_loads(weights, tmp_path, monkeypatch, capsys):
    for name, values in zip(("unet", "ae"), weights, strict=True):
        save_file(values, tmp_path / f"{name}.safetensors")
    folder = tmp_path / "made" / "emoji-latent"
    line = ["latent", "--denoiser", tmp_path / "unet.safetensors"]
    line += ["--autoencoder", tmp_path / "ae.safetensors"]
    line += ["--scaling-factor", 0.5, "--out", folder]
    monkeypatch.setattr("sys.argv", ["qsched.embedded", *map(str, line)])
    assert main() == 0 and "0.5000" in capsys.readouterr().out
    backbone = load_backbone("emoji-lcm", device="cpu", source=str(folder))
    assert backbone.latent_shape == (8, 16, 16) and backbone.spec.size == 128
    assert backbone.vae.config.scaling_factor == 0.5
    assert all(torch.equal(v, weights[0][n].float()) for n, v in backbone.denoiser.state_dict().items())
    assert backbone.decode(torch.zeros(1, 8, 16, 16)).shape == (1, 3, 128, 128)


def test_weights_are_read_from_checkpoints_parts_and_differences(weights, tmp_path):
    values = weights[1]
    path, delta = tmp_path / "ae.safetensors", tmp_path / "delta.safetensors"
    save_file(values, path)
    content = path.read_bytes()
    for number, begin in enumerate(range(0, len(content), 200_000)):
        path.with_name(f"{path.name}.{number:02}").write_bytes(content[begin : begin + 200_000])
    path.unlink()
    read = read_weights(path)
    assert all(torch.equal(read[n], v.float()) for n, v in values.items())
    torch.save({"average": read}, tmp_path / "x.pt")
    assert read_weights(tmp_path / "x.pt").keys() == read.keys()
    changes = {}
    for name, value in values.items():
        changes[f"{name}|q"] = torch.full((len(value), value[0].numel()), 4, dtype=torch.int8)
        changes[f"{name}|s"] = torch.full((len(value), 1), 0.25)
    save_file(changes, delta)
    moved = read_weights(delta, path)
    assert all(torch.allclose(moved[n], v.float() + 1) for n, v in values.items())
    with pytest.raises(ValueError, match="--base"):
        read_weights(delta)
    with pytest.raises(FileNotFoundError, match="ae2"):
        read_weights(tmp_path / "ae2.safetensors")


@pytest.mark.parametrize("side", [64, 128])
def test_the_data_set_has_the_size_that_is_asked_for(tmp_path, monkeypatch, capsys, side):
    packages = write_packages(tmp_path / "node_modules")
    line = ["--work", tmp_path, "dataset", "--node-modules", packages, "--styles", "classic", "flat"]
    monkeypatch.setattr("sys.argv", ["qsched.embedded", *map(str, line), "--side", str(side)])
    made = []
    for _ in range(2):
        assert main() == 0
        made.append(json.loads(capsys.readouterr().out)["sha256"])
    assert made[0] == made[1]
    emoji = dataset.load(tmp_path / "emoji.npz")
    assert emoji.images.shape[1:] == (side, side, 3) and emoji.styles == ["classic", "flat"]
    margin = side // 32
    assert (emoji.alpha[:, :margin] == 0).all() and (emoji.alpha[:, side // 2, side // 2] == 255).all()
    drawn = Scenes(emoji, emoji.train_indices()).draw(4, 0)
    assert drawn.images.shape == (4, 3, side, side)
