"""How the latent embedded model is trained: from scenes to a folder that the app draws with, and what each
part of the training is for.
"""

import json

import numpy as np
import pytest
import torch
from emoji_art import build
from torch import nn

from qsched.commands.cli import main as qsched
from qsched.embedded.__main__ import main
from qsched.embedded.data import dataset
from qsched.embedded.denoiser import autoencoder, bank, batches, distil
from qsched.embedded.denoiser.latent import new_autoencoder, new_latent_unet
from qsched.embedded.export import export_latent
from qsched.embedded.judges import clip_training, damage, judging
from qsched.embedded.training import loop as training
from qsched.load import load_backbone
from qsched.models.registry import ASSETS

CPU = torch.device("cpu")
EMOJI_CLIP = ASSETS / "emoji-clip"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder with the data set at 128 px and an untrained autoencoder in it."""
    folder = tmp_path_factory.mktemp("work")
    build(folder, 128)
    torch.manual_seed(0)
    weights = new_autoencoder().state_dict()
    training.save_checkpoint(folder / "autoencoder.pt", {"average": weights})
    return folder


@pytest.fixture(scope="module")
def banked(work):
    """The same with a bank of 16 scenes."""
    make_bank(work, count=16)
    return work


def make_bank(work, **options):
    return bank.build(work / "emoji.npz", EMOJI_CLIP, work / "autoencoder.pt", work / "bank", **options)


def latent_batches(work, seed=0):
    files = work / "bank", work / "autoencoder.pt"
    return bank.LatentBatches(work / "emoji.npz", EMOJI_CLIP, CPU, seed, *files)


@pytest.mark.slow
def test_commands_make_a_model_that_the_app_draws_with(tmp_path, monkeypatch, capsys):
    build(tmp_path, 128)
    for module in (batches, autoencoder):
        monkeypatch.setattr(module, "CHECK_COUNT", 2)

    def run(*line):
        monkeypatch.setattr("sys.argv", ["x", "--work", str(tmp_path), "--device", "cpu", *map(str, line)])
        assert main() == 0, capsys.readouterr().err

    run("autoencoder", "--tiny")
    run("bank", "--tiny")
    run("denoiser", "--latent", "--tiny")
    run("distil", "--latent", "--tiny")
    for name in ("autoencoder", "latent-denoiser", "latent-student"):
        state = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert state["step"] == 3 and np.isfinite(state["curve"][-1]["loss"]), name
    student, folder = tmp_path / "latent-student.pt", tmp_path / "made" / "emoji-latent"
    run("latent", "--denoiser", student, "--autoencoder", tmp_path / "autoencoder.pt", "--out", folder)
    factor = json.loads((tmp_path / "bank" / "bank.json").read_text())["scaling_factor"]
    config = json.loads((folder / "vae" / "config.json").read_text())
    assert config["scaling_factor"] == pytest.approx(factor, rel=1e-4)
    line = ["generate", "--bits", "w4a8", "--prompt", "fox", "--source", folder, "--out", tmp_path / "out"]
    assert qsched([*map(str, line), "--device", "cpu", "--json"]) == 0
    assert (tmp_path / "out" / "qsched.png").stat().st_size > 1000
    run("denoiser", "--latent", "--tiny")  # finished: takes up its checkpoint and stops
    assert torch.load(tmp_path / "latent-denoiser.pt", weights_only=True)["step"] == 3


def test_a_killed_bank_goes_on_where_it_was(work, monkeypatch):
    monkeypatch.setattr(bank, "PART", 2)
    made = make_bank(work, count=6)
    names = [work / "bank" / f"{name}.npy" for name in bank.MEMBERS]
    whole = [np.load(name) for name in names]
    written, write = [], bank._write

    def killed(manifest, info):
        write(manifest, info)
        written.append(info["done"])
        if info["done"] == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(bank, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        make_bank(work, count=6, seed=1)
    assert not np.array_equal(np.load(names[0])[:4], whole[0][:4]), "other settings begin anew"
    with pytest.raises(FileNotFoundError, match="bank"):
        latent_batches(work)
    monkeypatch.setattr(
        bank, "_write", lambda manifest, info: (written.append(info["done"]), write(manifest, info))
    )
    resumed = make_bank(work, count=6, seed=1)
    assert written == [2, 4, 6]
    files = [name.read_bytes() for name in names]
    (work / "bank" / "bank.json").unlink()
    assert make_bank(work, count=6, seed=1) == resumed
    assert [name.read_bytes() for name in names] == files, "as if it had not been killed"
    assert make_bank(work, count=6) == made
    assert all(np.array_equal(np.load(name), before) for name, before in zip(names, whole, strict=True))


def test_batches_of_a_bank_are_its_scenes_at_unit_variance(banked):
    feed = latent_batches(banked)
    drawn = feed.draw(64, 3)
    assert drawn.clean.shape == (64, 8, 16, 16) and drawn.states.shape == (64, 24, 256)
    assert float(drawn.clean.std()) == pytest.approx(1, abs=0.1)
    assert 0.2 < drawn.styled.float().mean() <= 1
    again, other = latent_batches(banked).draw(64, 3), feed.draw(64, 4)
    assert torch.equal(drawn.clean, again.clean) and not torch.equal(drawn.clean, other.clean)
    row = np.random.default_rng((0, 3)).integers(16, size=64)[0]
    latents = torch.from_numpy(np.load(banked / "bank" / "latents.npy")[row]).float()
    assert torch.equal(drawn.clean[0], latents * feed.factor)


def test_a_bank_of_another_autoencoder_is_refused(banked, tmp_path):
    other = tmp_path / "autoencoder.pt"
    training.save_checkpoint(other, {"average": new_autoencoder().state_dict()})
    with pytest.raises(ValueError, match="another"):
        bank.LatentBatches(banked / "emoji.npz", EMOJI_CLIP, CPU, 0, banked / "bank", other)


def test_captions_say_whether_they_name_a_style():
    captions = ["fox, flat style", "a glossy owl", "a flatbread", "classical building", "owl above ant"]
    assert batches.names_style(captions, batches.STYLES).tolist() == [True, True, False, False, False]


def test_the_empty_caption_replaces_the_share_that_is_asked_for(banked):
    feed = latent_batches(banked)
    drawn = feed.draw(100, 0)
    assert feed.without_text(drawn, 0.0) is drawn
    torch.manual_seed(0)
    changed = feed.without_text(drawn, 0.25)
    states, pooled = feed.encode([""])
    empty = (changed.pooled == pooled).all(1)
    assert 0.1 < empty.float().mean() < 0.4
    assert torch.equal(changed.states[empty], states.expand_as(changed.states[empty]))
    assert torch.equal(changed.states[~empty], drawn.states[~empty]) and changed.clean is drawn.clean


class Small(nn.Module):
    """Stands in for a denoiser: E = a x + b mean(text)."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.9)), nn.Parameter(torch.tensor(0.1))

    def forward(self, x, timesteps, states, class_labels=None, return_dict=False):
        return (self.a * x + self.b * class_labels.mean(1).view(-1, 1, 1, 1),)


class Given(batches.Batches):
    """Batches of one image and two texts, for what a loss is made of."""

    def __init__(self, seed=0, styled=True):
        self.where, self.seed, self.styled = CPU, seed, styled
        scheduler = batches.new_scheduler()
        self.alphas = scheduler.alphas_cumprod.sqrt()
        self.sigmas = (1 - scheduler.alphas_cumprod).sqrt()

    new_unet = staticmethod(Small)
    to_latents = staticmethod(lambda images: images)

    def encode(self, captions):
        return torch.zeros(len(captions), 2, 4), torch.zeros(len(captions), 4)

    def draw(self, count, step):
        images = torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(step))
        styled = torch.full((count,), self.styled)
        return batches.Batch(images, torch.zeros(count, 2, 4), torch.ones(count, 4), styled)

    def held_out_loss(self, forward):
        return {}


def distilled(folder, feed, stop=None, **options):
    """The student's averaged weights after six steps, killed before step `stop`."""
    monkey = pytest.MonkeyPatch()
    monkey.setattr(distil, "to_train", lambda unet, where: unet)
    teacher = folder / "teacher.pt"
    training.save_checkpoint(teacher, {"average": Small().state_dict()})
    draw = feed.draw

    def killing(count, step):
        if step == stop:
            raise KeyboardInterrupt
        return draw(count, step)

    feed.draw = killing
    try:
        return distil.distil(
            feed,
            teacher,
            folder / "student.pt",
            steps=6,
            batch=8,
            compiled=False,
            muon=False,
            save_minutes=0,
            **options,
        ).weights
    finally:
        monkey.undo()


def test_guidance_and_open_styles_change_what_the_student_learns(tmp_path):
    found = {}
    for name, options, styled in (
        ("plain", {"anchor": 0.0}, True),
        ("guided", {"anchor": 0.0, "guidance": 1.0}, True),
        ("anchored", {"anchor": 1.0}, True),
        ("open", {"anchor": 1.0}, False),
    ):
        (tmp_path / name).mkdir()
        found[name] = distilled(tmp_path / name, Given(styled=styled), **options)
    value = lambda name: torch.stack([found[name]["a"], found[name]["b"]])
    assert torch.equal(value("open"), value("plain")), "an open style leaves the true image out"
    assert not torch.equal(value("guided"), value("plain"))
    assert not torch.equal(value("anchored"), value("plain"))


def test_a_killed_student_ends_where_an_uninterrupted_one_does(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = distilled(tmp_path / "whole", Given())
    with pytest.raises(KeyboardInterrupt):
        distilled(tmp_path / "killed", Given(), stop=4)
    assert torch.load(tmp_path / "killed" / "student.pt", weights_only=True)["step"] == 4
    resumed = distilled(tmp_path / "killed", Given())
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_checkpoints_come_by_the_clock(tmp_path, monkeypatch):
    model, times, saved = nn.Linear(2, 1), iter(range(0, 10_000, 30)), []
    monkeypatch.setattr(training.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(training, "save_checkpoint", lambda path, payload: saved.append(payload["step"]))
    loss_of = lambda step: model(torch.ones(1, 2)).pow(2).mean()
    training.train(model, loss_of, tmp_path / "x.pt", steps=10, learning_rate=0.1, save_minutes=2)
    assert saved == [4, 8, 10]


def test_latents_start_at_unit_variance_and_losses_are_zero_where_nothing_is_wrong(work):
    torch.manual_seed(0)
    network, images = new_autoencoder(16), torch.rand(4, 3, 128, 128) * 2 - 1
    autoencoder.to_unit_variance(network, images)
    with torch.no_grad():
        assert float(network.encoder(images).std()) == pytest.approx(1, abs=0.2)
    assert float(autoencoder.reconstruction_loss(torch.zeros(1, 3, 8, 8))) == pytest.approx(1e-3**0.5)
    good = torch.randn(64, 8, 16, 16).clamp(-3, 3)
    assert autoencoder.latent_loss(good) < 1e-3 < autoencoder.latent_loss(2 * good)
    perfect = type(
        "Perfect", (), {"encoder": staticmethod(lambda x: x), "decoder": staticmethod(lambda z: z)}
    )
    found = autoencoder.quality(perfect, torch.rand(2, 3, 8, 8))
    assert found["psnr"] == float("inf") and 12 < found["psnr_noisy"] < 30
    assert dataset.load(work / "emoji.npz").images.shape[1:] == (128, 128, 3)


@pytest.mark.slow
def test_the_judge_learns_from_the_latent_models_images(work, tmp_path, monkeypatch):
    folder = tmp_path / "emoji-latent"
    export_latent(new_latent_unet().state_dict(), new_autoencoder().state_dict(), 1.0, folder, EMOJI_CLIP)
    data = tmp_path / "emoji.npz"
    data.symlink_to(work / "emoji.npz")
    monkeypatch.setattr(damage, "STEPS", (1,))
    made = damage.make(load_backbone("emoji-lcm", source=str(folder)), ["fox, flat style", "owl, flat style"])
    assert made.images.shape[-2:] == (128, 128)
    made.test = torch.tensor([True, False])
    damage.save(made, tmp_path / "damage.npz")
    options = {"steps": 1, "batch": 16, "device": "cpu", "compiled": False}
    found = clip_training.train_clip(data, tmp_path / "clip", tmp_path / "work", **options)
    assert set(found["below_clean"]) == set(judging.DECEIVERS) and "quantization" in found
