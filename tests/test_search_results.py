"""What the Search tab does with a result, without a browser: use, choose, take away, compare, delete."""

import io
import json
import zipfile

import gradio as gr
import numpy as np
import pytest
from search_visits import click, in_background, run, search_tab, settings, until, visitor

from qsched.comparison.result import NAIVE, QSCHED, Settings
from qsched.presets import load_preset
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.schedulers import QSchedLCMScheduler
from qsched.ui.errors import reports_errors
from qsched.ui.search import export_files
from qsched.ui.search import fragments as search_fragments
from qsched.ui.search.export_handlers import ExportHandlers


@pytest.fixture
def tab(tmp_path):
    return search_tab(tmp_path)


# --- from Compare and back ----------------------------------------------------------------------------------


def test_the_tab_opens_with_the_settings_of_compare_and_keeps_changes(tab):
    i = tab.inputs
    opening = tab.engine.opening()
    tab.engine.compare("a", "emoji-lcm", Settings("fox", 3, 2, Quantization("w3a8", 64)), opening[1])
    updates = tab.open(visitor(), settings(tab))
    assert (updates[i.bits], updates[i.steps]["value"]) == ("w3a8", 2)
    assert i.bits not in tab.open(visitor(), settings(tab, bits="w2a8")), "what was chosen by hand stays"
    tab.engine.compare("a", "emoji-lcm", *opening)
    assert tab.open(visitor(), settings(tab))[i.bits] == "w4a8"


def test_use_this_shows_the_coefficients_in_compare_with_its_prompt_and_seed(tab):
    settings_, coefficients = tab.engine.opening()
    tab.engine.compare("a", "emoji-lcm", Settings("a blue house", 5, 4, settings_.quantization), coefficients)
    run(tab, bits="w3a8", group_size=64)
    updates = tab.use(visitor(), False, NAIVE, QSCHED)
    comparison, shown = tab.engine.session("a").comparison, tab.visit("a").shown
    assert comparison.coefficients == shown.coefficients
    assert (comparison.settings.prompt, comparison.settings.seed, comparison.settings.steps) == (
        "a blue house",
        5,
        2,
    )
    assert comparison.settings.quantization == Quantization("w3a8", 64)
    c = tab.compare.controls
    assert updates[c.bits] == "w3a8" and updates[c.group_size] == 64 and updates[c.shape]["value"] == "ramp"
    assert updates[c.c_x[0]]["value"] == pytest.approx(shown.point[0])
    outputs = {*tab.compare.shown, *tab.compare.chosen, *c.quantization.values()}
    assert set(updates) <= outputs


@pytest.mark.slow
@pytest.mark.parametrize("source", ["me/tuned@v2", None])
def test_use_this_takes_the_backbone_from_where_the_search_had_it(tab, source):
    backbone = "emoji-lcm" if source is None else f"emoji-lcm@{source}"
    run(tab, backbone=backbone)
    (search,) = tab.searches.list()
    assert search.source == source and backbone + " " in search_fragments.label(search)
    tab.engine.compare("b", "emoji-lcm@me/other", *tab.engine.opening())
    tab.choose(visitor("b"), [search.name], False)
    assert tab.preset(visitor("b")).provenance["source"] == source
    updates = tab.use(visitor("b"), False, NAIVE, QSCHED)
    assert tab.engine.session("b").backbone == backbone and updates[tab.compare.controls.source] == (
        source or ""
    )


def test_the_source_that_the_page_was_started_with_needs_no_second_model(tab):
    tab.engine.source = "me/tuned"
    run(tab)
    (search,) = tab.searches.list()
    assert search.source == "me/tuned"
    tab.choose(visitor(), [search.name], False)
    assert tab.visit("a").shown.backbone == "emoji-lcm"


def test_a_clicked_cell_is_what_is_taken(tab):
    from qsched.ui.search.view import figure

    run(tab)
    shown = tab.visit("a").shown
    updates = tab.select(visitor(), False, click(*figure(shown, False).value_to_xy(0.9, 1.1)))
    assert shown.cell == (0.9, 1.1) and "Chosen cell" in updates[tab.results.best]
    preset = tab.preset(visitor())
    assert preset.coefficients == Coefficients.ramp(0.9, 1.1) and preset.provenance["chosen"] == "by hand"
    assert preset.provenance["best"]["jaq"] == pytest.approx(shown.surface.jaq()[2, 0])
    tab.select(visitor(), False, click(2, 2))  # the margin is no cell
    assert shown.cell == (0.9, 1.1)
    i, j = shown.surface.nearest(*shown.point)
    tab.select(
        visitor(),
        False,
        click(*figure(shown, False).value_to_xy(shown.surface.c_x[j], shown.surface.c_eps[i])),
    )
    assert shown.cell is None and shown.coefficients == shown.best[0]


def test_a_preset_and_a_scheduler_can_be_taken_away(tab):
    run(tab)
    taking = ExportHandlers(tab)
    preset = load_preset(taking.save(visitor()))
    assert preset.coefficients == tab.visit("a").shown.coefficients and preset.provenance["points_done"] == 9
    with zipfile.ZipFile(taking.export(visitor())) as archive:
        names = {name.split("/")[1]: name for name in archive.namelist()}
        assert set(names) == {"scheduler_config.json", "schedulers.py", "README.md"}
        config = json.load(io.TextIOWrapper(archive.open(names["scheduler_config.json"])))
    assert QSchedLCMScheduler.from_config(config).config.c_x == list(preset.coefficients.c_x)


@pytest.mark.slow
def test_a_preset_is_replaced_only_when_asked(tab):
    taking, r = ExportHandlers(tab), tab.results
    run(tab, steps=4)
    path = tab.engine.presets / "emoji-lcm" / "w4a8-4steps.json"
    old = path.read_bytes()
    asked = taking.save_as_best_known(visitor())
    assert (
        asked[r.replacing]["visible"]
        and "w4a8-4steps.json already" in asked[r.question]
        and path.read_bytes() == old
    )
    taking.cancel_replace()
    assert path.read_bytes() == old
    taking.replace(visitor())
    assert load_preset(path).coefficients == tab.visit("a").shown.coefficients
    assert tab.engine.best_known("emoji-lcm", tab.engine.opening()[0]) == tab.visit("a").shown.coefficients
    run(tab, steps=2)
    taking.save_as_best_known(visitor())  # none to replace
    assert (path.parent / "w4a8-2steps.json").exists()


def test_push_lists_what_it_would_publish(tab, monkeypatch):
    taking = ExportHandlers(tab)
    with pytest.raises(gr.Error, match="nothing to take"):
        taking.pusher(True)(visitor(), "me/x", "", False)
    run(tab)
    told = taking.pusher(True)(visitor(), "me/x", "", False)
    assert "would be published at" in told and "me/x" in told and "scheduler_config.json" in told
    with pytest.raises(gr.Error, match="no name for a repository"):
        reports_errors(taking.pusher(True))(visitor(), "nonsense", "", False)
    pushed = []
    monkeypatch.setattr(
        export_files,
        "publish",
        lambda *args, **options: pushed.append((args, options)) or export_files.Published("u", ("f",)),
    )
    for token, used in (("hf_1", "hf_1"), (" ", None)):
        told = taking.pusher(False)(visitor(), "me/x", token, True)
        assert "are published" in told and pushed[-1][0][2] == "me/x"
        assert pushed[-1][1] == {"private": True, "dry_run": False, "token": used}


# --- saved searches -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_saved_searches_are_listed_shown_compared_and_deleted(tab):
    r = tab.results
    run(tab)
    run(tab, "b", bits="w2a8", resolution=4)
    newest, oldest = (
        search.name for search in sorted(tab.searches.list(), key=lambda s: "w2a8" not in s.name)
    )
    listed = tab.open(visitor("c"), settings(tab))[r.saved]["choices"]
    assert {name for _, name in listed} == {newest, oldest}
    text = next(text for text, name in listed if name == oldest)
    assert all(word in text for word in ("emoji-lcm", "W4A8", "2 steps", "shared", "9/9 points", "JAQ"))

    one = tab.choose(visitor("c"), [oldest], False)
    assert (
        tab.visit("c").shown.name == oldest and not one[r.compare]["visible"] and one[r.delete]["interactive"]
    )
    assert 'data-done="9"' in one[r.progress] and one[r.use]["interactive"]

    two = tab.choose(visitor("c"), ["gone", oldest, newest], False)
    assert two[r.saved] == [oldest, newest] and two[r.compare]["visible"] and "same colours" in two[r.scale]
    for side, bits in zip(r.definitions, ("W4A8", "W2A8"), strict=True):
        assert bits in two[side] and "numbers for tests" in two[side] and "c<sub>x</sub>" in two[side]
    assert two[r.sides[0]]["value"] != two[r.sides[1]]["value"]

    assert (
        "Delete these 2 searches with 25 finished points?"
        in tab.ask_delete(visitor("c"), [oldest, newest])[r.to_delete]
    )
    assert len(tab.searches.list()) == 2, "asking deletes nothing"
    tab.ask_delete(visitor("c"), [oldest])
    gone = tab.delete(visitor("c"))
    assert [search.name for search in tab.searches.list()] == [newest] and gone[r.saved]["value"] == []
    with pytest.raises(gr.Error, match="not stored any more"):
        reports_errors(tab.choose)(visitor("c"), [oldest], False)


@pytest.mark.slow
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
