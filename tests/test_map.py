"""The map belongs to the sliders: it holds the present point, is made around it, and a click goes there."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from browser_app import given, tiny_backbone, write_preset

from qsched.commands import cli
from qsched.presets import PresetError, find_preset, load_preset, save_preset
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.slices import Slice
from qsched.server.around import map_around
from qsched.surfaces.surface import Surface
from qsched.ui.compare import surface_view
from qsched.ui.compare.map_events import MapEvents

REQUEST = SimpleNamespace(session_hash="a", query_params={}, client=None, headers={})
ENDS = Coefficients.ends((0.7, 1.04), (0.6, 1.05))


def blank(low=0.6, high=1.4):
    return Surface.empty((low, 1.0, high), (low, 1.0, high), 1)


@pytest.mark.parametrize(
    ("through", "point", "holds"),
    [
        (Coefficients.constant(1.1, 0.9), Coefficients.constant(0.8, 1.2), True),
        (Coefficients.constant(1.1, 0.9), Coefficients.ramp(0.8, 1.2), False),
        (Coefficients.ramp(1.0, 1.0), Coefficients.identity(), True),
        (Coefficients.ramp(1.0, 1.0), Coefficients.ends((0.7, 1.0), (0.9, 1.0)), True),
        (ENDS, Coefficients.ends((1.3, 1.04), (0.8, 1.05)), True),
        (ENDS, Coefficients.ends((1.3, 1.05), (0.8, 1.05)), False),
        (ENDS, Coefficients.ends((1.5, 1.04), (0.8, 1.05)), False),
        (ENDS, Coefficients.identity(), False),
        (Coefficients.per_step((1, 2, 1, 1), (1, 1, 1, 1)), Coefficients((0.9, 2, 1, 1), 1.0), True),
    ],
)
def test_a_slice_holds_what_differs_in_the_first_step_alone(through, point, holds):
    assert Slice(blank(), through, "").holds(point, 4) is holds


def test_plain_is_marked_only_where_it_is_a_point():
    full = Surface((1.0, 1.1), (1.0, 1.1), np.ones((2, 2, 2)), np.ones((2, 2, 2)))
    assert full.plain() == (0, 0)
    assert Slice(full, ENDS, "").surface.plain() is None
    assert Slice(full, Coefficients.constant(1.3, 1.3), "").surface.plain() == (0, 0)


def test_a_map_around_any_point_has_the_scores_of_the_images_that_sliders_would_make(engine, tab):
    engine.rescale("a", ENDS)
    rows = [np.isfinite(found.surface.jaq()).all(axis=1).sum() for found in map_around(engine, "a")]
    assert rows == list(range(1, 10))
    map = engine.session("a").map
    assert map.holds(ENDS, 4) and map.surface.images == 1
    for i, j in ((0, 0), (4, 2), (8, 8)):
        engine.rescale("a", map.at(map.surface.c_x[j], map.surface.c_eps[i]))
        column = engine.session("a").comparison.qsched
        assert column.jaq(2.0) == pytest.approx(map.surface.jaq(2.0)[i, j], abs=2e-3)
        assert engine.session("a").map is map


def test_a_map_is_given_up_when_the_page_goes_on(engine, tab):
    engine.rescale("a", ENDS)
    rows = map_around(engine, "a")
    next(rows)
    settings = engine.session("a").comparison.settings
    engine.compare("a", "emoji-lcm", replace(settings, prompt="a cup"), ENDS)
    assert list(rows) == [] and engine.session("a").map is None
    rows = map_around(engine, "a")
    next(rows)
    engine.rescale("a", ENDS.with_first(1.1, 0.9))
    next(rows)
    engine.rescale("a", Coefficients.constant(1.1, 0.9))
    assert list(rows) == [], "it does not hold the point any more"


def test_the_map_follows_the_shape_of_the_sliders(engine, tab):
    """The preset's where it holds the point; its slice around two ends; and what was made stays shown."""
    path = engine.presets / "emoji-lcm" / "w4a8-4steps.json"
    preset = load_preset(path)
    save_preset(replace(preset, coefficients=ENDS, slice=blank_scored()), path)
    r, events = tab.results, MapEvents(tab)
    held = lambda: engine.session("a")
    answer = tab.best(REQUEST, False)
    assert held().map.through == ENDS and "the last step's stay at" in answer[r.legend]
    answer = tab.reset(REQUEST, "ramp", False)
    assert held().map.through.shape == "ramp" and "straight to 1" in answer[r.legend]
    tab.best(REQUEST, False)
    shape, drawn = held().map, surface_view.figure(engine, held())
    x, y = drawn.value_to_xy(drawn.c_x[2], drawn.c_eps[0])
    answer = events.select(REQUEST, SimpleNamespace(index=(x, y)), False)
    assert held().comparison.coefficients == Coefficients.ends((1.4, 1.04), (0.6, 1.05))
    assert held().map is shape and r.legend not in answer, "drawn already"
    assert events.select(REQUEST, SimpleNamespace(index=(2, 2)), False) == {tab.controls.hint: ""}
    c = tab.controls
    tab.adjust(REQUEST, given(tab) | dict.fromkeys(c.c_x + c.c_eps, 1.3) | {c.shape: "constant"})
    assert held().map is shape, "a drag draws no map: the page says that the point is not on it"
    *_, last = events.around(REQUEST, False)
    assert "For this prompt and seed alone" in last[r.legend]
    assert held().map.through == Coefficients.constant(1.3, 1.3)
    assert events.sweep(REQUEST, False)[r.sweep_image].endswith(".png")


def blank_scored():
    numbers = np.random.default_rng(0).uniform(20, 30, (3, 3, 1))
    return Surface((0.6, 1.0, 1.4), (0.6, 1.0, 1.4), numbers, numbers / 50)


def test_a_preset_keeps_its_slice_and_names_what_is_wrong_with_it(tmp_path):
    preset = write_preset(tmp_path)
    assert preset.slice is None and "slice" not in preset.to_dict()
    path = tmp_path / "sliced.json"
    save_preset(replace(preset, coefficients=ENDS, slice=blank_scored()), path)
    loaded = load_preset(path)
    assert loaded.slice == blank_scored() and [map.through for map in loaded.maps][1] == ENDS
    text = path.read_text()
    path.write_text(text.replace('"slice":{"c_x":', '"slice":{"c_y":'))
    with pytest.raises(PresetError, match=r"slice\.c_x"):
        load_preset(path)


def test_the_command_adds_the_slice_of_a_preset_and_says_where_none_is_due(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("qsched.commands.slice.open_backbone", lambda args, id: tiny_backbone(id))
    preset, path = write_preset(tmp_path), tmp_path / "emoji-lcm" / "w4a8-4steps.json"
    assert cli.main(["slice", "--preset", str(path)]) == 2
    assert "are a point of its surface already" in capsys.readouterr().err
    save_preset(replace(preset, coefficients=ENDS, provenance={"seeds": [0], "k": 2.0}), path)
    assert cli.main(["slice", "--preset", str(path)]) == 0
    assert "on 1 prompt: best" in capsys.readouterr().out
    made = find_preset("emoji-lcm", "w4a8", 4, tmp_path)
    assert made.surface == preset.surface and made.slice.images == 1
    assert np.isfinite(made.slice.jaq()).all()


def test_all_visitors_share_a_presets_maps_and_a_point_on_none_of_them_redraws_nothing(engine, tab):
    preset = engine.preset("emoji-lcm", engine.opening()[0].quantization, 4)
    assert preset.maps[0].surface.alignment is preset.surface.alignment
    assert preset.maps[0].surface is not preset.surface, "what it says of the plain scheduler is its own"
    tab.moved(Coefficients.ends((3.0, 1.0), (3.0, 1.0)), REQUEST, False)
    shown = engine.session("a").map
    answer = tab.moved(Coefficients.ends((3.0, 2.0), (3.0, 2.0)), REQUEST, False)
    assert engine.session("a").map is shown and tab.results.surface not in answer
