"""How the embedded model is made: data set, tokenizer, degradations, the denoiser's start, resumable
training, export.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import parallel_worker
import pytest
import torch
from emoji_art import CONCEPTS, write_packages
from torch import nn
from torch.distributed.run import get_args_parser

from qsched.embedded import export, report
from qsched.embedded.__main__ import main, parser
from qsched.embedded.data import dataset
from qsched.embedded.denoiser import batches, distil, teacher
from qsched.embedded.denoiser import unet as denoiser
from qsched.embedded.judges import clip, clip_training, degradations
from qsched.embedded.judges.tokenizer import train_tokenizer
from qsched.embedded.training import loop as training
from qsched.embedded.training import parallel, weights
from qsched.models.emoji import CHANNELS, to_images
from qsched.scoring.embedded_clip import prepared


@pytest.fixture(scope="module")
def npm(tmp_path_factory):
    """A node_modules folder with the layout of the art's npm packages."""
    return write_packages(tmp_path_factory.mktemp("npm") / "node_modules")


@pytest.fixture(scope="module")
def data(npm, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "emoji.npz"
    dataset.build(npm, path)
    return path


def test_the_builder_keeps_every_image_and_says_so(npm, data):
    emoji = dataset.load(data)
    manifest = json.loads(data.with_suffix(".json").read_text())
    assert emoji.concepts == list(CONCEPTS)
    assert len(emoji.images) == manifest["images"] == len(CONCEPTS) * len(dataset.STYLES)
    assert {s["licence"] for s in manifest["styles"]} == {"Apache-2.0", "MIT", "CC-BY-4.0"}
    assert emoji.images.shape[1:] == (64, 64, 3)
    assert (emoji.images[:, 0, 0] == 255).all(), "the corner of every image is white"
    index = ((emoji.concept == 1) & (emoji.style == 2)).nonzero().item()
    assert emoji.caption(index) == "green pear, glossy style"
    assert emoji.images[index, 32, 32].tolist() == [30, 80, 200]


def test_the_builder_is_deterministic_and_its_split_is_fixed(npm, data, tmp_path):
    dataset.build(npm, tmp_path / "again.npz")
    first, second = dataset.load(data), dataset.load(tmp_path / "again.npz")
    assert torch.equal(first.images, second.images) and torch.equal(first.held_out, second.held_out)
    share = np.mean([dataset.is_held_out(f"concept {i}", "flat") for i in range(4000)])
    assert abs(share - dataset.HELD_OUT_SHARE) < 0.015
    assert not set(first.train_indices().tolist()) & set(first.held_out.nonzero().flatten().tolist())


def test_missing_art_names_the_install_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"npm install .*@iconify-json/noto"):
        dataset.build(tmp_path / "node_modules", tmp_path / "x.npz")


def test_tokenizer_ends_with_the_highest_id_and_reads_unknown_words(tmp_path):
    tokenizer = train_tokenizer(
        ["red apple, glossy style", "green pear, flat style"], tmp_path, vocabulary=300
    )
    ids = tokenizer(["Red ÁPPLE zebra"])["input_ids"][0]
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == max(ids) == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in tokenizer(["red apple pear"])["input_ids"][0]


@pytest.mark.parametrize("kind", degradations.KINDS)
def test_degradations_grow_with_strength_and_start_at_nothing(kind):
    torch.manual_seed(0)
    images = nn.functional.interpolate(torch.rand(4, 3, 8, 8), (64, 64), mode="bicubic").clamp(0, 1)
    number = torch.full((4,), list(degradations.KINDS).index(kind))
    change = [
        (degradations.degrade(images, torch.full((4,), s), number) - images).abs().mean().item()
        for s in (0, 0.5, 1)
    ]
    assert change[0] < (0.03 if kind == "posterise" else 1e-6)
    assert change[0] < change[1] < change[2]


def test_the_denoiser_starts_as_a_copy_of_its_input():
    torch.manual_seed(0)
    unet = denoiser.new_unet().eval()
    noise = torch.randn(2, *(CHANNELS, 16, 16))
    with torch.no_grad():
        predicted = unet(
            noise, torch.tensor([999, 259]), torch.randn(2, 16, 256), class_labels=torch.randn(2, 256)
        ).sample
    assert (predicted - noise).std() < 0.05


def test_what_makes_training_fast_changes_no_prediction():
    torch.manual_seed(0)
    unet = denoiser.new_unet().eval()
    given = torch.randn(2, CHANNELS, 16, 16), torch.tensor([999, 259]), torch.randn(2, 16, 256)
    predict = lambda: unet(*given, class_labels=torch.ones(2, 256)).sample
    with torch.no_grad():
        before = predict()
        assert denoiser.to_train(unet, torch.device("cpu")) is unet
        assert torch.allclose(predict(), before, atol=1e-4)
    assert next(unet.parameters()).is_contiguous(memory_format=torch.channels_last)


def test_high_timesteps_are_drawn_more_often_and_none_is_outside_the_schedule():
    torch.manual_seed(0)
    drawn = teacher.draw_timesteps(20_000, "cpu")
    assert drawn.min() >= 1 and drawn.max() == denoiser.LAST
    shares = torch.stack(
        [(drawn.float() <= denoiser.LAST * part).float().mean() for part in (0.25, 0.5, 0.75)]
    )
    assert torch.allclose(shares, torch.tensor([0.25, 0.5, 0.75]) ** 2, atol=0.01)


def test_latents_and_images_are_inverse():
    images = torch.rand(2, 3, 64, 64)
    assert torch.allclose(to_images(denoiser.to_latents(images)), images, atol=1e-6)


def test_true_noise_gives_the_true_image():
    clean, noise = torch.rand(2, 48, 16, 16), torch.randn(2, 48, 16, 16)
    alpha = denoiser.new_scheduler().alphas_cumprod[[999, 259]].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    assert torch.allclose(
        denoiser.image(alpha * clean + sigma * noise, noise, alpha, sigma), clean, atol=1e-4
    )


@pytest.mark.slow
def test_processes_that_train_together_do_what_one_does_with_all_their_batches(tmp_path):
    (tmp_path / "two").mkdir()
    script = Path(__file__).with_name("parallel_worker.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    subprocess.run(
        [*launch, script, tmp_path / "two"], check=True, env=environment, timeout=120, capture_output=True
    )
    first, second = (torch.load(tmp_path / "two" / f"{rank}.pt") for rank in (0, 1))
    torch.manual_seed(0)
    (tmp_path / "one").mkdir()
    alone = parallel_worker.fit(parallel_worker.halves().flatten(0, 1), tmp_path / "one")
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]) and torch.allclose(first[name], value, atol=1e-5)
    assert torch.load(tmp_path / "two/x.pt")["step"] == 10
    assert parallel.own_seed(7) == 7 and parallel.size() == 1, "without torchrun nothing changes"


def test_only_the_denoisers_are_trained_by_several_processes(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("sys.argv", ["qsched.embedded", "--work", str(tmp_path), "clip"])
    assert main() == 2 and "run clip without it" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["denoiser", "distil"])
def test_torchrun_takes_none_of_our_options_for_its_own(command):
    """Its parser refuses a word that two of its own options begin with, even behind the script's name."""
    subcommands = next(a for a in parser()._actions if a.dest == "command").choices
    for option in (*parser()._option_string_actions, *subcommands[command]._option_string_actions):
        line = ["--nproc-per-node", "2", "-m", "qsched.embedded", command, option, "1"]
        assert get_args_parser().parse_args(line).training_script_args == line[4:], option


def test_a_time_budget_ends_training_and_counts_earlier_runs(tmp_path):
    model = nn.Linear(2, 1)
    loss_of = lambda step: model(torch.ones(1, 2)).pow(2).mean()
    options = dict(steps=10**6, learning_rate=0.1)
    training.train(model, loss_of, tmp_path / "x.pt", minutes=0.002, **options)
    first = torch.load(tmp_path / "x.pt", weights_only=True)
    assert 1 < first["step"] < 10**6 and 0.002 <= first["minutes"] < 0.02
    training.train(model, loss_of, tmp_path / "x.pt", minutes=0.002, **options)
    assert torch.load(tmp_path / "x.pt", weights_only=True)["step"] == first["step"] + 1
    lines = [json.loads(line) for line in (tmp_path / "x.curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [first["step"], first["step"] + 1]


def test_the_learning_rate_follows_the_clock_where_that_is_ahead():
    assert training.cosine(49, 1000, 1.0) == 0.5
    assert training.cosine(100, 10**6, 1.0, done=0.5) == pytest.approx(0.51)
    assert training.cosine(900, 1000, 1.0, done=0.1) == training.cosine(900, 1000, 1.0)
    assert training.cosine(200, 10**6, 1.0, done=1.0) == pytest.approx(0.02)


def test_averaged_weights_are_lent_and_given_back():
    model = nn.Linear(2, 1).train()
    average = training.Average(model)
    with torch.no_grad():
        model.weight += 1
    own = model.weight.clone()
    with training.averaged(model, average):
        assert torch.allclose(model.weight, own - 1, atol=1e-6) and not model.training
    assert torch.equal(model.weight, own) and model.training


@pytest.mark.slow
def test_the_whole_recipe_runs_and_its_export_loads(data, tmp_path, monkeypatch):
    """Three steps of everything on eight concepts: clip, denoiser, distil, export, sheet, report."""
    folder, work = tmp_path / "emoji-clip", tmp_path / "work"
    numbers = clip_training.train_clip(data, folder, work, steps=3, batch=16, device="cpu", compiled=False)
    assert 0 <= numbers["retrieval"]["top1"] <= numbers["retrieval"]["top5"] <= 1 and 0 <= numbers["auc"] <= 1
    with pytest.raises(FileNotFoundError, match="denoiser"):
        distil.distil(None, work / "denoiser.pt", work / "student.pt", steps=1)
    monkeypatch.setattr(batches, "STYLES", tuple(s.word for s in dataset.STYLES))  # one is held out
    feed = batches.PixelBatches(data, folder, torch.device("cpu"), 0)
    options = dict(steps=2, batch=6, compiled=False, muon=False)
    teacher.train_denoiser(feed, work / "denoiser.pt", **options)
    distil.distil(feed, work / "denoiser.pt", work / "student.pt", **options)
    before = torch.load(work / "denoiser.pt", weights_only=True)
    after = torch.load(work / "student.pt", weights_only=True)
    assert any(not torch.equal(before["average"][name], after["average"][name]) for name in before["average"])
    assert {"loss", "loss_seen", "loss_held_out"} <= set(before["curve"][-1]) & set(after["curve"][-1])

    other = denoiser.new_unet()
    assert weights.start_from(work / "denoiser.pt", other) == len(before["average"])
    assert all(torch.equal(value, before["average"][name]) for name, value in other.state_dict().items())

    export.export_denoiser(weights.read_weights(work / "student.pt"), tmp_path / "emoji-lcm")
    assert weights.start_from(tmp_path / "emoji-lcm", denoiser.new_unet()) == len(before["average"])
    from qsched import load_backbone

    backbone = load_backbone("emoji-lcm", device="cpu", source=str(tmp_path / "emoji-lcm"))
    prompts = export.sheet_prompts(["red apple", "fox"], ["flat", "retro"], 2)
    assert prompts == ["red apple, flat style", "fox, retro style"]
    export.sample_sheet(backbone, prompts, tmp_path / "sheet.png", steps=1)
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    monkeypatch.setattr(report, "SEEN", 3)
    monkeypatch.setattr(report, "TEACHER_STEPS", 2)
    result = report.report(backbone, dataset.load(data), None, seeds=2)
    rows = result["rows"]
    assert len(rows) % 6 == 0 and {row["pairs"] for row in rows} >= {"seen", "held out"}
    for row in rows:
        assert row["top1"]["mean"] <= row["top5"]["mean"] <= 1 and row["clip_score"]["mean"] >= 0
        assert row["clip_score"]["low"] <= row["clip_score"]["mean"] <= row["clip_score"]["high"]
    assert "| seen (3) | DDIM, 2 steps |" in report.markdown(result)


@pytest.mark.slow
def test_a_text_tower_is_kept_while_the_image_tower_learns(data, tmp_path, monkeypatch, capsys):
    shutil.copy(data, tmp_path / "emoji.npz")
    first, second = tmp_path / "first", tmp_path / "second"
    clip_training.train_clip(data, first, tmp_path / "work", steps=1, batch=16, device="cpu", compiled=False)
    line = [
        "qsched.embedded",
        "--work",
        tmp_path,
        "--clip",
        second,
        "--device",
        "cpu",
        "clip",
        "--start-from",
        first,
    ]
    monkeypatch.setattr(
        "sys.argv", [*map(str, line), "--keep-text", "--steps", "2", "--batch", "16", "--no-compile"]
    )
    assert main() == 0 and "retrieval" in json.loads(capsys.readouterr().out)
    emoji = dataset.load(data)
    towers = [clip.load_clip(folder, emoji) for folder in (first, second)]
    with torch.no_grad():
        texts = [
            clip.encode_texts(model, tokenizer(["red apple", "two foxes on blue"]))
            for model, tokenizer in towers
        ]
        images = [
            model.encode_image(prepared(model, emoji.images_of(torch.arange(4)))) for model, _ in towers
        ]
    assert torch.equal(*texts) and not torch.allclose(*images, atol=1e-3)
