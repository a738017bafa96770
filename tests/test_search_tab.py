"""The Search tab without a browser: cost, a search to its end, stop and resume, saved searches, what is taken away."""

import io
import json
import threading
import time
import zipfile
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from browser_app import tiny_backbone, write_preset
from PIL import Image

from qsched.backbones import Quantization
from qsched.coefficients import Coefficients
from qsched.comparison import NAIVE, QSCHED, Settings
from qsched.presets import load_preset
from qsched.schedulers import QSchedLCMScheduler
from qsched.search import StorageError
from qsched.ui import build_app, search_fragments, takeaway
from qsched.ui.engine import Engine
from qsched.ui.errors import sentence_for, spoken
from qsched.ui.search_inputs import options_from
from qsched.ui.search_taking import Taking
from qsched.ui.searches import Searches, default_file
from qsched.ui.turns import Turns

NAMES = "backbone bits steps strategy low high resolution shape seeds k source count text file group scale scope keep method".split()
USUAL = dict(
    zip(NAMES, ["emoji-lcm", "w4a8", 2, "shared", 0.9, 1.1, 3, "ramp", 1, 2, "built-in", 3, "", None, 0, "token", "all", True, "plain"],
        strict=True)
)  # fmt: skip


def settings(**changes):
    return list((USUAL | changes).values())


def visitor(name="a", host="127.0.0.1:7860", client="127.0.0.1", **headers):
    headers = {"host": host} | {key.replace("_", "-"): value for key, value in headers.items()}
    return SimpleNamespace(session_hash=name, headers=headers, client=SimpleNamespace(host=client), query_params={})


def click(x, y):
    return SimpleNamespace(index=[x, y])


@pytest.fixture
def tab(tmp_path):
    write_preset(tmp_path / "presets")
    engine = Engine(load=tiny_backbone, presets=tmp_path / "presets")
    return build_app(engine=engine, searches=str(tmp_path / "data" / "s.sqlite3")).search


def run(tab, name="a", **changes):
    """All updates of a search, in one."""
    merged = {}
    for updates in tab.start(visitor(name), False, *settings(**changes)):
        merged |= updates
    return merged


def html(updates, widget):
    value = updates[widget]
    return value["value"] if isinstance(value, dict) else value


def in_background(tab, **changes):
    """A search in a thread that ends it when asked: (thread, list of updates)."""
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(tab.start(visitor(), False, *settings(**changes))))
    thread.start()
    return thread, seen


def until(check):
    end = time.monotonic() + 30
    while not check():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# --- cost ----------------------------------------------------------------------------------------------------------


def test_the_cost_is_announced_without_an_image_and_measured_on_demand(tab):
    calls = tab.engine.backbone("emoji-lcm").calls
    told = html(tab.planned(*settings()), tab.inputs.plan)
    assert "9 points" in told and "27 images" in told and "30 denoiser calls" in told and "not measured" in told
    assert tab.engine.backbone("emoji-lcm").calls == calls
    waiting, found = tab.cost(*settings())
    assert "Measuring" in waiting[tab.inputs.plan] and "images/s" in found[tab.inputs.plan]
    assert "images/s" in html(tab.planned(*settings()), tab.inputs.plan), "the rate is remembered"
    assert not tab.searches.list(), "measuring stores no search"


def test_the_measured_rate_counts_every_denoiser_call(tab):
    backbone = tab.engine.backbone("emoji-lcm")
    before = backbone.calls
    list(tab.cost(*settings(steps=4, count=25)))
    assert backbone.calls - before >= 25 * (1 + 3), "an image whose calls come from memory would be too cheap"


def test_the_cost_says_what_is_stored_already(tab):
    run(tab)
    *_, found = tab.cost(*settings(resolution=5))
    assert "25 points</b> (9 of them stored)" in found[tab.inputs.plan]


# --- running -------------------------------------------------------------------------------------------------------


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
    np.testing.assert_array_equal(Image.open(end[r.picture]["value"]).size, (512, 512))


def test_the_heatmap_fills_while_it_runs(tab):
    counts = []
    for _ in tab.start(visitor(), False, *settings(resolution=5, count=25, steps=4)):
        counts.append(int(np.isfinite(tab.visit("a").shown.surface.jaq()).sum()))
    assert counts[-1] == 25 and len(set(counts)) >= 3 and counts == sorted(counts)


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
    until(lambda: tab.runner.running("a"))
    with pytest.raises(gr.Error, match="A search is running already"):
        next(spoken(tab.start)(visitor("b"), False, *settings()))
    tab.stop(visitor("b"))
    assert tab.runner.running("a"), "another page cannot stop it"
    tab.forget(visitor("a"))
    thread.join(10)
    assert not thread.is_alive() and tab.runner.running() is None, "closing the tab stops it"


def test_others_get_the_device_between_two_batches(tab):
    engine = tab.engine
    engine.compare("b", "emoji-lcm", *engine.opening())
    thread, _ = in_background(tab, resolution=9, count=25, steps=4)
    until(lambda: tab.runner.running("a") and tab.runner.running("a").frame().images > 25)
    before = tab.runner.running("a").frame().images
    for value in np.linspace(0.9, 1.1, 7):
        engine.rescale("b", Coefficients.constant(float(value), 1.0))
    assert tab.runner.running("a").frame().images - before <= 7 * 25 * 2, "seven drags wait for a few batches each"
    tab.stop(visitor())
    thread.join(10)


def test_turns_are_taken_in_the_order_of_asking():
    turns, order = Turns(), []

    def take(name):
        with turns, turns:
            order.append(name)

    with turns:
        threads = []
        for name in range(5):
            threads.append(threading.Thread(target=take, args=(name,)))
            threads[-1].start()
            until(lambda waiting=name + 1: len(turns._waiting) == waiting)
    with turns:
        order.append("last")
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3, 4, "last"]


@pytest.mark.parametrize("strategy", ["adaptive", "per-step"])
def test_guided_strategies_show_what_they_believe_of_the_other_cells(tab, strategy):
    from qsched.ui.search_view import figure, modelled

    run(tab, strategy=strategy, resolution=7)
    shown = tab.visit("a").shown
    known, computed = modelled(shown), np.isfinite(shown.surface.jaq())
    assert known.shape == (7, 7) and np.isfinite(known).all() and 5 <= computed.sum() < 49
    np.testing.assert_allclose(
        known[computed], shown.surface.jaq()[computed], atol=np.ptp(shown.surface.jaq()[computed])
    )
    picture = figure(shown, False)
    colour = lambda i, j: np.asarray(picture.image)[
        int(picture.cell_to_xy(i, j)[1]) + 12, int(picture.cell_to_xy(i, j)[0]) + 22
    ]
    light = np.array([[colour(i, j).min() for j in range(7)] for i in range(7)])
    assert np.median(light[~computed]) > np.median(light[computed]) + 60, "modelled cells are fainter"
    if strategy == "per-step":
        assert shown.options.steps == 2 and len(tab.searches.load(shown.name).coefficients.expand(2)[0]) == 2


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"strategy": "per-step", "steps": 1}, "With a single step"),
        ({"low": None}, "The lowest coefficient must be a number."),
        ({"low": 1.2}, "The range of the coefficients must satisfy"),
        ({"high": 1.7}, "The range must lie between 0.5 and 1.5"),
        ({"resolution": 3.5}, "must be a whole number"),
        ({"resolution": 500}, "must be 2 to 51, not 500"),
        ({"seeds": 0}, "seeds per prompt must be 1 to 100"),
        ({"k": -1}, "k must be a finite number"),
        ({"count": 26}, "must be 1 to 25, not 26"),
        ({"source": "own", "text": " \n"}, "Write at least one prompt"),
        ({"source": "file"}, "Choose a file"),
        ({"steps": 3000}, "steps must be 1 to 1000"),
    ],
)
def test_settings_that_cannot_run_are_one_sentence_before_anything_starts(tab, changes, sentence):
    with pytest.raises(gr.Error, match=sentence):
        next(spoken(tab.start)(visitor(), False, *settings(**changes)))
    assert sentence in html(tab.planned(*settings(**changes)), tab.inputs.plan)
    assert tab.runner.running() is None


def test_prompts_come_from_text_and_from_files(tab, tmp_path):
    own = options_from(tab.engine, *settings(source="own", text="a fox\n\n a  house \na fox"))[1]
    assert list(own.prompts) == ["a fox", "a house"]
    (tmp_path / "p.yaml").write_text("- a fox\n- a house\n")
    assert (
        list(options_from(tab.engine, *settings(source="file", file=str(tmp_path / "p.yaml")))[1].prompts)
        == own.prompts
    )
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"^bad\.yaml is not a prompt file"):
        options_from(tab.engine, *settings(source="file", file=str(tmp_path / "bad.yaml")))


def test_a_storage_that_cannot_be_used_is_one_sentence_without_its_password(tab, tmp_path):
    (tmp_path / "file").write_text("")
    for where in (str(tmp_path / "file" / "s.sqlite3"), "postgresql://me:secret@127.0.0.1:1/x"):
        broken = Searches(where)
        with pytest.raises(StorageError) as caught:
            broken.list() if "://" in where else broken.url
        assert "secret" not in str(caught.value) and sentence_for(caught.value) == str(caught.value)
        tab.searches = tab.runner.searches = broken
        end = run(tab)
        assert 'data-state="failed"' in html(end, tab.results.progress)
        assert 'class="note"' in end[tab.results.notes] and "secret" not in end[tab.results.notes]


def test_a_space_that_lends_its_gpu_names_the_command(tab, monkeypatch):
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    updates = tab.planned(*settings())
    assert "python -m qsched search --backbone emoji-lcm --bits w4a8 --steps 2" in updates[tab.inputs.plan]
    assert updates[tab.inputs.start] == gr.update(interactive=False)
    with pytest.raises(gr.Error, match="lends its GPU"):
        next(tab.start(visitor(), False, *settings()))


def test_searches_are_kept_in_the_users_folder_and_on_a_space_in_a_temporary_one(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert default_file() == tmp_path / "qsched" / "searches.sqlite3"
    assert Searches().list() == [] and not any(tmp_path.iterdir()), "looking makes no file"
    monkeypatch.setenv("SPACE_ID", "me/space")
    assert tmp_path not in default_file().parents
    assert Searches("postgresql://h/db")._url == "postgresql://h/db"


# --- from Compare and back -----------------------------------------------------------------------------------------


def test_the_tab_opens_with_the_settings_of_compare_and_keeps_changes(tab):
    i = tab.inputs
    opening = tab.engine.opening()
    tab.engine.compare("a", "emoji-lcm", Settings("fox", 3, 2, Quantization("w3a8", 64)), opening[1])
    updates = tab.open(visitor(), *settings())
    assert (updates[i.bits], updates[i.steps]["value"]) == ("w3a8", 2)
    assert i.bits not in tab.open(visitor(), *settings(bits="w2a8")), "what was chosen by hand stays"
    tab.engine.compare("a", "emoji-lcm", *opening)
    assert tab.open(visitor(), *settings())[i.bits] == "w4a8"


def test_use_this_shows_the_coefficients_in_compare_with_its_prompt_and_seed(tab):
    settings_, coefficients = tab.engine.opening()
    tab.engine.compare("a", "emoji-lcm", Settings("a blue house", 5, 4, settings_.quantization), coefficients)
    run(tab, bits="w3a8", group=64)
    updates = tab.use(visitor(), False, NAIVE, QSCHED)
    comparison, shown = tab.engine.session("a").comparison, tab.visit("a").shown
    assert comparison.coefficients == shown.coefficients
    assert (comparison.settings.prompt, comparison.settings.seed, comparison.settings.steps) == ("a blue house", 5, 2)
    assert comparison.settings.quantization == Quantization("w3a8", 64)
    c = tab.compare.controls
    assert updates[c.bits] == "w3a8" and updates[c.group_size] == 64 and updates[c.shape]["value"] == "ramp"
    assert updates[c.c_x[0]]["value"] == pytest.approx(shown.point[0])
    outputs = {*tab.compare.shown, *tab.compare.chosen, *c.quantization[1:]}
    assert set(updates) <= outputs


def test_a_clicked_cell_is_what_is_taken(tab):
    from qsched.ui.search_view import figure

    run(tab)
    shown = tab.visit("a").shown
    updates = tab.select(visitor(), False, click(*figure(shown, False).cell_to_xy(2, 0)))
    assert shown.cell == (0.9, 1.1) and "Chosen cell" in updates[tab.results.best]
    preset = tab.preset(visitor())
    assert preset.coefficients == Coefficients.ramp(0.9, 1.1) and preset.provenance["chosen"] == "by hand"
    assert preset.provenance["best"]["jaq"] == pytest.approx(shown.surface.jaq()[2, 0])
    tab.select(visitor(), False, click(2, 2))  # the margin is no cell
    assert shown.cell == (0.9, 1.1)
    i, j = shown.surface.nearest(*shown.point)
    tab.select(visitor(), False, click(*figure(shown, False).cell_to_xy(i, j)))
    assert shown.cell is None and shown.coefficients == shown.best[0]


def test_a_preset_and_a_scheduler_can_be_taken_away(tab):
    run(tab)
    taking = Taking(tab)
    preset = load_preset(taking.save(visitor()))
    assert preset.coefficients == tab.visit("a").shown.coefficients and preset.provenance["points_done"] == 9
    with zipfile.ZipFile(taking.export(visitor())) as archive:
        names = {name.split("/")[1]: name for name in archive.namelist()}
        assert set(names) == {"scheduler_config.json", "schedulers.py", "README.md"}
        config = json.load(io.TextIOWrapper(archive.open(names["scheduler_config.json"])))
    assert QSchedLCMScheduler.from_config(config).config.c_x == list(preset.coefficients.c_x)


def test_a_preset_is_replaced_only_when_asked_and_only_by_someone_at_the_machine(tab):
    taking, r = Taking(tab), tab.results
    run(tab, steps=4)
    path = tab.engine.presets / "emoji-lcm" / "w4a8-4steps.json"
    old = path.read_bytes()
    asked = taking.keep(visitor())
    assert (
        asked[r.replacing]["visible"] and "w4a8-4steps.json already" in asked[r.question] and path.read_bytes() == old
    )
    taking.leave()
    for stranger in (
        visitor(client="192.168.1.7"),
        visitor(host="abc.gradio.live"),
        visitor(x_forwarded_for="1.2.3.4"),
    ):
        assert not takeaway.is_local(stranger)
        for handler in (taking.keep, taking.replace):
            with pytest.raises(gr.Error, match="Only a visitor on the server"):
                spoken(handler)(stranger)
    assert path.read_bytes() == old
    taking.replace(visitor())
    assert load_preset(path).coefficients == tab.visit("a").shown.coefficients
    assert tab.engine.best_known("emoji-lcm", tab.engine.opening()[0]) == tab.visit("a").shown.coefficients
    run(tab, steps=2)
    taking.keep(visitor())  # none to replace
    assert (path.parent / "w4a8-2steps.json").exists()


def test_push_lists_what_it_would_publish_and_a_stranger_needs_a_token(tab, monkeypatch):
    taking = Taking(tab)
    with pytest.raises(gr.Error, match="nothing to take"):
        taking.pusher(True)(visitor(), "me/x", "", False)
    run(tab)
    told = taking.pusher(True)(visitor(), "me/x", "", False)
    assert "would be published at" in told and "me/x" in told and "scheduler_config.json" in told
    with pytest.raises(gr.Error, match="no name for a repository"):
        spoken(taking.pusher(True))(visitor(), "nonsense", "", False)
    pushed = []
    monkeypatch.setattr(
        takeaway, "publish", lambda *args, **options: pushed.append((args, options)) or takeaway.Published("u", ("f",))
    )
    with pytest.raises(gr.Error, match="may not use its server"):
        spoken(taking.pusher(False))(visitor(client="10.0.0.9"), "me/x", " ", False)
    assert not pushed
    told = taking.pusher(False)(visitor(client="10.0.0.9"), "me/x", "hf_1", True)
    assert "are published" in told and pushed[0][0][2] == "me/x"
    assert pushed[0][1] == {"private": True, "dry_run": False, "token": "hf_1"}


# --- saved searches ------------------------------------------------------------------------------------------------


def test_saved_searches_are_listed_shown_compared_and_deleted(tab):
    r = tab.results
    run(tab)
    run(tab, "b", bits="w2a8", resolution=4)
    newest, oldest = (search.name for search in sorted(tab.searches.list(), key=lambda s: "w2a8" not in s.name))
    listed = tab.open(visitor("c"), *settings())[r.saved]["choices"]
    assert {name for _, name in listed} == {newest, oldest}
    text = next(text for text, name in listed if name == oldest)
    assert all(word in text for word in ("emoji-lcm", "W4A8", "2 steps", "shared", "9/9 points", "JAQ"))

    one = tab.choose(visitor("c"), [oldest], False)
    assert tab.visit("c").shown.name == oldest and not one[r.compare]["visible"] and one[r.delete]["interactive"]
    assert 'data-done="9"' in one[r.progress] and one[r.use]["interactive"]

    two = tab.choose(visitor("c"), ["gone", oldest, newest], False)
    assert two[r.saved] == [oldest, newest] and two[r.compare]["visible"] and "same colours" in two[r.scale]
    for side, bits in zip(r.definitions, ("W4A8", "W2A8"), strict=True):
        assert bits in two[side] and "numbers for tests" in two[side] and "c<sub>x</sub>" in two[side]
    assert two[r.sides[0]]["value"] != two[r.sides[1]]["value"]

    assert (
        "Delete these 2 searches with 25 finished points?" in tab.ask_delete(visitor("c"), [oldest, newest])[r.doomed]
    )
    assert len(tab.searches.list()) == 2, "asking deletes nothing"
    tab.ask_delete(visitor("c"), [oldest])
    gone = tab.delete(visitor("c"))
    assert [search.name for search in tab.searches.list()] == [newest] and gone[r.saved]["value"] == []
    with pytest.raises(gr.Error, match="not stored any more"):
        spoken(tab.choose)(visitor("c"), [oldest], False)


def test_a_running_search_is_not_deleted_and_saved_ones_show_below_it(tab):
    run(tab, "b")
    (finished,) = [search.name for search in tab.searches.list()]
    thread, _ = in_background(tab, resolution=9, count=25, steps=4)
    until(lambda: tab.visit("a").shown and np.isfinite(tab.visit("a").shown.surface.jaq()).sum() >= 1)
    live = tab.visit("a").shown.name
    chosen = tab.choose(visitor(), [finished], False)
    assert chosen[tab.results.compare]["visible"] and tab.visit("a").shown.name == live
    with pytest.raises(gr.Error, match="is running"):
        tab.ask_delete(visitor(), [live])
        tab.delete(visitor())
    tab.stop(visitor())
    thread.join(10)


def test_text_from_a_storage_is_escaped(tab):
    run(tab, source="own", text="<script>alert(1)</script>")
    updates = tab.choose(visitor(), [tab.searches.list()[0].name], False)
    assert "<script>" not in updates[tab.results.caption] and "&lt;script&gt;" in updates[tab.results.caption]
    assert "<b>x" not in search_fragments.wrong("<b>x")
