"""k on the page without a browser: weighing anew costs no denoiser call, and every number and link carries
it.
"""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from browser_app import AXIS, BEST, tiny_backbone, write_preset

from qsched.presets import save_preset
from qsched.sampling.coefficients import Coefficients
from qsched.scoring import jaq
from qsched.server.engine import Engine
from qsched.settings import K
from qsched.surfaces.surface import Surface
from qsched.ui import fragments
from qsched.ui.api import public_compare
from qsched.ui.compare import links, surface_view
from qsched.ui.compare import save as downloads
from qsched.ui.compare.map_events import MapEvents
from qsched.ui.compare.tab import CompareTab
from qsched.ui.page import build_app

QUALITY_BEST = (0.88, 1.12)


def two_optima(folder) -> None:
    """A preset whose alignment is best at BEST and whose quality is best at QUALITY_BEST, with noise over 8
    prompts.
    """
    preset = write_preset(folder)
    x, e = np.meshgrid(AXIS, AXIS)
    rng, hill = np.random.default_rng(0), lambda point: (x - point[0]) ** 2 + (e - point[1]) ** 2
    alignment = (60 - 400 * hill(BEST))[..., None] + rng.normal(size=(11, 11, 8))
    quality = (0.7 - 2 * hill(QUALITY_BEST))[..., None] + rng.normal(scale=0.01, size=(11, 11, 8))
    surface = Surface(AXIS, AXIS, alignment, quality)
    texts = [f"fox {i}" for i in range(8)]
    save_preset(
        replace(preset, surface=surface, prompts=texts, provenance={"k": 2.0}),
        folder / "emoji-lcm" / "w4a8-4steps.json",
    )


@pytest.fixture
def engine(tmp_path):
    two_optima(tmp_path)
    return Engine(load=tiny_backbone, presets=tmp_path)


@pytest.fixture
def tab(engine):
    with gr.Blocks():
        return CompareTab(engine, gr.Checkbox(False))


REQUEST = SimpleNamespace(session_hash="a", query_params={})


def test_another_k_weighs_what_is_there(engine, tab):
    tab.open(REQUEST, False, "naive", "Q-Sched")
    calls = engine.backbone("emoji-lcm").calls
    before = engine.session("a").comparison
    shown = MapEvents(tab).weigh(REQUEST, 4.5, False)
    assert engine.backbone("emoji-lcm").calls == calls
    assert engine.session("a").comparison is before and engine.session("a").k == 4.5
    column = before.qsched
    assert f"{jaq([column.alignment], [column.quality], 4.5):.3f}" in shown[tab.results.scores]
    assert "k = 4.5" in shown[tab.results.scores] and "k = 4.5" in shown[tab.results.definition]
    assert "k = 4.5" in shown[tab.results.stability] and '"k":4.5' in shown[tab.results.surface]["value"]


def test_best_known_is_the_optimum_at_the_sessions_k(engine, tab):
    tab.open(REQUEST, False, "naive", "Q-Sched")
    preset = engine.preset("emoji-lcm", engine.opening()[0].quantization, 4)
    assert engine.session("a").comparison.coefficients == preset.coefficients, "at its own k the preset's own"
    MapEvents(tab).weigh(REQUEST, 5.0, False)
    tab.best(REQUEST, False)
    chosen = engine.session("a").comparison.coefficients
    assert chosen == preset.at(*preset.surface.best(5.0)[:2]) != preset.coefficients
    MapEvents(tab).weigh(REQUEST, 2.0, False)
    tab.best(REQUEST, False)
    assert engine.session("a").comparison.coefficients == preset.coefficients


def test_k_stays_with_the_session_through_drags_and_new_images(engine, tab):
    tab.open(REQUEST, False, "naive", "Q-Sched")
    MapEvents(tab).weigh(REQUEST, 0.5, False)
    c = tab.controls
    given = dict.fromkeys(c.c_x, 1.02) | dict.fromkeys(c.c_eps, 0.97) | {c.shape: "constant"}
    moved = tab.adjust(REQUEST, given)
    assert "k = 0.5" in moved[tab.results.scores]
    settings = engine.session("a").comparison.settings
    engine.compare("a", "emoji-lcm", replace(settings, seed=5), Coefficients.identity())
    assert engine.session("a").k == 0.5
    assert json.loads(open(downloads.record_file(engine.session("a"))).read())["scorer"]["k"] == 0.5


def test_a_number_still_being_typed_changes_nothing_and_an_unknown_session_is_said(engine, tab):
    tab.open(REQUEST, False, "naive", "Q-Sched")
    assert (
        set(MapEvents(tab).weigh(REQUEST, math.nan, False)) == {tab.results.surface}
        and engine.session("a").k == 2
    )
    with pytest.raises(ValueError, match="k must be a number from 0 to 5"):
        MapEvents(tab).weigh(REQUEST, 7, False)
    with pytest.raises(gr.Error, match="press Generate"):
        MapEvents(tab).weigh(SimpleNamespace(session_hash="nobody"), 1.0, False)
    assert engine.sessions.weigh("nobody", 1.0) is None


@pytest.mark.parametrize("bad", [-0.1, 5.1, math.nan, None, "2", True])
def test_a_bad_k_is_one_sentence(bad):
    with pytest.raises(ValueError, match=r"^k must be a number from 0 to 5, not .*\.$"):
        K.check(bad)


def test_links_carry_k(engine):
    assert links.read_link({"k": "3.5"}).given["k"] == 3.5 and links.read_link({"k": "0"}).given["k"] == 0
    for broken in ("nan", "9", "x"):
        link = links.read_link({"k": broken})
        assert "k" not in link.given and "k was not understood" in link.notes[0]
    *_, coefficients, _, k = links.resolve(engine, links.read_link({"k": "5"}))
    assert k == 5 and coefficients != engine.opening()[1], "the best known at that k"
    assert links.resolve(engine, links.Link())[-1] == 2


def test_whoever_stands_at_the_best_known_follows_it_at_the_same_k(engine, tmp_path):
    engine.compare("a", "emoji-lcm", *engine.opening())
    held = engine.sessions.weigh("a", 5.0)
    settings = replace(
        held.comparison.settings, quantization=replace(held.comparison.settings.quantization, bits="w2a8")
    )
    assert links.followed(engine, held, "emoji-lcm", settings) is None, "it stands at another k's optimum"
    write_preset(tmp_path, "w2a8")
    engine.rescale("a", engine.best_known("emoji-lcm", held.comparison.settings, 5.0))
    assert links.followed(engine, engine.session("a"), "emoji-lcm", settings) == Coefficients.ramp(*BEST)


def test_the_endpoint_takes_k(engine):
    answer = public_compare(engine)("fox", k=0.0)
    assert answer["scorer"]["k"] == 0
    assert answer["columns"][0]["jaq"] == pytest.approx(math.log(answer["columns"][0]["alignment"]))
    with pytest.raises(ValueError, match="k must be"):
        public_compare(engine)("fox", k=9)


def test_the_browser_knows_every_cells_numbers(engine, tab):
    preset = engine.preset("emoji-lcm", engine.opening()[0].quantization, 4)
    tab.open(REQUEST, False, "naive", "Q-Sched")
    held = surface_view.choose(engine, "a", engine.sessions.weigh("a", 1.0))
    text = surface_view.map_shown(held, surface_view.figure(engine, held), False)
    data = json.loads(text[text.index("{") : text.rindex("}") + 1])
    known = preset.surface.uncertainty(1.0)
    assert np.allclose(data["jaq"], preset.surface.jaq(1.0).ravel(), atol=1e-4)
    assert np.allclose(data["interval"][0], known.low.ravel(), atol=1e-4)
    assert np.allclose(data["difference"][2], known.difference_high.ravel(), atol=1e-4)
    assert data["different"] == known.different.ravel().astype(int).tolist()


def test_the_line_below_the_surface_says_how_sure_the_optimum_is(engine):
    found = engine.preset("emoji-lcm", engine.opening()[0].quantization, 4).surface.stability(k=2.0)
    line = fragments.stability(found, "how it <is> tested")
    assert f"wins in {100 * found['wins']:.0f} % of resamples" in line and "different from plain" in line
    assert "&lt;is&gt;" in line and f"{found['region']['c_x'][0]:.2f}" in line
    assert "cannot be said" in fragments.stability(found | {"wins": None})
    assert "Its gain" not in fragments.stability(found | {"gain": None})


def test_coefficients_beyond_the_map_are_said_to_be_that(engine):
    preset = engine.preset("emoji-lcm", engine.opening()[0].quantization, 4)
    best = preset.surface.best(2.0)[2]
    assert fragments.beyond(preset, 2.0) == ""
    found = replace(preset, provenance={"strategy": "per-step", "best": {"jaq": best + 0.25}, "k": 2.0})
    assert fragments.beyond(found, 2.0) == "", "the search per step stayed at its pair"
    found.coefficients = Coefficients.per_step([0.9, 1.0, 1.1, 1.0], [1.0] * 4)
    assert f"JAQ {best + 0.25:.3f}" in fragments.beyond(found, 2.0) and "+0.250" in fragments.beyond(
        found, 2.0
    )
    assert fragments.beyond(found, 3.0) == "", "at another k the best known is a cell"


def test_the_sweep_is_drawn_only_for_those_who_look(engine, tab):
    tab.open(REQUEST, False, "naive", "Q-Sched")
    assert MapEvents(tab).resweep(REQUEST, False, False) == {tab.results.sweep_open: False}
    opened = MapEvents(tab).sweep(REQUEST, False)
    assert opened[tab.results.sweep_open] and opened[tab.results.sweep_image].endswith(".png")
    MapEvents(tab).weigh(REQUEST, 1.0, False)
    again = MapEvents(tab).resweep(REQUEST, False, True)
    assert again[tab.results.sweep_image] != opened[tab.results.sweep_image]


def test_ids_of_the_new_widgets(engine):
    ids = {block.elem_id for block in build_app(engine=engine).blocks.values()}
    assert {"k", "stability", "k-sweep", "k-sweep-image", "surface", "scores"} <= ids
