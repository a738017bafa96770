"""A GPU that is lent for seconds, as on a ZeroGPU Space: what runs where, and what each call costs."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import gradio as gr
import pytest
from browser_app import given, serving, tiny_backbone, write_preset
from gradio_client import Client
from lent_gpu import Lender
from search_visits import run, search_tab, settings, visitor

from qsched.comparison.result import Settings
from qsched.hub.source import BackboneError
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.server.engine import Engine
from qsched.server.lent import MOST_S, POINTS, at_hand, neighbours, seconds, snapped
from qsched.ui.page import build_app

LARGE = "lcm-dreamshaper-v7"
FOX = Settings("fox", 0, 4, Quantization("w4a8"))
ROOT = Path(__file__).resolve().parents[1]
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
    assert [asked for asked, _ in lender.calls] == [engine.lent.costs(engine.session("a"))[0]]


@pytest.mark.slow
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


@pytest.mark.parametrize("fail", [lambda: 1 / 0, lambda: os._exit(1)])
def test_what_nobody_foresaw_on_the_gpu_is_a_sentence_too(tmp_path, lender, fail):
    engine = Engine(load=lambda *args, **kwargs: fail(), presets=tmp_path, lend=lender)
    with pytest.raises(BackboneError, match=r"failed on the lent GPU \((ZeroDivisionError|Killed)\)"):
        engine.compare("a", LARGE, FOX, Coefficients.identity())


def test_a_lender_that_does_not_answer_is_a_sentence(tmp_path):
    def lend(task, duration):
        def unreachable(job):
            raise ConnectionRefusedError(111)

        return unreachable

    engine = Engine(load=tiny_backbone, presets=tmp_path, lend=lend)
    with pytest.raises(BackboneError, match="No GPU could be asked for just now"):
        engine.compare("a", LARGE, FOX, Coefficients.identity())


def test_no_point_is_computed_that_a_session_has_no_room_for(engine, lender, monkeypatch):
    comparison = engine.compare("a", LARGE, FOX, Coefficients.identity())
    whole = engine.lent.costs(engine.session("a"))
    assert whole[2] == POINTS
    monkeypatch.setattr(
        "qsched.server.sessions.SESSION_BYTES", comparison.nbytes + 6 * comparison.qsched.nbytes
    )
    assert engine.lent.costs(engine.session("a"))[2] == 6
    middle = Coefficients.constant(1.1, 0.9)
    engine.rescale("a", middle)
    assert lender.calls[-1][0] == engine.lent.costs(engine.session("a"))[1] < whole[1]
    assert all(at_hand(engine.session("a"), point) for point in tuple(neighbours(middle))[-6:])
    assert not at_hand(engine.session("a"), Coefficients.constant(1.14, 0.86))


@pytest.mark.slow
def test_nobody_waits_for_the_gpu_of_another_and_one_visitors_answers_keep_their_order(tmp_path, lender):
    write_preset(tmp_path)
    with serving(tmp_path, lend=lender) as (url, engine):
        client = Client(url, verbose=False)
        lender.free.clear()
        waits = client.submit("fox", backbone=LARGE, api_name="/compare")
        try:
            while not lender.calls:
                time.sleep(0.01)
            assert client.submit("fox", api_name="/compare").result(60)["settings"]["prompt"] == "fox"
            assert not waits.done()
        finally:
            lender.free.set()
        assert waits.result(60)["backbone"]["id"] == LARGE
        engine.compare("a", LARGE, FOX, Coefficients.identity())
        lender.free.clear()
        house = replace(FOX, prompt="house")
        first = Thread(target=engine.compare, args=("a", LARGE, house, Coefficients.identity()))
        then = Thread(target=engine.rescale, args=("a", Coefficients.constant(1.2, 0.8)))
        asked = len(lender.calls)
        first.start()
        while len(lender.calls) == asked:
            time.sleep(0.01)
        then.start()
        time.sleep(0.3)  # it waits, or asks with what was there before
        lender.free.set()
        first.join(), then.join()
        now = engine.session("a").comparison
        assert now.settings == house and now.coefficients == Coefficients.constant(1.2, 0.8)


def page(engine):
    return build_app(engine=engine, searches=str(engine.presets / "searches.sqlite3"))


def test_the_page_works_without_a_free_gpu_and_says_so(engine, lender):
    tab = page(engine).compare
    shown = tab.open(REQUEST, False, "naive", "Q-Sched")
    assert shown[tab.results.images[0]] and not lender.calls
    engine.compare("a", LARGE, FOX, Coefficients.identity())
    notes = tab.sync(REQUEST, False, "naive", "Q-Sched")[tab.results.notes]
    assert "lends a GPU" in notes and f"asks for {engine.lent.costs(engine.session('a'))[0]} s" in notes
    lender.refuses = True
    c, before = tab.controls, engine.session("a")
    moved = tab.adjust(REQUEST, given(tab) | {c.c_x[0]: 1.2})
    assert "No GPU is free: try again in a minute." in moved[c.hint] and "<b>" not in moved[c.hint]
    with pytest.raises(gr.Error, match="No GPU"):
        engine.compare("a", LARGE, Settings("house", 1, 4, Quantization("w4a8")), Coefficients.identity())
    assert engine.session("a") is before, "the last good state stays"


@pytest.mark.slow
def test_while_a_hand_moves_or_types_no_gpu_is_asked_for(engine, lender, monkeypatch):
    monkeypatch.setattr("qsched.ui.compare.view.QUICK_S", 60)
    tab = page(engine).compare
    c, caption = tab.controls, tab.results.captions[2]
    assert "data-quick" in tab.open(REQUEST, False, "naive", "Q-Sched")[c.device]
    engine.compare("a", LARGE, FOX, Coefficients.identity())
    assert "data-quick" not in tab.sync(REQUEST, False, "naive", "Q-Sched")[c.device]
    calls = len(lender.calls)
    for c_x in (1.1, 1.2, 1.3):
        moved = tab.follow(REQUEST, given(tab) | {c.c_x[0]: c_x})
        assert "data-draft" in moved[caption] and tab.results.images[2] not in moved
    assert len(lender.calls) == calls
    lender.refuses = True
    refused = tab.adjust(REQUEST, given(tab) | {c.c_x[0]: 1.3})
    assert "No GPU" in refused[c.hint] and "data-draft" not in refused[caption], "nor is it asked again"
    lender.refuses = False
    assert tab.results.images[2] in tab.adjust(REQUEST, given(tab) | {c.c_x[0]: 1.3})
    sent = len(lender.calls)
    moved = tab.follow(REQUEST, given(tab) | {c.c_x[0]: 1.32, c.drafts: False})
    assert tab.results.images[2] in moved and len(lender.calls) == sent, "it is at hand"


def test_record_about_and_export_need_no_gpu(engine, lender):
    from qsched.ui.compare.save import record_file
    from qsched.ui.compare.script import script_of

    engine.compare("a", LARGE, FOX, Coefficients.constant(1.04, 0.96))
    calls = len(lender.calls)
    assert LARGE in Path(record_file(engine.session("a"))).read_text()
    assert "QSchedLCMScheduler" in script_of(engine, "a")
    assert len(lender.calls) == calls and not engine.is_loaded(LARGE)


@pytest.mark.slow
def test_the_embedded_model_can_be_searched_and_a_large_one_names_the_command(tmp_path, lender):
    tab = search_tab(tmp_path)
    tab.engine.lent = lender
    assert tab.results.image in run(tab)
    updates = tab.planned(settings(tab, backbone=LARGE, steps=4))
    assert f"python -m qsched search --backbone {LARGE} --bits w4a8 --steps 4" in updates[tab.inputs.plan]
    assert updates[tab.inputs.start] == gr.update(interactive=False)
    with pytest.raises(gr.Error, match="lends its GPU"):
        next(tab.start(visitor(), settings(tab, backbone=LARGE, steps=4)))


@pytest.mark.slow
def test_a_large_model_is_loaded_for_the_gpu_under_the_packages_own_patches(tmp_path):
    """In the thread that imports, as the package wants it; a lender that nobody reaches is a sentence."""
    code = """
import os, sys, threading
os.environ |= {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": "http://127.0.0.1:9"}
import spaces
from spaces.zero import torch as patches
sys.path.insert(0, "tests")
from tiny_models import folder_of
from qsched.hub.source import BackboneError
from qsched.ui.page import build_app
engine = build_app("sdxl-turbo", source=str(folder_of("sdxl-turbo")), searches=os.environ["SEARCHES"]).engine
engine.warm_up()
loaded = engine._backbones["sdxl-turbo"]
parts = loaded.denoiser, loaded.pipe.vae, loaded.text_encoders
on = lambda: {str(weight.device) for part in parts for weight in part.parameters()}
assert on() == {"cuda:0"}, on()
patches.pack()
said = []
def visit():
    try:
        engine.compare("a", "sdxl-turbo", *engine.opening())
    except BackboneError as error:
        said.append(str(error))
    engine.compare("b", "emoji-lcm", *engine.opening("emoji-lcm"))
thread = threading.Thread(target=visit); thread.start(); thread.join()
assert said == ["No GPU could be asked for just now: try again in a minute."], said
assert on() == {"cuda:0"}, "the embedded model shares no device with it"
assert engine.session("b").comparison.facts.device == "cpu"
print("works")
"""
    assert under_patches(code, tmp_path).endswith("works")


@pytest.mark.slow
def test_the_app_starts_and_answers_under_the_packages_own_patches(tmp_path):
    """With `spaces` as on a Space: its patches of torch in the main process, and nobody who lends a GPU."""
    code = """
import os, threading
os.environ |= {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": "http://127.0.0.1:9"}
import spaces
import torch
assert torch.cuda.is_available()
from types import SimpleNamespace
from qsched.ui.page import build_app
app = build_app(searches=os.environ["SEARCHES"])
app.engine.warm_up()
request, shown = SimpleNamespace(session_hash="a", query_params={}), {}
def visit():
    shown.update(app.compare.open(request, False, "naive", "Q-Sched"))
    app.compare.best(request, False)
    shown["moved"] = app.engine.rescale("a", app.engine.opening()[1])
thread = threading.Thread(target=visit); thread.start(); thread.join()
assert shown[app.compare.results.images[0]] and shown["moved"].facts.device == "cpu"
print("works")
"""
    assert under_patches(code, tmp_path).endswith("works")


def under_patches(code, folder):
    """What a process of its own prints, as on a Space without a network."""
    environment = os.environ | {"SEARCHES": str(folder / "s.sqlite3"), "HF_HUB_OFFLINE": "1"}
    environment |= {"ZEROGPU_OFFLOAD_DIR": str(folder / "tensors")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
