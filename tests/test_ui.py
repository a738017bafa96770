"""The page without a browser: values, links, fragments, the engine's sessions, the endpoint, app.py."""

import math
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
from browser_app import BEST, serving, tiny_backbone, write_preset
from gradio_client import Client
from PIL import Image

from qsched.comparison.result import Settings
from qsched.hub.source import BackboneError
from qsched.models.registry import SPECS
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.scoring.signatures import Badge
from qsched.server.engine import Engine
from qsched.settings import MOST_STEPS, SHAPE
from qsched.ui import fragments, values
from qsched.ui.compare import links
from qsched.ui.errors import reports_errors, sentence_for

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = [1.1, 0.9, 1.2, 0.8, 1, 1, 1, 1]


@pytest.fixture
def engine(tmp_path):
    write_preset(tmp_path)
    return Engine(load=tiny_backbone, presets=tmp_path)


@pytest.mark.parametrize(
    ("shape", "steps", "expected"),
    [
        ("constant", 4, Coefficients.constant(1.1, 1.1)),
        ("ramp", 4, Coefficients.ramp(1.1, 1.1)),
        ("ends", 4, Coefficients.ends((1.1, 0.9), (1.1, 0.9))),
        ("per-step", 4, Coefficients.per_step(NUMBERS[:4], NUMBERS[:4])),
        ("per-step", 1, Coefficients.constant(1.1, 1.1)),
    ],
)
def test_sliders_become_coefficients_and_back(shape, steps, expected):
    assert values.coefficients_from(shape, NUMBERS, NUMBERS, steps) == expected
    c_x, c_eps = values.sliders_from(expected, steps, shape)
    used = sum(values.visible_sliders(shape, steps))
    assert c_x[:used] == c_eps[:used] == NUMBERS[:used]
    assert len(c_x) == MOST_STEPS


def test_every_shape_survives_every_other_one():
    for coefficients in (
        Coefficients.constant(1.2, 0.9),
        Coefficients.ramp(1.3, 0.8),
        Coefficients.per_step([1.1, 1, 0.9], [1, 1.1, 1.2]),
    ):
        for shape in SHAPE.choices:
            rows = values.sliders_from(coefficients, 3, shape)
            values.coefficients_from(shape, *rows, 3).expand(3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0, -1, 7, None, "1", True])
def test_bad_coefficients_are_one_sentence(bad):
    with pytest.raises(ValueError, match=r"^c_eps must be a number from 0.05 to 5, not "):
        values.coefficients_from("constant", [1.0], [bad], 4)


def test_an_unknown_shape_is_named():
    with pytest.raises(ValueError, match="shape must be constant"):
        values.coefficients_from("spiral", [1.0], [1.0], 4)


def test_links_are_read_and_what_is_wrong_is_said():
    link = links.read_link(
        {"bits": "W3A8", "seed": "5", "steps": "2", "shape": "ramp", "c_x": "1.05", "c_eps": "0.9"}
    )
    assert link == links.Link(
        {"bits": "w3a8", "seed": 5, "steps": 2, "shape": "ramp", "c_x": (1.05,), "c_eps": (0.9,)}
    )
    broken = {
        "bits": "w5a5",
        "seed": "-1",
        "steps": "99",
        "shape": "o",
        "c_x": "nan",
        "c_eps": "9",
        "backbone": "x",
    }
    link = links.read_link(broken)
    assert len(link.notes) == len(broken) and not link.given


def test_links_carry_how_the_model_is_quantized_and_where_it_comes_from(engine, tmp_path):
    query = {
        "method": "svdquant",
        "group": "64",
        "scale": "tensor",
        "scope": "linear",
        "keep": "0",
        "decoder": "tiny",
    }
    link = links.read_link(query | {"source": str(tmp_path)})
    backbone, settings, *_ = links.resolve(engine, link)
    assert backbone == f"emoji-lcm@{tmp_path}" and settings.tiny_decoder and link.notes == ()
    assert settings.quantization == Quantization("w4a8", 64, "tensor", "linear", False, "svdquant")
    broken = {
        "method": "gptq",
        "group": "7",
        "scale": "row",
        "scope": "some",
        "keep": "maybe",
        "decoder": "x",
    }
    link = links.read_link(broken | {"source": "no/such/place"})
    assert len(link.notes) == 7 and not link.given
    assert links.resolve(engine, link)[1] == engine.opening()[0]
    link = links.read_link({"source": str(tmp_path)}, sources=False)
    assert "source" not in link.given and "source is ignored" in link.notes[0]


def test_a_link_with_the_wrong_number_of_steps_still_opens(engine):
    link = links.read_link({"shape": "per-step", "c_x": "1.1,1.2", "c_eps": "0.9", "steps": "4"})
    _, settings, coefficients, shape, _ = links.resolve(engine, link)
    assert shape == "per-step" and coefficients.expand(settings.steps)[0].tolist() == pytest.approx(
        [1.1, 1.2, 1.2, 1.2]
    )


def test_text_from_outside_is_escaped():
    chip = fragments.badge(Badge('<b>"x"', 1.0, 2.0, "<script>"))
    assert "<script>" not in chip and "<b>" not in chip
    assert "<i>" not in fragments.notes(("<i>",))
    assert "<i>" not in fragments.no_surface("<i>", "w4a8", 4)


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "+0.123"), (-0.1236, "\u22120.124"), (-0.0001, "0.000")]
)
def test_differences_have_a_sign(value, text):
    assert fragments.signed(value) == text


def test_the_score_table_says_everything_about_three_images(engine):
    comparison = engine.compare("a", "emoji-lcm", *engine.opening())
    badge = Badge("colour distortion", 20.0, 12.0, "Colours left full precision.")
    table = fragments.scores(replace(comparison, naive=replace(comparison.naive, badges=(badge,))))
    for word in (
        "CLIPScore",
        "CLIP-IQA",
        "JAQ",
        "SSIM",
        "PSNR",
        "Full precision",
        "Naive",
        "Q-Sched",
        badge.explanation,
    ):
        assert word in table
    assert f"{comparison.naive.jaq():.3f}" in table and f"{comparison.naive.psnr:.1f} dB" in table


def test_a_move_costs_the_remaining_steps_and_leaves_the_other_columns(engine):
    first = engine.compare("a", "emoji-lcm", *engine.opening())
    backbone = engine.backbone("emoji-lcm")
    before = backbone.calls
    moved = engine.rescale("a", Coefficients.constant(1.03, 0.97))
    assert backbone.calls - before == first.settings.steps - 1
    assert moved.full_precision is first.full_precision and moved.naive is first.naive
    engine.rescale("a", Coefficients.constant(1.03, 0.97))
    engine.rescale("a", Coefficients.identity())
    assert backbone.calls - before == first.settings.steps - 1


def test_sessions_are_apart_share_the_opening_and_are_forgotten(engine):
    engine.compare("a", "emoji-lcm", *engine.opening())
    calls = engine.backbone("emoji-lcm").calls
    engine.compare("b", "emoji-lcm", *engine.opening())
    assert engine.backbone("emoji-lcm").calls == calls, "the opening images are made once"
    engine.rescale("a", Coefficients.constant(1.2, 1.2))
    assert engine.session("b").comparison.coefficients == Coefficients.ramp(*BEST)
    assert engine.session("b").history is not engine.session("a").history
    engine.forget("a")
    assert engine.session("a") is None and engine.rescale("a", Coefficients.identity()) is None


def test_a_preset_counts_only_for_the_way_of_quantizing_it_was_made_for(engine):
    assert engine.preset("emoji-lcm", Quantization("w4a8"), 4) is not None
    assert engine.preset("emoji-lcm", Quantization("w4a8"), 3) is None
    write_preset(engine.presets, "w2a8")
    path = engine.presets / "emoji-lcm" / "w2a8-4steps.json"
    path.write_text(path.read_text().replace('"settings":{}', '"settings":{"group_size":64}'))
    assert engine.preset("emoji-lcm", Quantization("w2a8"), 4) is None
    assert engine.preset("emoji-lcm", Quantization("w2a8", 64), 4) is not None


def test_a_corrupt_preset_does_not_keep_the_page_from_opening(engine):
    (engine.presets / "emoji-lcm" / "w4a8-4steps.json").write_text("{")
    assert engine.opening()[1] == Coefficients.identity()


def test_the_device_line_says_what_is_simulated(engine):
    facts = engine.compare("a", "emoji-lcm", *engine.opening()).facts
    assert "CPU" in facts.device_name and ("real" in facts.arithmetic or "simulated" in facts.arithmetic)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("One thing. "), "One thing."),
        (BackboneError("The hub cannot be reached."), "The hub cannot be reached."),
        (MemoryError(), "out of memory"),
        (OSError(28, "No space left on device"), "disk is full"),
        (ZeroDivisionError("x"), "Something went wrong"),
    ],
)
def test_every_failure_is_one_sentence(error, says):
    assert says in sentence_for(error)

    def fails():
        raise error

    with pytest.raises(gr.Error, match=says):
        reports_errors(fails)()


@pytest.mark.slow
def test_the_endpoint_answers_with_a_record(tmp_path):
    write_preset(tmp_path)
    with serving(tmp_path) as (url, engine):
        client = Client(url, verbose=False)
        record = client.predict("fox, flat style", "w4a8", 3, 4, [], [], "emoji-lcm", api_name="/compare")
        assert record["settings"]["seed"] == 3 and record["coefficients"]["c_x"] == [BEST[0], 1.0]
        assert set(record["images"]) == {"full_precision", "naive", "qsched"}
        for image in record["images"].values():  # files that the client has downloaded
            with Image.open(image) as opened:
                assert opened.format == "PNG" and opened.size == (64, 64)
        plain = client.predict("fox", "w4a8", 3, 2, [1.0], [1.0], "emoji-lcm", api_name="/compare")
        number = client.predict("fox", "w4a8", 3, 2, 1.0, 1.0, "emoji-lcm", api_name="/compare")
        assert number["coefficients"] == plain["coefficients"]
        whole = client.predict("fox", "w4a8", 3.0, 2.0, [1.0], [1.0], "emoji-lcm", api_name="/compare")
        assert whole["settings"]["steps"] == 2 and whole["columns"][2]["jaq"] == plain["columns"][2]["jaq"]
        assert plain["columns"][1]["jaq"] == plain["columns"][2]["jaq"]
        with pytest.raises(Exception, match="type a prompt"):
            client.predict("", "w4a8", 0, 4, [], [], "emoji-lcm", api_name="/compare")
        more = {"method": "svdquant", "group_size": 16, "keep": False, "api_name": "/compare"}
        how = client.predict("fox", "w4a8", 3, 1, **more)["settings"]["quantization"]
        assert (how["method"], how["group_size"], how["keep_high_precision"]) == ("svdquant", 16, False)
        for wrong, sentence in (
            ({"method": "gptq"}, "The method must be plain, .* not .*gptq"),
            ({"decoder": "small"}, "full or tiny, not .*small"),
            ({"decoder": "tiny"}, "has no tiny decoder"),
            ({"steps": 2.5}, r"The step count must be a whole number from 1 to \d+, not 2\.5"),
            ({"seed": -1}, "The seed must be a whole number"),
            ({"group_size": 7.5}, "The group size must be a whole number"),
            ({"c_x": [9.0]}, r"c_x must be a number from 0\.05 to 5, not 9\.0"),
            ({"method": "<b>&"}, "torchao, not '<b>&'"),  # a script is no page: nothing is escaped
        ):
            with pytest.raises(Exception, match=sentence):
                client.predict("fox", "w4a8", **{"seed": 0, "steps": 1} | wrong, api_name="/compare")
        assert all("api-" not in session for session in engine.sessions)


def test_settings_of_every_backbone_open(engine):
    for spec in SPECS.values():
        settings, coefficients = engine.opening(spec.id)
        assert isinstance(settings, Settings) and settings.steps in spec.steps
        coefficients.expand(settings.steps)


def start_app(*arguments):
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "default::UserWarning"}
    return subprocess.Popen(
        [sys.executable, "app.py", *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
def test_app_py_serves_the_embedded_model_in_silence():
    app = start_app("--offline")
    line = app.stdout.readline()
    app.terminate()
    _, errors = app.communicate(timeout=60)
    assert "ready on http://127.0.0.1:" in line
    assert errors == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--backbone", "nothing"], "known are emoji-lcm"),
        (["--source", "/no/such/folder"], "/no/such/folder"),
        (["--port", "99999"], "'99999' is no whole number from 1 to 65535"),
        (["--port", "abc"], "'abc' is no whole number"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_app_py_answers_bad_input_with_one_line_and_exit_2(arguments, says, capsys, monkeypatch):
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    assert runpy.run_path(str(ROOT / "app.py"))["main"](arguments) == 2
    out, errors = capsys.readouterr()
    assert out == "" and says in errors and len(errors.strip().splitlines()) == 1


def test_two_apps_keep_their_images_apart(monkeypatch):
    keep_apart = runpy.run_path(str(ROOT / "app.py"))["keep_images_apart"]
    folders = set()
    for _ in range(2):
        monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
        keep_apart()
        folders.add(os.environ["GRADIO_TEMP_DIR"])
    assert len(folders) == 2 and all(Path(folder).is_dir() for folder in folders)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/mine")
    keep_apart()
    assert os.environ["GRADIO_TEMP_DIR"] == "/mine"
