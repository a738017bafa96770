"""The optimum's stability and its way with k, against brute force and against surfaces whose
truth is known.
"""

import json

import numpy as np
import pytest

from qsched.scoring import jaq
from qsched.surfaces.intervals import RESAMPLES
from qsched.surfaces.stability import KS, winners
from qsched.surfaces.surface import Surface
from qsched.surfaces.uncertainty import resample
from qsched.ui import fragments

AXIS = tuple(round(0.8 + 0.04 * i, 4) for i in range(11))


def flat(seed: int, prompts: int = 20, seeds: int = 1) -> Surface:
    """Noise and nothing else."""
    rng = np.random.default_rng(seed)
    shape = (11, 11, prompts * seeds)
    return Surface(AXIS, AXIS, rng.normal(50, 4, shape), rng.normal(0.6, 0.05, shape), prompts)


def peaked(seed: int = 0, height: float = 0.5) -> Surface:
    """The same with one cell that stands out: c_x 1.08, c_eps 0.92."""
    surface = flat(seed)
    surface.record(3, 7, surface.alignment[3, 7], surface.quality[3, 7] + height)
    return surface


def small(seed: int = 0, prompts: int = 5, seeds: int = 1) -> Surface:
    rng = np.random.default_rng(seed)
    shape = (2, 3, prompts * seeds)
    return Surface(
        (0.9, 1.0, 1.1), (0.95, 1.0), rng.uniform(20, 60, shape), rng.uniform(0, 1, shape), prompts
    )


@pytest.mark.parametrize(("seeds", "k"), [(1, 2.0), (3, 0.4)])
def test_resamples_choose_their_best_cell_as_a_loop_would(seeds, k):
    surface, counts = small(seeds=seeds), np.zeros((2, 3))
    for shares in resample(5):
        drawn = np.repeat(np.arange(5), np.round(5 * shares).astype(int))
        images = (np.arange(seeds)[:, None] * 5 + drawn).ravel()
        value = [
            [jaq(surface.alignment[i, j][images], surface.quality[i, j][images], k) for j in range(3)]
            for i in (0, 1)
        ]
        counts[np.unravel_index(np.argmax(value), (2, 3))] += 1
    found = surface.stability(k=k)
    i, j = surface.nearest(*surface.best(k)[:2])
    assert found["wins"] == counts[i, j] / RESAMPLES
    shares = np.sort(counts.ravel() / RESAMPLES)[::-1]
    needed = int((shares.cumsum() < 0.95).sum()) + 1
    assert [share for *_, share in found["region"]["cells"]] == pytest.approx(shares[:needed])
    for c_x, c_eps, share in found["region"]["cells"]:
        assert counts[surface.nearest(c_x, c_eps)] == share * RESAMPLES


def test_an_obvious_optimum_is_certain():
    found = peaked().stability(prompts=20, k=2.0)
    assert found["wins"] == 1 and found["region"]["cells"] == [[1.08, 0.92, 1.0]]
    assert found["spread"] == {"c_x": [1.08, 1.08], "c_eps": [0.92, 0.92]}
    assert (
        found["optimism"] == 0
        and found["gain_out_of_bag"] == found["gain"]["mean"]
        and found["gain"]["different"]
    )


def test_a_flat_surface_has_no_stable_optimum_and_no_gain():
    """On pure noise the best of 121 cells always gains something; out of bag nothing is left of it."""
    found = [flat(seed).stability(k=2.0) for seed in range(25)]
    assert max(f["wins"] for f in found) < 0.7 and np.mean([f["wins"] for f in found]) < 0.4
    assert np.median([len(f["region"]["cells"]) for f in found]) >= 8
    gains, left = ([f[name] for f in found] for name in ("gain", "gain_out_of_bag"))
    mean = np.mean([gain["mean"] for gain in gains])
    assert mean > 0.05 and abs(np.mean(left)) < 0.25 * mean
    assert np.mean([gain["different"] for gain in gains]) < 0.4


def test_out_of_bag_the_gain_is_about_what_new_prompts_would_show():
    """Cells with true differences: the mean over surfaces of gain_out_of_bag against the chosen cell's true
    gain.
    """
    promised, left, true = [], [], []
    for seed in range(40):
        truth = 0.01 * np.random.default_rng(seed).normal(size=(11, 11))
        surface = flat(1000 + seed)
        surface = Surface(AXIS, AXIS, surface.alignment, surface.quality + truth[..., None])
        found = surface.stability(k=2.0)
        cell = surface.nearest(found["best"]["c_x"], found["best"]["c_eps"])
        promised.append(found["gain"]["mean"])
        left.append(found["gain_out_of_bag"])
        true.append(2 * (truth[cell] - truth[5, 5]))
    assert np.mean(promised) > np.mean(true) + 0.02
    assert abs(np.mean(left) - np.mean(true)) < 0.5 * (np.mean(promised) - np.mean(true))


def test_it_is_json_and_nothing_that_is_handed_out_is_shared():
    first = small().stability(prompts=5, k=2)
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert first["prompts"] == 5 and first["seeds"] == 1 and first["k"] == 2
    first["best"]["c_x"] = first["region"]["cells"][0][0] = 9.0
    first["region"]["cells"].clear()
    again = small().stability(prompts=5, k=2)
    assert again["best"]["c_x"] != 9.0 and again["region"]["cells"][0][0] != 9.0


def test_seeds_are_averaged_within_their_prompt():
    one = small(4, prompts=6, seeds=2)
    halves = one.alignment.reshape(2, 3, 2, 6), one.quality.reshape(2, 3, 2, 6)
    mean = Surface(one.c_x, one.c_eps, *(half.mean(axis=2) for half in halves))
    found, expected = one.stability(k=1.0), mean.stability(k=1.0)
    assert (found["prompts"], found["seeds"]) == (6, 2) and (expected["prompts"], expected["seeds"]) == (6, 1)
    assert found["wins"] == expected["wins"] and found["optimism"] == pytest.approx(
        expected["optimism"], abs=1e-4
    )
    with pytest.raises(ValueError, match="12 images per cell, no multiple of the 5 prompts"):
        one.stability(prompts=5)


def test_failed_cells_never_win_and_what_cannot_be_said_is_none():
    surface = peaked()
    surface.record(3, 7, [np.nan] * 20, [1.0] * 20)
    cells = surface.stability(k=2.0)["region"]["cells"]
    assert all(cell[:2] != [1.08, 0.92] for cell in cells)
    single = Surface(AXIS, AXIS, np.full((11, 11, 1), 20.0), np.random.rand(11, 11, 1)).stability(k=2.0)
    assert single["wins"] is single["region"] is single["spread"] is single["optimism"] is None
    assert single["gain"]["mean"] > 0 and single["gain"]["low"] is None
    off = Surface((1.1, 1.2), (1.0,), np.random.rand(1, 2, 9) * 40, np.random.rand(1, 2, 9)).stability(k=2.0)
    assert off["gain"] is off["optimism"] is None and off["wins"] > 0
    with pytest.raises(ValueError, match="no cell"):
        Surface.empty(AXIS, AXIS, 4).stability(k=2.0)


def test_the_first_of_equal_cells_wins_everywhere():
    same = Surface((0.9, 1.0), (0.9, 1.0), np.full((2, 2, 6), 30.0), np.full((2, 2, 6), 0.5))
    assert same.best()[:2] == (0.9, 0.9) and same.stability(k=2.0)["wins"] == 1
    many = np.full((600, 6), 30.0)  # more cells than one block holds
    assert (winners(many, many / 60, (0.0, 2.0)) == 0).all()


def test_the_sweep_is_the_best_cell_of_every_k():
    surface = peaked(height=0.05)
    sweep = surface.k_sweep()
    assert sweep.ks == KS and KS[0] == 0 and KS[-1] == 5 and len(KS) == 51
    for index, k in enumerate(KS):
        value = np.array(
            [[jaq(surface.alignment[i, j], surface.quality[i, j], k) for j in range(11)] for i in range(11)]
        )
        i, j = np.unravel_index(value.argmax(), value.shape)
        assert (sweep.c_x[index], sweep.c_eps[index]) == (AXIS[j], AXIS[i])
        assert sweep.jaq[index] == pytest.approx(value[i, j])
        assert sweep.gain[index] == pytest.approx(value[i, j] - value[5, 5])
    assert len(set(zip(sweep.c_x, sweep.c_eps, strict=True))) > 1, "the optimum of this surface moves"


def test_the_sweep_agrees_with_what_is_said_at_one_k():
    surface = flat(8)
    (row,) = surface.k_sweep(prompts=20, ks=[1.3]).to_rows()
    found, known = surface.stability(k=1.3), surface.uncertainty(1.3)
    cell = surface.nearest(row["c_x"], row["c_eps"])
    assert row["k"] == 1.3 and row["gain_out_of_bag"] == pytest.approx(found["gain_out_of_bag"])
    expected = known.difference_low[cell], known.difference_high[cell]
    assert (row["gain_low"], row["gain_high"]) == pytest.approx(expected)
    assert [row["c_x_low"], row["c_x_high"]] == found["spread"]["c_x"]
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_a_sweep_without_noise_or_plain_cell_leaves_these_numbers_out():
    one = Surface((1.1, 1.2), (1.0,), np.full((1, 2, 1), 20.0), np.random.rand(1, 2, 1)).k_sweep()
    assert set(one.gain) == set(one.c_x_low) == set(one.gain_low) == set(one.gain_out_of_bag) == {None}


@pytest.mark.parametrize(("cells", "prompts"), [(1, 20), (8, 20), (121, 2)])
def test_nothing_is_said_before_there_are_points_and_prompts_to_carry_it(cells, prompts):
    whole, surface = flat(0, prompts), Surface.empty(AXIS, AXIS, prompts)
    order = sorted(np.ndindex(11, 11), key=lambda cell: cell != (5, 5))  # the plain cell first
    for cell in order[:cells]:
        surface.record(*cell, whole.alignment[cell], whole.quality[cell])
    found, row = surface.stability(k=2.0), surface.k_sweep(ks=(2.0,)).to_rows()[0]
    assert found["cells"] == cells and found["gain"]["mean"] is not None
    assert found["wins"] is found["region"] is found["gain"]["low"] is found["gain_out_of_bag"] is None
    assert row["c_x_low"] is row["gain_low"] is row["gain_out_of_bag"] is None
    line = fragments.stability(found)
    assert "too few" in line and "resamples" not in line and "95 %" not in line


def test_nine_points_of_three_prompts_or_a_whole_small_grid_carry_it():
    whole, surface = flat(0, 3), Surface.empty(AXIS, AXIS, 3)
    for cell in list(np.ndindex(11, 11))[:9]:
        surface.record(*cell, whole.alignment[cell], whole.quality[cell])
    assert surface.stability(k=2.0)["wins"] > 0 and small().stability(k=2.0)["wins"] > 0
