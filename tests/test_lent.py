"""A GPU that is lent for seconds, as on a ZeroGPU Space: what runs where, and what each call costs."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from browser_app import given, tiny_backbone, write_preset
from lent_gpu import Lender
from search_visits import run, search_tab, settings, visitor

from qsched.comparison.comparison import Settings
from qsched.hub.source import BackboneError
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.server.engine import Engine
from qsched.server.lent import MOST_S, POINTS, neighbours, seconds, snapped
from qsched.ui.page import build_app

LARGE = "lcm-dreamshaper-v7"
FOX = Settings("fox", 0, 4, Quantization("w4a8"))
REQUEST = SimpleNamespace(session_hash="a", query_params={})


@pytest.fixture
def lender():
    return Lender()


@pytest.fixture
def engine(tmp_path, lender):
    write_preset(tmp_path)
    return Engine(load=tiny_backbone, presets=tmp_path, lend=lender)


def test_the_embedded_model_asks_for_no_gpu_and_runs_on_the_cpu(tmp_path, lender):
    asked = []
    load = lambda id, device="auto", source=None: asked.append(device) or tiny_backbone(id)
    engine = Engine(load=load, presets=tmp_path, lend=lender)
    engine.warm_up()
    engine.compare("a", "emoji-lcm", FOX, Coefficients.identity())
    engine.rescale("a", Coefficients.constant(1.05, 0.95))
    assert asked == ["cpu"] and not lender.calls and not engine.lends("emoji-lcm")


def test_a_large_model_computes_in_the_process_that_has_the_gpu(engine, lender):
    comparison = engine.compare("a", LARGE, FOX, Coefficients.constant(1.04, 0.96))
    here = Engine(load=tiny_backbone, presets=engine.presets)
    same = here.compare("a", LARGE, FOX, Coefficients.constant(1.04, 0.96))
    for lent, own in zip(comparison.columns, same.columns, strict=True):
        assert lent.image.tobytes() == own.image.tobytes() and lent.jaq() == own.jaq()
    assert comparison.facts == same.facts and not engine.is_loaded(LARGE)
    assert [asked for asked, _ in lender.calls] == [engine.call_seconds(LARGE, 4)[0]]


def test_a_drag_asks_once_for_the_points_around_it(engine, lender):
    engine.compare("a", LARGE, FOX, Coefficients.identity())
    sent = len(lender.calls)
    moved = engine.rescale("a", Coefficients.constant(1.043, 0.957))
    assert moved.coefficients == Coefficients.constant(1.04, 0.96) and len(lender.calls) == sent + 1
    for c_x, c_eps in ((1.05, 0.94), (1.0, 1.0), (1.081, 0.921), (1.02, 0.99)):
        engine.rescale("a", Coefficients.constant(c_x, c_eps))
    assert len(lender.calls) == sent + 1, "the neighbours were there already"
    own = Engine(load=tiny_backbone, presets=engine.presets)
    own.compare("a", LARGE, FOX, Coefficients.constant(1.02, 0.98))
    found = engine.rescale("a", Coefficients.constant(1.02, 0.98)).qsched
    assert found.image.tobytes() == own.session("a").comparison.qsched.image.tobytes()
    engine.rescale("a", Coefficients.constant(1.3, 0.7))
    assert len(lender.calls) == sent + 2
    assert lender.calls[-1][1] < 1.2 * lender.calls[sent][1], "older images are not sent along"


@pytest.mark.parametrize(
    "shape",
    [
        Coefficients.constant(1.043, 0.957),
        Coefficients.ramp(1.043, 0.957),
        Coefficients.ends((1.043, 0.93), (0.957, 1.05)),
        Coefficients.per_step((1.043, 1.0, 0.9), (0.957, 1.0, 1.1)),
    ],
)
def test_neighbours_keep_the_shape_and_end_with_the_point_itself(shape):
    points = list(neighbours(shape))
    assert len(points) == len(set(points)) == POINTS and points[-1] == snapped(shape)
    assert {point.shape for point in points} == {shape.shape}
    assert snapped(snapped(shape)) == snapped(shape)


def test_what_is_asked_for_is_short_and_bounded():
    assert seconds(3, 4, loaded=True) <= 15 < seconds(3, 4, loaded=False)
    assert seconds(POINTS, 16, loaded=True) == MOST_S
    assert seconds(POINTS, 4, loaded=True) > seconds(3, 4, loaded=True)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (Settings(" ", 0, 4), "type a prompt"),
        (Settings("fox", 0, 99), "steps, not 99"),
        (Settings("fox", 0, 4, Quantization("w5a5")), "w5a5"),
        (Settings("fox", 0, 4, tiny_decoder=True), "tiny decoder"),
    ],
)
def test_what_cannot_be_computed_is_refused_before_a_gpu_is_asked_for(engine, lender, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        engine.compare("a", LARGE, wrong, Coefficients.identity())
    with pytest.raises(ValueError, match="steps"):
        engine.compare("a", LARGE, FOX, Coefficients.per_step([1.1] * 3, [1.0] * 3))
    assert not lender.calls


def test_errors_come_back_as_sentences(tmp_path, lender):
    def load(id, device="auto", source=None):
        raise BackboneError("The weights cannot be read.")

    engine = Engine(load=load, presets=tmp_path, lend=lender)
    with pytest.raises(BackboneError, match="weights cannot be read"):
        engine.compare("a", LARGE, FOX, Coefficients.identity())


def page(engine):
    return build_app(engine=engine, searches=str(engine.presets / "searches.sqlite3"))


def test_the_page_works_without_a_free_gpu_and_says_so(engine, lender):
    tab = page(engine).compare
    shown = tab.open(REQUEST, False, "naive", "Q-Sched")
    assert shown[tab.results.images[0]] and not lender.calls
    engine.compare("a", LARGE, FOX, Coefficients.identity())
    notes = tab.sync(REQUEST, False, "naive", "Q-Sched")[tab.results.notes]
    assert "lends a GPU" in notes and f"asks for {engine.call_seconds(LARGE, 4)[0]} s" in notes
    lender.refuses = True
    c, before = tab.controls, engine.session("a")
    moved = tab.adjust(REQUEST, given(tab) | {c.c_x[0]: 1.2})
    assert "No GPU is free: try again in a minute." in moved[c.hint] and "<b>" not in moved[c.hint]
    with pytest.raises(gr.Error, match="No GPU"):
        engine.compare("a", LARGE, Settings("house", 1, 4, Quantization("w4a8")), Coefficients.identity())
    assert engine.session("a") is before, "the last good state stays"


def test_record_about_and_export_need_no_gpu(engine, lender):
    from qsched.ui.about_tab import snippet
    from qsched.ui.compare.save import record_file

    engine.compare("a", LARGE, FOX, Coefficients.constant(1.04, 0.96))
    calls = len(lender.calls)
    assert LARGE in Path(record_file(engine.session("a"))).read_text()
    assert "QSchedLCMScheduler" in snippet(engine, "a")
    assert len(lender.calls) == calls and not engine.is_loaded(LARGE)


def test_the_embedded_model_can_be_searched_and_a_large_one_names_the_command(tmp_path, lender):
    tab = search_tab(tmp_path)
    tab.engine._lent = lender
    assert tab.results.image in run(tab)
    updates = tab.planned(settings(tab, backbone=LARGE, steps=4))
    assert f"python -m qsched search --backbone {LARGE} --bits w4a8 --steps 4" in updates[tab.inputs.plan]
    assert updates[tab.inputs.start] == gr.update(interactive=False)
    with pytest.raises(gr.Error, match="lends its GPU"):
        next(tab.start(visitor(), settings(tab, backbone=LARGE, steps=4)))


@pytest.mark.slow
def test_the_app_starts_and_answers_under_the_packages_own_patches(tmp_path):
    """With `spaces` as on a Space: its patches of torch in the main process, and nobody who lends a GPU."""
    code = """
import os, threading
os.environ |= {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": "http://127.0.0.1:9"}
import spaces
from spaces.zero import torch as patches
patches.patch()
import torch
assert torch.cuda.is_available()
from types import SimpleNamespace
from qsched.ui.page import build_app
app = build_app(searches=os.environ["SEARCHES"])
app.engine.warm_up()
request, shown = SimpleNamespace(session_hash="a", query_params={}), {}
def visit():
    shown.update(app.compare.open(request, False, "naive", "Q-Sched"))
    app.compare.best(request)
    shown["moved"] = app.engine.rescale("a", app.engine.opening()[1])
thread = threading.Thread(target=visit); thread.start(); thread.join()
assert shown[app.compare.results.images[0]] and shown["moved"].facts.device == "cpu"
print("works")
"""
    environment = os.environ | {"SEARCHES": str(tmp_path / "s.sqlite3"), "HF_HUB_OFFLINE": "1"}
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip().endswith("works"), done.stderr
