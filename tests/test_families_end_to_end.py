"""Each real family through what the app does with it: compare, drag, search, and the command line."""

import json

import pytest
import torch
from tiny_models import NATIVE, PROMPTS, REAL, FakeScorer, folder_of, tiny

from qsched.commands import backbones as listing
from qsched.commands import cli
from qsched.comparison.comparison import compare, rescale
from qsched.comparison.record import record
from qsched.comparison.result import Settings
from qsched.models.registry import SPECS
from qsched.presets import load_preset, save_preset
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.loop import draw_noise, prepare_scheduler, sample
from qsched.search.options import SearchOptions
from qsched.search.run import search


@pytest.mark.parametrize("id", REAL)
def test_compare_and_drag(id):
    backbone = tiny(id)
    settings = Settings(PROMPTS[0], 3, SPECS[id].default_steps, Quantization("w4a8"))
    backbone.use(settings.steps)
    seen = compare(backbone, settings, Coefficients.ramp(1.1, 0.9))
    assert [column.image.size for column in seen.columns] == [(NATIVE, NATIVE)] * 3
    assert seen.full_precision.ssim == pytest.approx(1) and seen.naive.psnr > 10
    assert seen.naive.stored_bytes < backbone.full_precision_bytes and seen.naive.ratio > 1
    calls = backbone.calls
    moved = rescale(backbone, seen, Coefficients.constant(0.9, 1.05))
    assert backbone.calls - calls == settings.steps - 1
    assert moved.qsched.image.tobytes() != seen.qsched.image.tobytes() != seen.naive.image.tobytes()
    back = rescale(backbone, moved, Coefficients.identity())
    assert back.qsched.image.tobytes() == seen.naive.image.tobytes()
    assert json.dumps(record(seen))


@pytest.mark.slow
def test_a_comparison_in_another_step_count_loads_its_weights():
    backbone = tiny("pcm-sd15")
    four = compare(backbone, Settings(PROMPTS[0], 0, 4), Coefficients.ramp(1.1, 1.0))
    two = compare(backbone, Settings(PROMPTS[0], 0, 2), Coefficients.ramp(1.1, 1.0), four)
    assert two.full_precision.image.tobytes() != four.full_precision.image.tobytes()
    again = rescale(backbone, four, Coefficients.ramp(1.2, 1.0))
    assert again.settings.steps == 4 and backbone.lora == backbone.spec.lora_file(4)


@pytest.mark.parametrize("strategy", ["exhaustive", "shared"])
@pytest.mark.parametrize("id", REAL)
def test_search_a_grid_of_three_by_three(id, strategy, tmp_path):
    backbone, steps = tiny(id), SPECS[id].default_steps
    backbone.use(steps)
    calls = backbone.calls
    options = SearchOptions("w4a8", PROMPTS[:2], c_range=(0.9, 1.1), resolution=3, strategy=strategy)
    preset = search(backbone, options)
    assert preset.surface.images == 2 and preset.provenance["points_done"] == 9
    if strategy == "shared":
        assert backbone.calls - calls <= 2 + 9 * 2 * (steps - 1)
    assert preset.revision == backbone.revision and preset.steps == steps
    assert preset.provenance["timesteps"] == prepare_scheduler(backbone, steps, None).timesteps.tolist()
    save_preset(preset, tmp_path / "preset.json")
    assert load_preset(tmp_path / "preset.json").coefficients == preset.coefficients


@pytest.mark.parametrize("id", REAL)
def test_candidates_of_one_batch_are_single_runs(id):
    backbone, steps = tiny(id), SPECS[id].default_steps
    candidates = [Coefficients.identity(), Coefficients.ramp(1.1, 0.9)]
    condition = backbone.encode(PROMPTS[:2])
    noise = draw_noise(backbone.latent_shape, 0, [0, 1])
    together = sample(backbone, condition, noise, steps, candidates)
    for i, candidate in enumerate(candidates):
        alone = sample(backbone, condition.select([i]), noise.select([i]), steps, candidate)
        torch.testing.assert_close(together[i], alone[0], atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("method", ["mixdq", "svdquant"])
@pytest.mark.parametrize("id", REAL)
def test_other_methods_quantize_what_is_loaded(id, method):
    backbone, few = tiny(id), SPECS[id].steps[0]
    backbone.use(few)
    bits = "w4a4" if method == "svdquant" else "w4a8"
    made = backbone.quantized(Quantization(bits, method=method))
    noise, condition = draw_noise(backbone.latent_shape, 0, [0]), backbone.encode(PROMPTS[:1])
    assert sample(backbone, condition, noise, few, None, made.module).isfinite().all()


def run(capsys, *argv):
    status = cli.main([str(argument) for argument in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_generate_from_a_local_folder(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("qsched.models.pipeline.PipelineBackbone._make_scorer", lambda self: FakeScorer())
    arguments = [
        "--backbone",
        "sdxl-turbo",
        "--source",
        folder_of("sdxl-turbo"),
        "--prompt",
        "a fox",
        "--steps",
        "1",
    ]
    status, out, err = run(capsys, "generate", *arguments, "--device", "cpu", "--out", tmp_path, "--json")
    assert (status, err) == (0, "")
    data = json.loads(out)
    assert data["backbone"]["id"] == "sdxl-turbo" and data["backbone"]["source"] == str(
        folder_of("sdxl-turbo")
    )
    assert (tmp_path / "qsched.png").is_file()


def test_a_backbone_that_was_not_downloaded_is_one_sentence_and_exit_2(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    arguments = ["--backbone", "lcm-dreamshaper-v7", "--prompt", "a fox", "--out", tmp_path / "out"]
    status, out, err = run(capsys, "generate", *arguments)
    assert status == 2 and out == "" and err.count("\n") == 1 and "SimianLuo/LCM_Dreamshaper_v7" in err


def test_backbones_says_what_each_needs_and_what_is_missing(capsys):
    status, out, err = run(capsys, "backbones", "--device", "cpu", "--json")
    assert (status, err) == (0, "")
    found = {entry["id"]: entry for entry in json.loads(out)["backbones"]}
    assert list(found) == list(SPECS)
    flux = found["flux1-schnell"]
    assert flux["denoiser_bytes"]["fp16"] == pytest.approx(22680.6 * 2**20, rel=1e-5)
    assert flux["denoiser_bytes"]["w4a8"] == pytest.approx(5757.4 * 2**20, rel=1e-5)
    assert (
        flux["gated"]
        and not flux["ready"]
        and "pull flux1-schnell" in flux["reason"]
        and "licence" in flux["reason"]
    )
    assert flux["device_memory_bytes"]["w4a8"]["resident"] > flux["device_memory_bytes"]["w4a8"]["offloaded"]
    assert found["pcm-sdxl"]["steps"] == [2, 4, 8, 16] and found["pcm-sdxl"]["download_bytes"] > 8e9
    scores = 1_710_000_000 + 408_000_000 + 6_000 + 244_000_000  # ViT-L-14, RN50, LPIPS' weightings, AlexNet
    assert all(
        entry["scores_bytes"] == (scores if entry["id"] != "emoji-lcm" else 0) for entry in found.values()
    )
    assert found["lcm-dreamshaper-v7"]["download_bytes"] == 4_265_000_000 + 9_800_000, "with the tiny decoder"
    status, out, _ = run(capsys, "backbones", "--device", "cpu")
    assert status == 0 and "Apache-2.0, gated" in out and "2, 4, 8, 16" in out and "pull sdxl-turbo" in out
    assert "4.3 GB + scores 2.4 GB" in out and "33.7 GB + scores 2.4 GB" in out and "none" in out
    status, out, _ = run(
        capsys, "backbones", "--device", "cpu", "--source", str(folder_of("sdxl-turbo")), "--json"
    )
    turbo = json.loads(out)["backbones"][4]
    assert status == 0 and turbo["id"] == "sdxl-turbo" and turbo["download_bytes"] == 9_800_000, (
        "a folder is here"
    )


def test_a_local_source_is_looked_at_and_not_loaded():
    there = SPECS["sdxl-turbo"].at(str(folder_of("sdxl-turbo")))
    assert listing._missing(there) is None
    foreign = SPECS["sdxl-turbo"].at(str(folder_of("flux1-schnell")))
    assert "FluxPipeline" in listing._missing(foreign)
