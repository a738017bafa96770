"""The search's strategy without a search: coefficients by least squares, in a preset without a surface."""

from dataclasses import replace

import pytest
import torch
from embedded_model import embedded

from qsched.evaluation.closed_form import fit
from qsched.evaluation.held_out import evaluate
from qsched.export.model_card import model_card
from qsched.presets import Preset, load_preset, save_preset
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.search.fitted import fit_preset
from qsched.ui import fragments

PROMPTS = ["red apple, flat style", "cat"]
MARK = "These coefficients are a least-squares fit on 2 prompts; no image was scored for them."


@pytest.fixture(scope="module")
def preset() -> Preset:
    return fit_preset(embedded(), Quantization("w4a8"), PROMPTS, 2)


def test_the_preset_holds_the_fit_and_no_image_was_scored(preset, monkeypatch):
    backbone = embedded()
    monkeypatch.setattr(backbone, "scorer", lambda: pytest.fail("a scorer was asked for"))
    again = fit_preset(backbone, Quantization("w4a8"), PROMPTS, 2)
    found = fit(backbone, backbone.quantized(Quantization("w4a8")).module, PROMPTS, 2)
    assert again.coefficients == preset.coefficients == found.coefficients
    facts = again.provenance
    assert facts["denoiser_calls"] == 2 * 2 * len(PROMPTS) and facts["strategy"] == "fit"
    assert len(facts["explained"]) == 2 and all(0 < share < 1 for share in facts["explained"])
    assert "scorer" not in facts and again.surface is None and again.fitted and again.published is None


def test_it_is_saved_as_it_was_made_and_marked_everywhere(preset, tmp_path, line):
    file = tmp_path / "p.json"
    save_preset(preset, file)
    assert load_preset(file) == preset and preset.mark == MARK
    assert preset.best(0.0) == preset.best(5.0) == preset.coefficients
    card = model_card(preset, "QSchedLCMScheduler", "With the qsched package")
    assert f"> {MARK}" in card and "| fit | least squares" in card and "2 prompts, 1 noise seed" in card
    assert MARK in fragments.published(preset) and "No surface" in fragments.published(preset)
    assert MARK.replace("These", "has no surface: its") in line.fails("surface", "--preset", file)
    assert line.ok("export", "--preset", file, "--out", tmp_path / "out")["mark"] == MARK
    drawn = line.ok("generate", "--bits", "w4a8", "--steps", "2", "--preset", file, "--prompt", "cat",
                    "--out", tmp_path / "images")  # fmt: skip
    assert MARK in drawn["notes"]


def test_it_is_evaluated_on_its_own_weights_alone(preset):
    result = evaluate(embedded(), preset, ["a blue cup"], seeds=1)
    assert MARK in result.to_dict()["notes"]
    other = replace(preset, revision="another")
    with pytest.raises(ValueError, match="was made with revision another"):
        evaluate(embedded(), other, ["a blue cup"], seeds=1)
    notes = evaluate(embedded(), other, ["a blue cup"], seeds=1, any_revision=True).to_dict()["notes"]
    assert any("other weights" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompts": []}, "at least one text"),
        ({"coefficients": Coefficients.constant(1.1, 0.9)}, "shape must be that of its coefficients"),
        ({"provenance": {"strategy": "shared"}}, "does not name where its coefficients were published"),
    ],
)
def test_a_broken_one_is_refused(preset, changes, reason):
    with pytest.raises(ValueError, match=reason):
        replace(preset, **changes)


def test_a_prediction_that_is_not_finite_is_one_sentence(monkeypatch):
    backbone, predict = embedded(), embedded().predict
    monkeypatch.setattr(backbone, "predict", lambda *args: predict(*args) * torch.nan)
    with pytest.raises(ValueError, match="step 1 is not finite"):
        fit(backbone, backbone.denoiser, PROMPTS, 2)


def test_the_command_fits_and_says_what_is_explained(line, tmp_path):
    command = ("search", "--strategy", "fit", "--bits", "w4a8", "--steps", "2", "--prompts", "2")
    assert line.ok(*command, "--dry-run") == {"dry_run": True, "calls": 8}
    data = line.ok(*command, "--out", tmp_path / "p.json")
    loaded = load_preset(tmp_path / "p.json")
    assert data["denoiser_calls"] == 8 and data["coefficients"] == loaded.coefficients.to_dict()
    assert data["explained"] == loaded.provenance["explained"]
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]
    status, out, err = line.run(*command, "--out", tmp_path / "q.json")
    assert (status, err) == (0, "") and MARK in out and "explained" in out and "step 2" in out


@pytest.mark.parametrize("option", [("--seeds", "2"), ("--study", "x"), ("--whole-grid",)])
def test_what_only_a_search_takes_is_refused(option, line, tmp_path):
    command = ("search", "--strategy", "fit", "--bits", "w4a8", "--out", tmp_path / "p.json", *option)
    assert "A fit has no points" in line.fails(*command)
