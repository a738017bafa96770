"""Coefficients that were published and not measured here: offered, marked, exported and evaluated without a
surface.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest
from diffusers import EulerAncestralDiscreteScheduler
from tiny_models import folder_of, tiny

from qsched.comparison.result import Settings
from qsched.evaluation.held_out import evaluate
from qsched.export.model_card import model_card
from qsched.models.registry import SPECS
from qsched.presets import PRESETS, Preset, PresetError, find_preset, load_preset, save_preset
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.schedulers import QSchedEulerAncestralDiscreteScheduler
from qsched.server.engine import Engine
from qsched.server.sessions import Session
from qsched.ui import fragments
from qsched.ui.compare import links
from qsched.ui.compare.surface_view import draw, sweep
from qsched.ui.compare.tab import CompareTab

FILE = PRESETS / "sdxl-turbo" / "w4a4-4steps.json"
SOURCE = "arXiv 2509.01624"
MARK = f"These coefficients are published ({SOURCE}), not measured here."


@pytest.fixture(scope="module", autouse=True)
def made():
    """Before any test listens to what is printed: making the models is not silent."""
    return folder_of("sdxl-turbo"), folder_of("lcm-dreamshaper-v7")


def test_the_published_set_is_shipped_with_its_mark():
    preset = find_preset("sdxl-turbo", "w4a4", 4)
    assert preset.coefficients == Coefficients.ends((1.012, 0.967), (0.955, 1.099)) and preset.shape == "ends"
    assert preset.surface is None and preset.published == SOURCE and preset.mark == MARK
    assert preset.best(0.0) == preset.best(5.0) == preset.coefficients
    assert find_preset("emoji-lcm", "w4a8", 4).mark is None


def test_it_is_saved_as_it_was_loaded(tmp_path):
    preset = load_preset(FILE)
    save_preset(preset, tmp_path / "p.json")
    assert load_preset(tmp_path / "p.json") == preset


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"provenance": {}}, "does not name where its coefficients were published"),
        ({"provenance": {"published": " "}}, "does not name where its coefficients were published"),
        ({"shape": "ramp"}, 'shape must be that of its coefficients, "ends"'),
        ({"surface": []}, "surface must be an object"),
        ({"surface": {}}, "surface.c_x"),
        ({"prompts": [1]}, "prompts must be a list of texts"),
        ({"coefficients": {"c_x": [1, 2, 3], "c_eps": 1}}, "3"),
    ],
)
def test_a_preset_without_a_surface_is_still_checked(tmp_path, changes, reason):
    data = json.loads(FILE.read_text()) | changes
    (tmp_path / "p.json").write_text(json.dumps(data))
    with pytest.raises(PresetError) as error:
        load_preset(tmp_path / "p.json")
    assert reason in str(error.value)


def test_a_missing_surface_and_one_beside_the_mark_are_refused(tmp_path):
    data = json.loads(FILE.read_text())
    del data["surface"]
    (tmp_path / "p.json").write_text(json.dumps(data))
    with pytest.raises(PresetError, match="missing: surface"):
        load_preset(tmp_path / "p.json")
    with pytest.raises(ValueError, match="only published"):
        replace(find_preset("emoji-lcm", "w4a8", 4), provenance={"published": SOURCE})


def test_export_needs_no_download(line, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("qsched.scoring.weights.cache_folder", lambda: tmp_path / "hub")
    monkeypatch.setattr("qsched.hub.fetch.is_ready", lambda source: False)
    data = line.ok("export", "--preset", FILE, "--out", tmp_path / "out")
    assert data["mark"] == MARK and MARK in (tmp_path / "out" / "README.md").read_text()
    scheduler = QSchedEulerAncestralDiscreteScheduler.from_pretrained(tmp_path / "out")
    assert tuple(scheduler.config.c_x) == (1.012, 0.967) and tuple(scheduler.config.c_eps) == (0.955, 1.099)
    assert scheduler.config.timestep_spacing == "trailing"


def test_export_takes_the_scheduler_of_another_source(line, tmp_path):
    data = line.ok("export", "--preset", FILE, "--source", folder_of("sdxl-turbo"), "--out", tmp_path / "out")
    assert "scheduler_config.json" in data["files"]
    foreign = ("--source", folder_of("lcm-dreamshaper-v7"))
    assert "cannot be loaded from" in line.fails(
        "export", "--preset", FILE, *foreign, "--out", tmp_path / "x"
    )


def test_the_model_card_carries_the_mark():
    card = model_card(load_preset(FILE), "QSchedEulerAncestralDiscreteScheduler", "With the qsched package")
    assert f"> {MARK}" in card and "| published | arXiv 2509.01624 |" in card
    assert "calibration" not in card and "revision" not in card


def test_surface_says_that_there_is_none(line):
    assert "has no surface: its coefficients are published" in line.fails("surface", "--preset", FILE)


def test_evaluate_measures_it_on_any_revision():
    result = evaluate(tiny("sdxl-turbo"), load_preset(FILE), ["a red fox", "a cup"], seeds=1)
    assert MARK in result.to_dict()["notes"] and result.estimate("Q-Sched", "jaq").mean < 10


@pytest.fixture
def engine():
    return Engine("sdxl-turbo", load=lambda id, **options: tiny(id))


def test_the_page_offers_it_with_its_mark(engine):
    with gr.Blocks():
        tab = CompareTab(engine, gr.Checkbox())
    results, best = tab.results, tab.controls.best
    of = lambda bits: SimpleNamespace(settings=Settings("a red fox", 0, 4, Quantization(bits)))
    held = Session("sdxl-turbo", of("w4a4"))
    shown = draw(results, engine, held, False, best)
    assert (
        shown[best]["interactive"]
        and not shown[results.surface]["visible"]
        and shown[results.surface]["value"] == ""
    )
    text = shown[results.no_surface]["value"]
    assert shown[results.no_surface]["visible"] and MARK in text and "No surface: run a search" in text
    assert "c_x 1.012 → 0.967, c_eps 0.955 → 1.099" in text and "--bits w4a4 --steps 4" in text
    assert sweep(engine, held, False) is None
    other = draw(results, engine, Session("sdxl-turbo", of("w4a8")), False, best)
    assert not other[best]["interactive"] and "published" not in other[results.no_surface]["value"]


def test_whoever_stands_at_the_best_known_follows_to_it(engine):
    settings = Settings("a red fox", 0, 4, Quantization("w4a4"))
    assert engine.best_known("sdxl-turbo", settings, 3.0) == load_preset(FILE).coefficients
    link = links.resolve(engine, links.read_link({"backbone": "sdxl-turbo", "bits": "w4a4"}))
    assert link[2] == load_preset(FILE).coefficients and link[3] == "ends"


def test_text_of_a_foreign_preset_is_escaped():
    fields = dict(backbone="x", revision="", bits="w4a4", steps=4, shape="constant", surface=None)
    preset = Preset(
        **fields, coefficients=Coefficients.constant(1.1, 0.9), provenance={"published": "<script>\nx"}
    )
    assert "<script>" not in fragments.published(preset) and "\n" not in preset.mark


def test_the_scheduler_without_weights_is_the_published_one(monkeypatch):
    from qsched.models.diffusers_folder import scheduler_of

    monkeypatch.setattr("qsched.hub.fetch.is_ready", lambda source: False)
    assert isinstance(scheduler_of(SPECS["sdxl-turbo"]), EulerAncestralDiscreteScheduler)
