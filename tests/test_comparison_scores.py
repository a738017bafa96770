"""Images without scores where no scorer can be had, and everywhere else the scores in the
scorer's own terms.
"""

import json
from dataclasses import replace

import pytest
import torch
from command_line import CommandLine
from embedded_model import embedded, make_preset

from qsched.commands.output import to_json
from qsched.comparison.comparison import compare, rescale
from qsched.comparison.record import record
from qsched.comparison.result import Settings
from qsched.presets import save_preset
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.scoring import ImageScores, ScorerError
from qsched.scoring.photo import Perceptual
from qsched.server.engine import Engine
from qsched.ui import fragments

WHY = "CLIP ViT-B-32 of the scores is not on this machine."
SETTINGS = Settings("fox", steps=2, quantization=Quantization("w4a8"))
POINT = Coefficients.constant(1.1, 0.95)


class Preferences:
    """A scorer whose quality is no CLIP-IQA, with LPIPS."""

    name, definition, quality_name = "constant", "always the same", "HPSv2.1"

    def alignment(self, images, prompts):
        return torch.full((len(images),), 25.0)

    def quality(self, images, prompts=None):
        return torch.full((len(images),), 0.25)

    def score(self, images, prompts):
        return ImageScores(self.alignment(images, prompts), self.quality(images, prompts))

    def lpips(self, images, reference):
        return (images - reference).abs().mean(dim=(1, 2, 3))


@pytest.fixture
def blind(monkeypatch):
    """The embedded model while its scorer cannot be had."""

    def missing():
        raise ScorerError(WHY)

    monkeypatch.setattr(embedded(), "scorer", missing)
    return embedded()


@pytest.fixture
def cli(capsys, monkeypatch):
    return CommandLine(capsys, monkeypatch)


def test_images_sizes_and_similarity_come_without_a_scorer(blind):
    comparison = compare(blind, SETTINGS, POINT)
    for column in comparison.columns:
        assert (column.alignment, column.quality, column.jaq(), column.lpips) == (None, None, None, None)
        assert column.jaq_difference(comparison.full_precision) is None and not column.scored
        assert column.image.size == (64, 64) and column.stored_bytes > 0 and column.latency_s > 0
    assert comparison.full_precision.ssim == pytest.approx(1) and 0 < comparison.qsched.ssim < 1
    assert any("no scores" in note and WHY in note for note in comparison.notes)
    moved = rescale(blind, comparison, Coefficients.constant(0.9, 1.0))
    assert moved.qsched.alignment is None and moved.notes == comparison.notes


def test_the_record_says_that_nobody_scored(blind):
    data = json.loads(to_json(record(compare(blind, SETTINGS, POINT))))
    assert data["scorer"]["name"] is None and data["scorer"]["definition"] is None
    assert all(
        column[name] is None
        for column in data["columns"]
        for name in ("alignment", "quality", "jaq", "lpips")
    )
    assert data["columns"][2]["jaq_difference"] is None and data["columns"][2]["psnr"] > 0


def test_the_page_shows_dashes_and_why(blind):
    comparison = compare(blind, SETTINGS, POINT)
    table = fragments.scores(comparison)
    # four scores of each image, SSIM and PSNR of full precision
    assert table.count(fragments.NONE) == 3 * 4 + 2
    assert f"{comparison.qsched.ssim:.3f}" in table and "LPIPS" not in table
    assert WHY in fragments.notes(comparison.notes) and "nobody" in fragments.definition(
        comparison.facts.scorer
    )


def test_scores_appear_once_the_scorer_can_be_had(blind, monkeypatch):
    without = compare(blind, SETTINGS, POINT)
    monkeypatch.undo()
    with_scores = compare(embedded(), SETTINGS, POINT, without)
    assert all(column.scored for column in with_scores.columns) and with_scores.notes == ()
    assert compare(embedded(), SETTINGS, POINT, with_scores).full_precision is with_scores.full_precision


def test_lpips_appears_once_its_weights_are_there(monkeypatch):
    scorer, known = Preferences(), Perceptual()
    monkeypatch.setattr(scorer, "lpips", known, raising=False)
    monkeypatch.setattr(embedded(), "_scorer", scorer)
    engine = Engine(load=lambda *args, **options: embedded())
    settings, coefficients = engine.opening()
    without = engine.compare("a", "emoji-lcm", settings, coefficients)
    assert all(column.scored and column.lpips is None for column in without.columns)
    assert engine.compare("b", "emoji-lcm", settings, coefficients).full_precision is without.full_precision
    monkeypatch.setattr(scorer, "lpips", Preferences().lpips)
    for session in ("a", "b", "c"):
        found = engine.compare(session, "emoji-lcm", settings, coefficients)
        assert all(column.lpips is not None for column in found.columns) and found.full_precision.lpips == 0
    assert engine.compare("d", "emoji-lcm", settings, coefficients).naive is found.naive, (
        "made once for everyone"
    )


def test_generate_writes_images_and_null_scores(blind, cli, tmp_path):
    status, out, err = cli.run("generate", "--prompt", "fox", "--steps", 2, "--out", tmp_path)
    assert (status, err) == (0, "") and WHY in out and "nobody has scored" in out
    data = json.loads((tmp_path / "result.json").read_text())
    assert data["columns"][1]["jaq"] is None and (tmp_path / "qsched.png").stat().st_size > 0


def test_search_and_evaluate_need_a_scorer(blind, cli, tmp_path):
    line = cli.fails(
        "search", "--bits", "w4a8", "--steps", 2, "--grid", 2, "--prompts", 1, "--out", tmp_path / "a.json"
    )
    assert WHY in line and not (tmp_path / "a.json").exists()
    save_preset(make_preset(), tmp_path / "preset.json")
    assert WHY in cli.fails("evaluate", "--preset", tmp_path / "preset.json", "--prompts", 1, "--seeds", 1)


def test_another_quality_and_lpips_are_named_as_they_are(monkeypatch, cli, tmp_path):
    monkeypatch.setattr(embedded(), "_scorer", Preferences())
    comparison = compare(embedded(), SETTINGS, POINT)
    assert (
        comparison.facts.scorer.quality == "HPSv2.1"
        and comparison.full_precision.lpips == 0 < comparison.qsched.lpips
    )
    table = fragments.scores(comparison)
    assert "CLIP-IQA" not in table and "HPSv2.1" in table and "LPIPS" in table
    assert f"{comparison.qsched.lpips:.3f}" in table
    assert "HPSv2.1" in fragments.definition(comparison.facts.scorer)
    data = record(comparison)
    assert (
        data["scorer"]["jaq"] == "JAQ = log(CLIPScore) + k * HPSv2.1"
        and data["scorer"]["quality"] == "HPSv2.1"
    )
    assert data["columns"][2]["lpips"] == comparison.qsched.lpips
    _, out, _ = cli.run("generate", "--prompt", "fox", "--steps", 2, "--out", tmp_path)
    assert "HPSv2.1" in out and "LPIPS" in out and "CLIP-IQA" not in out


def test_the_table_of_a_broken_column_still_has_every_cell():
    comparison = compare(embedded(), SETTINGS, POINT)
    half = replace(comparison, qsched=replace(comparison.qsched, alignment=None, quality=None))
    assert fragments.scores(half).count('role="cell"') == 3 * 7
    lpips = replace(comparison, qsched=replace(comparison.qsched, lpips=0.3))
    assert fragments.scores(lpips).count('role="cell"') == 3 * 8
