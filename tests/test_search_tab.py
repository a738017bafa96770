"""The Search tab without a browser: cost, a search to its end, stop and resume, bad input."""

import contextvars
import os
import threading
import time

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from search_visits import html, in_background, run, search_tab, settings, until, visitor

from qsched.sampling.coefficients import Coefficients
from qsched.search.study import StorageError
from qsched.server.device_thread import DeviceThread
from qsched.server.search_runner import Stopped
from qsched.server.searches import Searches, default_file
from qsched.ui.errors import reports_errors, sentence_for
from qsched.ui.search.inputs import options_from


@pytest.fixture
def tab(tmp_path):
    return search_tab(tmp_path)


# --- cost ---------------------------------------------------------------------------------------------------


def test_the_cost_is_announced_without_an_image_and_measured_on_demand(tab):
    calls = tab.engine.backbone("emoji-lcm").calls
    told = html(tab.planned(settings(tab)), tab.inputs.plan)
    assert (
        "9 points" in told and "27 images" in told and "30 denoiser calls" in told and "not measured" in told
    )
    assert tab.engine.backbone("emoji-lcm").calls == calls
    waiting, found = tab.cost(settings(tab))
    assert "Measuring" in waiting[tab.inputs.plan] and "images/s" in found[tab.inputs.plan]
    assert "images/s" in html(tab.planned(settings(tab)), tab.inputs.plan), "the rate is remembered"
    assert not tab.searches.list(), "measuring stores no search"


def test_what_compare_quantizes_otherwise_is_said_in_words(tab):
    i = tab.inputs
    assert html(tab.planned(settings(tab)), i.quantizer) == ""
    changed = dict(group_size=64, activation_scale="tensor", scope="linear", keep=False, method="svdquant")
    text = html(tab.planned(settings(tab, **changed)), i.quantizer)
    for words in ("SVDQuant", "per 64 weights", "per tensor", "linear layers only", "no layer kept"):
        assert words in text


def test_the_measured_rate_counts_every_denoiser_call(tab):
    backbone, images = tab.engine.backbone("emoji-lcm"), []
    decode, before = backbone.decode, backbone.calls
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "decode", lambda latents: images.append(len(latents)) or decode(latents))
        list(tab.cost(settings(tab, steps=4, count=25)))
    assert images and backbone.calls - before >= sum(images) * (4 - 1), (
        "an image whose calls come from memory would be too cheap"
    )


def test_the_cost_says_what_is_stored_already(tab):
    run(tab)
    *_, found = tab.cost(settings(tab, resolution=5))
    assert "25 points</b> (9 of them stored)" in found[tab.inputs.plan]


# --- running ------------------------------------------------------------------------------------------------


def test_a_search_runs_to_its_end_and_shows_the_best(tab):
    r, end = tab.results, run(tab)
    progress = html(end, r.progress)
    assert 'data-state="done"' in progress and 'data-done="9"' in progress and "width:100.00%" in progress
    shown = tab.visit("a").shown
    best = shown.surface.best(2)
    assert shown.best == (Coefficients.ramp(*best[:2]), pytest.approx(best[2])) and shown.point == best[:2]
    assert f"{best[2]:.3f}" in html(end, r.best) and end[r.use]["interactive"]
    assert Image.open(end[r.surface]["value"]).size == (840, 756)
    assert end[tab.inputs.start]["interactive"] and not end[tab.inputs.stop]["interactive"]
    assert [choice[1] for choice in end[r.saved]["choices"]] == end[r.saved]["value"] == [shown.name]
    np.testing.assert_array_equal(Image.open(end[r.image]["value"]).size, (512, 512))


@pytest.mark.slow
def test_the_heatmap_fills_while_it_runs(tab):
    counts = []
    for _ in tab.start(visitor(), settings(tab, resolution=5, count=25, steps=4)):
        counts.append(int(np.isfinite(tab.visit("a").shown.surface.jaq()).sum()))
    assert counts[-1] == 25 and len(set(counts)) >= 3 and counts == sorted(counts)


@pytest.mark.slow
def test_stop_keeps_what_is_done_and_start_goes_on(tab):
    whole = dict(resolution=6, count=25, steps=4)
    thread, seen = in_background(tab, **whole)
    until(lambda: tab.visit("a").shown and np.isfinite(tab.visit("a").shown.surface.jaq()).sum() >= 2)
    tab.stop(visitor())
    thread.join(10)
    assert not thread.is_alive() and 'data-state="stopped"' in html(seen[-1], tab.results.progress)
    (saved,) = tab.searches.list()
    assert 2 <= saved.done < 36
    backbone = tab.engine.backbone("emoji-lcm")
    before = backbone.calls
    end = run(tab, **whole)
    assert 'data-done="36"' in html(end, tab.results.progress)
    spent, left = backbone.calls - before, 36 - saved.done
    assert spent <= 25 * (1 + 3 * left) + 4, "finished points are not computed again"
    (saved,) = tab.searches.list()
    assert saved.done == 36


def test_a_finished_search_starts_again_at_its_end(tab):
    run(tab)
    backbone = tab.engine.backbone("emoji-lcm")
    before = backbone.calls
    end = run(tab)
    assert 'data-state="done" data-done="9"' in html(end, tab.results.progress)
    assert np.isfinite(tab.visit("a").shown.surface.jaq()).all() and backbone.calls - before <= 2


def test_a_second_search_is_refused_with_a_sentence(tab):
    thread, _ = in_background(tab, resolution=9, count=25, steps=4)
    until(lambda: tab.runner.running_for("a"))
    with pytest.raises(gr.Error, match="A search is running already"):
        next(reports_errors(tab.start)(visitor("b"), settings(tab)))
    tab.stop(visitor("b"))
    assert tab.runner.running_for("a"), "another page cannot stop it"
    tab.forget(visitor("a"))
    thread.join(10)
    assert not thread.is_alive() and tab.runner.running() is None, "closing the tab stops it"


def test_a_method_that_looks_at_the_model_first_does_so_in_pieces(tab, monkeypatch):
    pieces, calibrating = [], tab.engine.calibrating

    def watched(*arguments):
        for piece in calibrating(*arguments):
            pieces.append(piece)
            yield piece

    monkeypatch.setattr(tab.engine, "calibrating", watched)
    assert 'data-done="9"' in run(tab, method="mixdq")[tab.results.progress]
    assert pieces, "others have the device between two pieces"


def test_others_get_the_device_between_two_batches(tab):
    engine = tab.engine
    engine.compare("b", "emoji-lcm", *engine.opening())
    thread, _ = in_background(tab, resolution=9, count=25, steps=4)
    until(lambda: tab.runner.running_for("a") and tab.runner.running_for("a").frame().images > 25)
    before = tab.runner.running_for("a").frame().images
    for value in np.linspace(0.9, 1.1, 7):
        engine.rescale("b", Coefficients.constant(float(value), 1.0))
    assert tab.runner.running_for("a").frame().images - before <= 7 * 25 * 2, (
        "seven drags wait for a few batches each"
    )
    tab.stop(visitor())
    thread.join(10)


def test_the_device_runs_what_it_is_given_in_the_order_of_asking():
    device, order, threads, began, go_on = DeviceThread(), [], [], threading.Event(), threading.Event()
    first = threading.Thread(target=device.run, args=(lambda: (began.set(), go_on.wait(10)),))
    first.start()
    began.wait(10)
    for name in range(5):
        nested = lambda name=name: device.run(lambda: order.append((name, threading.current_thread().name)))
        threads.append(threading.Thread(target=device.run, args=(nested,)))
        threads[-1].start()
        until(lambda waiting=name + 1: len(device._urgent) == waiting)
    go_on.set()
    for thread in [first, *threads]:
        thread.join(5)
    assert order == [(name, "device") for name in range(5)] and device.run(lambda: 7) == 7


@pytest.mark.parametrize(
    ("patience", "expected"),
    [
        (60.0, ["drag", "drag", "batch", "batch"]),
        (0.2, ["batch", "drag", "drag", "batch"]),  # both batches have waited long enough
        (0.0, ["batch", "batch", "drag", "drag"]),
    ],
)
def test_while_visitors_wait_one_batch_runs_every_so_often(monkeypatch, patience, expected):
    monkeypatch.setattr("qsched.server.device_thread.PATIENCE_S", patience)
    device, order, began, go_on = DeviceThread(), [], threading.Event(), threading.Event()
    threads = [threading.Thread(target=device.run, args=(lambda: (began.set(), go_on.wait(10)),))]
    threads[0].start()
    began.wait(10)
    for name in ("batch", "batch", "drag", "drag"):
        work = (lambda name=name: order.append(name), name == "batch")
        threads.append(threading.Thread(target=device.run, args=work))
        threads[-1].start()
        until(lambda: len(device._urgent) + len(device._patient) == len(threads) - 1)
    time.sleep(min(patience, 0.3))
    go_on.set()
    for thread in threads:
        thread.join(5)
    assert order == expected


def test_the_batches_of_a_search_are_patient(tab, monkeypatch):
    known, ran = tab.engine.device_thread.run, []
    note = lambda function, patient=False: ran.append(patient) or known(function, patient)
    monkeypatch.setattr(tab.engine.device_thread, "run", note)
    run(tab)
    assert ran.count(True) >= 3


def test_the_device_hands_errors_and_context_to_and_fro():
    device, visitor_of = DeviceThread(), contextvars.ContextVar("visitor")
    visitor_of.set("a")
    assert device.run(visitor_of.get) == "a"
    with pytest.raises(Stopped):
        device.run(lambda: (_ for _ in ()).throw(Stopped))
    assert device.run(lambda: "and goes on") == "and goes on"
    read, write = os.pipe()
    if (child := os.fork()) == 0:  # a forked process has no such thread
        os.write(write, device.run(lambda: threading.current_thread().name).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 99) == b"MainThread"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["adaptive", "ends", "per-step"])
def test_guided_strategies_show_what_they_believe_of_the_other_cells(tab, strategy):
    from qsched.ui.search.view import figure, modelled

    run(tab, strategy=strategy, resolution=7)
    shown = tab.visit("a").shown
    known, computed = modelled(shown), np.isfinite(shown.surface.jaq())
    assert known.shape == (7, 7) and np.isfinite(known).all() and 5 <= computed.sum() < 49
    np.testing.assert_allclose(
        known[computed], shown.surface.jaq()[computed], atol=np.ptp(shown.surface.jaq()[computed])
    )
    image = figure(shown, False)
    colour = lambda i, j: np.asarray(image.image)[
        int(image.value_to_xy(image.c_x[j], image.c_eps[i])[1]) + 12,
        int(image.value_to_xy(image.c_x[j], image.c_eps[i])[0]) + 22,
    ]
    light = np.array([[colour(i, j).min() for j in range(7)] for i in range(7)])
    assert np.median(light[~computed]) > np.median(light[computed]) + 60, "modelled cells are fainter"
    if strategy == "per-step":
        assert shown.options.steps == 2 and len(tab.searches.load(shown.name).coefficients.expand(2)[0]) == 2


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"strategy": "per-step", "steps": 1}, "With a single step"),
        ({"low": None}, "The lowest coefficient must be a number from 0.5 to 1.5, not left empty"),
        ({"low": 1.2}, "The range of the coefficients must satisfy"),
        ({"high": 1.7}, "The highest coefficient must be a number from 0.5 to 1.5"),
        ({"resolution": 3.5}, "must be a whole number"),
        ({"resolution": 500}, "must be a whole number from 2 to 51, not 500"),
        ({"seeds": 0}, "seeds per prompt must be a whole number from 1 to 100"),
        ({"k": -1}, "k must be a number from 0 to 5"),
        ({"count": 26}, "must be a whole number from 1 to 25, not 26"),
        ({"source": "own", "text": " \n"}, "Write at least one prompt"),
        ({"source": "file"}, "Choose a file"),
        ({"steps": 3000}, "step count must be a whole number from 1 to 1000"),
    ],
)
def test_settings_that_cannot_run_are_one_sentence_before_anything_starts(tab, changes, sentence):
    with pytest.raises(gr.Error, match=sentence):
        next(reports_errors(tab.start)(visitor(), settings(tab, **changes)))
    assert sentence in html(tab.planned(settings(tab, **changes)), tab.inputs.plan)
    assert tab.runner.running() is None


def test_prompts_come_from_text_and_from_files(tab, tmp_path):
    own = options_from(tab.engine, tab.given(settings(tab, source="own", text="a fox\n\n a  house \na fox")))[
        1
    ]
    assert list(own.prompts) == ["a fox", "a house"]
    (tmp_path / "p.yaml").write_text("- a fox\n- a house\n")
    assert (
        list(
            options_from(tab.engine, tab.given(settings(tab, source="file", file=str(tmp_path / "p.yaml"))))[
                1
            ].prompts
        )
        == own.prompts
    )
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"^bad\.yaml is not a prompt file"):
        options_from(tab.engine, tab.given(settings(tab, source="file", file=str(tmp_path / "bad.yaml"))))


def test_a_storage_that_cannot_be_used_is_one_sentence_without_its_password(tab, tmp_path):
    (tmp_path / "file").write_text("")
    for where in (str(tmp_path / "file" / "s.sqlite3"), "postgresql://me:secret@127.0.0.1:1/x"):
        broken = Searches(where)
        with pytest.raises(StorageError) as caught:
            broken.list() if "://" in where else broken.url
        assert "secret" not in str(caught.value) and sentence_for(caught.value).endswith(".")
        tab.searches = tab.runner.searches = broken
        end = run(tab)
        assert 'data-state="failed"' in html(end, tab.results.progress)
        assert 'class="note"' in end[tab.results.notes] and "secret" not in end[tab.results.notes]
        assert str(tmp_path) not in sentence_for(caught.value) + end[tab.results.notes]


def test_searches_are_kept_in_the_users_folder_and_on_a_space_in_a_temporary_one(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert default_file() == tmp_path / "qsched" / "searches.sqlite3"
    assert Searches().list() == [] and not any(tmp_path.iterdir()), "looking makes no file"
    monkeypatch.setenv("SPACE_ID", "me/space")
    assert tmp_path not in default_file().parents
    assert Searches("postgresql://h/db")._url == "postgresql://h/db"


@pytest.mark.slow
def test_only_the_device_computes(tab):
    """A second thread that computes gets workers of its own, and both then run at half their speed."""
    foreign = lambda: len(os.listdir("/proc/self/task")) - threading.active_count()
    once = {"count": 2, "strategy": "adaptive", "resolution": 5}
    run(tab, **once)  # numpy's libraries start threads of their own, once
    before, after = foreign(), []

    def search():
        assert tab.results.image in run(tab, **once, seeds=2)
        after.append(foreign())

    thread = threading.Thread(target=search)
    thread.start()
    thread.join()
    assert after == [before]
