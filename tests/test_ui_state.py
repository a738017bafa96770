"""One state on the page: what an answer shows belongs together, and the newest answer is what stays."""

import re
from types import SimpleNamespace
from urllib.parse import parse_qsl

import gradio as gr
import pytest
from browser_app import given, tiny_backbone, write_preset

from qsched.comparison.result import Settings
from qsched.presets import find_preset, save_preset
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.server.engine import Engine
from qsched.ui import values
from qsched.ui.compare import links
from qsched.ui.compare.map_events import MapEvents

REQUEST = SimpleNamespace(session_hash="a", query_params={}, client=None, headers={})
MOST_POSITIONAL = 6


def version(tab, updates):
    return int(re.search(r'data-version="(\d+)"', updates[tab.controls.state])[1])


def shown(updates, widget):
    value = updates[widget]
    return value["value"] if isinstance(value, dict) else value


def test_every_answer_carries_the_state_that_it_was_computed_for(engine, tab):
    c = tab.controls
    answers = [
        tab.generate(REQUEST, given(tab, bits="w2a8")),
        tab.adjust(REQUEST, given(tab)),
        tab.reset(REQUEST, "constant", False),
        tab.reshape(REQUEST, "ends", False),
        MapEvents(tab).weigh(REQUEST, 1.0, False),
        tab.sync(REQUEST, False, "naive", "Q-Sched"),
    ]
    seen = [version(tab, answer) for answer in answers]
    assert seen[:5] == sorted(set(seen[:5])) and seen[5] == seen[4] == engine.session("a").version
    assert "data-final" in answers[-1][c.state] and "data-final" not in answers[0][c.state]


def test_a_preset_is_read_once_for_as_long_as_its_file_stays(engine, tab, monkeypatch):
    read = []
    find = lambda *asked: read.append(asked) or find_preset(*asked)
    monkeypatch.setattr("qsched.server.known.find_preset", find)
    tab.best(REQUEST, False)
    assert not read, "the page has opened with it"
    write_preset(engine.presets, "w4a8")
    tab.generate(REQUEST, given(tab, prompt="a cup"))
    assert len(read) == 1


def test_a_pick_of_what_is_shown_already_computes_nothing(engine, tab):
    calls, before = engine.backbone("emoji-lcm").calls, engine.session("a")
    same = tab.picked(REQUEST, given(tab, prompt="typed, and not asked for yet", seed=None))
    assert set(same) == set(tab.download_note) and engine.session("a") is before
    other = tab.picked(REQUEST, given(tab, bits="w2a8"))
    assert tab.results.scores in other and engine.backbone("emoji-lcm").calls > calls
    assert tab.results.scores not in tab.picked(REQUEST, given(tab, bits="w2a8"))


def test_an_answer_does_not_send_back_what_the_page_shows_and_somebody_may_be_typing_over(tab):
    c = tab.controls
    opened = tab.open(REQUEST, False, "naive", "Q-Sched")
    assert c.prompt in opened and c.source not in opened
    answer = tab.generate(REQUEST, given(tab, backbone="sdxl-turbo", prompt="a fox", seed=7))
    assert c.examples in answer and not {c.prompt, c.seed, c.source, c.backbone} & set(answer)


def test_an_answer_shows_the_newest_state_and_not_the_one_it_was_asked_for(engine, tab, monkeypatch):
    """The sliders are dragged while Generate computes: its answer must not bring the old third image back."""
    compare = engine.compare

    def dragged_meanwhile(*arguments):
        compare(*arguments)
        engine.rescale("a", Coefficients.constant(1.31, 0.72))

    monkeypatch.setattr(engine, "compare", dragged_meanwhile)
    answer = tab.generate(REQUEST, given(tab, bits="w2a8"))
    held = engine.session("a")
    assert held.comparison.coefficients == Coefficients.constant(1.31, 0.72)
    assert (shown(answer, tab.controls.c_x[0]), shown(answer, tab.controls.c_eps[0])) == (1.31, 0.72)
    assert version(tab, answer) == held.version and shown(answer, tab.controls.shape) == "constant"


def test_coefficients_start_at_1_where_nothing_is_known_and_come_back_where_something_is(engine, tab):
    best = engine.best_known("emoji-lcm", engine.session("a").comparison.settings)
    assert engine.session("a").comparison.coefficients == best
    for change in ({"method": "svdquant"}, {"bits": "w4a16"}, {"group_size": 32}):
        answer = tab.generate(REQUEST, given(tab, **change))
        assert engine.session("a").comparison.coefficients.is_identity, change
        assert "start at 1" in answer[tab.results.notes] and answer[tab.controls.search]["visible"]
        answer = tab.generate(REQUEST, given(tab))
        assert (
            engine.session("a").comparison.coefficients == best and not answer[tab.controls.search]["visible"]
        )


def test_own_coefficients_stay_with_whoever_chose_them(engine, tab):
    c = tab.controls
    own = dict.fromkeys(c.c_x, 1.11) | dict.fromkeys(c.c_eps, 0.87) | {c.shape: "constant"}
    tab.adjust(REQUEST, given(tab) | own)
    tab.generate(REQUEST, given(tab, bits="w4a16") | own)
    assert engine.session("a").comparison.coefficients == Coefficients.constant(1.11, 0.87)


def test_sliders_widen_for_coefficients_that_a_preset_brings(engine, tab):
    preset = find_preset("emoji-lcm", "w4a8", 4, engine.presets)
    preset.coefficients = Coefficients.ends((0.3, 1.9), (0.41, 1.0))
    save_preset(preset, engine.presets / "emoji-lcm" / "w4a8-4steps.json")
    first = tab.best(REQUEST, False)[tab.controls.c_x[0]]
    assert (first["value"], first["minimum"], first["maximum"]) == (0.3, 0.3, values.HIGH)
    assert values.slider_range(0.3333) == (0.33, 1.5), "on the grid, so that 1 can still be reached"
    last = tab.best(REQUEST, False)[tab.controls.c_x[1]]
    assert (last["value"], last["minimum"], last["maximum"]) == (1.9, values.LOW, 1.9)
    link = dict(parse_qsl(links.address(engine.session("a"))))
    assert links.resolve(engine, links.read_link(link))[2] == preset.coefficients


@pytest.mark.parametrize(
    ("seed", "said"),
    [
        (1.5, "not 1.5"),
        (None, "not left empty"),
        (-1, "not -1"),
        (2**31, "not 2147483648"),
        (True, "not True"),
    ],
)
def test_a_seed_that_is_none_is_one_sentence(engine, tab, seed, said):
    before = engine.session("a")
    with pytest.raises(ValueError, match=f"^The seed must be a whole number from 0 to 2147483647, {said}"):
        tab.generate(REQUEST, given(tab, seed=seed))
    assert engine.session("a") is before
    tab.generate(REQUEST, given(tab, seed=7.0))
    assert engine.session("a").comparison.settings.seed == 7


def test_the_address_leads_back_to_what_is_shown(engine, tab):
    changes = {"bits": "w2a8", "prompt": "a & b = c?", "seed": 3, "steps": 2, "group_size": 64, "keep": False}
    tab.generate(REQUEST, given(tab, **changes))
    MapEvents(tab).weigh(REQUEST, 1.5, False)
    for coefficients in (
        Coefficients.constant(1.0542, 0.97),
        Coefficients.ramp(1.0542, 0.97),
        Coefficients((1.0542, 0.9), 1.03),
        Coefficients.per_step((1.0542, 0.9), (1.0, 1.07)),
        Coefficients.ends((0.866667, 1.275733), (1.0, 1.07)),
    ):
        engine.rescale("a", coefficients)
        held = engine.session("a")
        backbone, settings, back, shape, k = links.resolve(
            engine, links.read_link(dict(parse_qsl(links.address(held))))
        )
        assert (backbone, settings, k) == ("emoji-lcm", held.comparison.settings, 1.5) and shape == back.shape
        assert all((a == b).all() for a, b in zip(back.expand(2), coefficients.expand(2), strict=True))
    assert settings.quantization == Quantization("w2a8", 64, keep_high_precision=False)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w4a4", "w3a8", "w2a8"])
def test_a_reload_stays_at_the_best_known_of_every_shipped_preset(bits, steps):
    shipped = Engine(load=tiny_backbone)
    best = shipped.best_known("emoji-lcm", Settings("fox", 0, steps, Quantization(bits)))
    comparison = SimpleNamespace(settings=Settings("fox", 0, steps, Quantization(bits)), coefficients=best)
    link = links.read_link(
        dict(parse_qsl(links.address(SimpleNamespace(backbone="emoji-lcm", comparison=comparison, k=2.0))))
    )
    assert links.resolve(shipped, link)[2] == best


def test_a_links_steps_are_judged_by_the_backbone_of_the_app():
    assert links.read_link({"steps": "16"}, "pcm-sd15").given["steps"] == 16
    link = links.read_link({"steps": "16"}, "emoji-lcm")
    assert "steps" not in link.given and "does not run in 16 steps" in link.notes[0]
    for broken in ({"group": "7"}, {"steps": "4.0"}, {"seed": "1.5"}, {"c_x": "9"}, {"c_x": "0.01"}):
        assert len(links.read_link(broken).notes) == 1, broken


def test_a_pick_that_cannot_be_had_is_taken_back(engine, tab):
    restored = tab.restore(REQUEST)
    assert restored[tab.controls.bits] == "w4a8" and restored[tab.controls.steps]["value"] == 4
    assert tab.controls.prompt not in restored and tab.controls.seed not in restored
    with pytest.raises(gr.Error, match="press Generate"):
        tab.restore(SimpleNamespace(session_hash="nobody"))


def test_no_handler_takes_more_than_a_few_values_by_position(tab):
    """Where a handler needs many widgets it gets them as one dict."""
    app = tab.controls.bits.parent
    while getattr(app, "parent", None) is not None:
        app = app.parent
    many = {fn.api_name: len(fn.inputs) for fn in app.fns.values() if fn.fn and not fn.inputs_as_dict}
    many = {name: count for name, count in many.items() if count > MOST_POSITIONAL}
    assert many == {"compare": many["compare"]}, "the public API alone has named parameters for everything"
