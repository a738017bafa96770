"""Noise of a surface: intervals against brute force and against known truths, and which cells differ from
plain.
"""

import math
import time

import numpy as np
import pytest

from qsched.scoring import jaq
from qsched.surfaces.intervals import RESAMPLES, expanded_tail
from qsched.surfaces.surface import Surface
from qsched.surfaces.uncertainty import FALSE_DISCOVERIES, resample

AXIS = (0.9, 1.0, 1.1)
PLAIN = (1, 1)


def noisy(
    seed: int, prompts: int = 20, seeds: int = 1, gain: float = 0.0, axis=AXIS
) -> tuple[Surface, float]:
    """A surface whose prompts differ much and whose cells differ in truth only by `gain` in quality (plain:
    0), and the true difference in JAQ. Each image has noise of its own."""
    rng, n = np.random.default_rng(seed), len(axis)
    hard = rng.normal(size=prompts)
    alignment = 55 + 5 * hard + rng.normal(scale=2, size=(n, n, seeds, prompts))
    quality = 0.6 + 0.05 * hard + rng.normal(scale=0.03, size=(n, n, seeds, prompts))
    quality += gain
    quality[PLAIN] -= gain
    flat = (n, n, seeds * prompts)
    return Surface(axis, axis, alignment.reshape(flat), quality.reshape(flat), prompts), 2 * gain


def brute_force(surface: Surface, k: float, cell: tuple[int, int]) -> list[list[float]]:
    """[JAQ, difference to plain] of every resample, one image after another."""
    prompts, found = surface.prompts, []
    for shares in resample(prompts):
        drawn = [p for p, share in enumerate(shares) for _ in range(round(share * prompts))]
        images = [s * prompts + p for s in range(surface.seeds) for p in drawn]
        one, plain = (jaq(surface.alignment[c][images], surface.quality[c][images], k) for c in (cell, PLAIN))
        found.append([one, one - plain])
    return found


@pytest.mark.parametrize(("prompts", "seeds", "k"), [(6, 1, 2.0), (5, 3, 0.7)])
def test_intervals_are_those_of_a_bootstrap_over_prompts_with_all_their_seeds(prompts, seeds, k):
    surface, _ = noisy(3, prompts, seeds)
    known, cut = surface.uncertainty(k), round(expanded_tail(prompts) * (RESAMPLES - 1))
    for cell in ((0, 0), (2, 1)):
        value, difference = np.sort(np.array(brute_force(surface, k, cell)), axis=0).T
        assert (known.low[cell], known.high[cell]) == pytest.approx((value[cut], value[-1 - cut]))
        expected = (difference[cut], difference[-1 - cut])
        assert (known.difference_low[cell], known.difference_high[cell]) == pytest.approx(expected)
        gap = surface.jaq(k)[cell] - surface.jaq(k)[PLAIN]
        assert known.difference[cell] == pytest.approx(gap)
    ends = known.difference_low[PLAIN], known.difference_high[PLAIN]
    assert known.difference[PLAIN] == 0 and ends == pytest.approx((0, 0), abs=1e-12)


def test_the_test_of_a_difference_is_a_bootstrap_t():
    """Written out for scores whose JAQ is linear: constant alignment, so the difference is 2 * mean of the
    quality's.
    """
    rng = np.random.default_rng(5)
    quality = rng.uniform(0.3, 0.9, (1, 2, 12))
    surface = Surface((1.0, 1.1), (1.0,), np.full((1, 2, 12), 30.0), quality)
    gaps, beaten = 2 * (surface.quality[0, 1] - surface.quality[0, 0]), 0
    observed = abs(gaps.mean()) / gaps.std()
    for shares in resample(12):
        drawn = np.repeat(gaps, np.round(shares * 12).astype(int))
        beaten += abs(drawn.mean() - gaps.mean()) / drawn.std() >= observed
    p = surface.uncertainty(2.0).p[0]
    assert p[1] == pytest.approx((beaten + 1) / (RESAMPLES + 1), abs=2 / RESAMPLES) and p[0] == 1
    assert 0.01 < p[1] < 0.99


@pytest.mark.parametrize(("prompts", "seeds"), [(20, 1), (8, 1), (15, 3)])
def test_intervals_cover_the_truth_about_as_often_as_they_say(prompts, seeds):
    hits = []
    for seed in range(150):
        surface, truth = noisy(seed, prompts, seeds, gain=0.02)
        known = surface.uncertainty(2.0)
        hits += [
            known.difference_low[c] <= truth <= known.difference_high[c]
            for c in ((0, 0), (0, 2), (2, 0), (2, 2))
        ]
    assert 0.92 <= np.mean(hits) <= 0.98


def test_where_nothing_differs_almost_nothing_is_found():
    found = [noisy(seed)[0].uncertainty(2.0).different.any() for seed in range(200)]
    assert np.mean(found) <= FALSE_DISCOVERIES + 0.035  # two standard errors


def test_what_differs_is_found_and_the_rest_is_called_alike():
    surface, _ = noisy(0, 20)
    surface.record(0, 2, surface.alignment[PLAIN], surface.quality[PLAIN] - 0.1 + 0.01 * np.random.rand(20))
    surface.record(2, 0, [np.nan] * 20, surface.quality[0, 0])
    known = surface.uncertainty(2.0)
    assert known.different[0, 2] and known.difference_high[0, 2] < 0
    assert known.alike[PLAIN] and not known.different[PLAIN]
    assert np.isnan(known.low[2, 0]) and not known.alike[2, 0] and not known.different[2, 0]
    assert known.alike.sum() + known.different.sum() == 8


@pytest.mark.parametrize("prompts", [2, 3])
def test_two_or_three_prompts_prove_nothing(prompts):
    for seed in range(10):
        assert not noisy(seed, prompts, gain=0.05)[0].uncertainty(2.0).different.any()


def test_a_difference_that_is_the_same_for_every_prompt_is_as_sure_as_there_are_prompts():
    def p(prompts):
        quality = np.stack([np.full(prompts, 0.5), np.full(prompts, 0.6)])[None]
        return Surface((1.0, 1.1), (1.0,), np.full_like(quality, 30.0), quality).uncertainty(2.0).p[0, 1]

    assert p(2) == 0.5 and p(10) == 2**-9


def test_one_prompt_with_several_seeds_resamples_the_seeds_and_one_image_says_nothing():
    one = noisy(1, prompts=1, seeds=12)[0]
    many = Surface(one.c_x, one.c_eps, one.alignment, one.quality, 12)
    assert np.array_equal(one.uncertainty(2.0).low, many.uncertainty(2.0).low)
    assert noisy(1, prompts=1)[0].uncertainty(2.0) is None
    assert Surface.empty(AXIS, AXIS, 4).uncertainty(2.0) is None


def test_more_seeds_of_a_prompt_narrow_its_own_noise_only():
    """Shared difficulty of the prompts stays: JAQ's interval shrinks less than the paired difference's."""
    width = lambda low, high: float(np.nanmean((high - low)[[0, 0, 2, 2], [0, 2, 0, 2]]))
    few, many = (noisy(7, 20, seeds)[0].uncertainty(2.0) for seeds in (1, 9))
    ratio = lambda a, b: width(*a) / width(*b)
    paired = ratio((many.difference_low, many.difference_high), (few.difference_low, few.difference_high))
    alone = ratio((many.low, many.high), (few.low, few.high))
    assert paired < 0.5 < 0.7 < alone


def test_a_grid_around_one_has_no_plain_cell_and_one_beside_it_uses_the_nearest():
    axis = (1.1, 1.2)
    known = Surface(axis, axis, np.random.rand(2, 2, 9) * 30, np.random.rand(2, 2, 9)).uncertainty(2.0)
    assert (
        known.p is None
        and known.difference is None
        and not known.alike.any()
        and np.isfinite(known.low).all()
    )
    beside = Surface((0.97, 1.08), (1.0,), np.random.rand(1, 2, 9) * 30, np.random.rand(1, 2, 9))
    assert beside.plain() == (0, 0) and beside.uncertainty(2.0).difference[0, 0] == 0


def test_an_expanded_interval_cuts_less_from_few_values():
    # n = 2: t = 12.706, times sqrt(2); n large: the plain 2.5 %
    assert expanded_tail(2) == pytest.approx(0.5 * math.erfc(12.706), abs=1e-12)
    assert expanded_tail(20) == pytest.approx(0.0159, abs=2e-4) and expanded_tail(5000) == pytest.approx(
        0.025, abs=1e-4
    )


def test_2601_cells_take_well_below_a_second():
    axis = tuple(np.linspace(0.8, 1.2, 51))
    rng = np.random.default_rng(0)
    surface = Surface(axis, axis, rng.uniform(20, 60, (51, 51, 20)), rng.uniform(0, 1, (51, 51, 20)))
    start = time.process_time()
    assert surface.uncertainty(2.0).low.shape == (51, 51)
    assert time.process_time() - start < 1.0  # 0.15 s of an idle core


def test_a_new_score_is_seen():
    surface, _ = noisy(2)
    before = surface.uncertainty(2.0)
    assert surface.uncertainty(2.0) is before, "remembered"
    surface.record(0, 0, surface.alignment[0, 0], surface.quality[0, 0] + 0.1)
    assert surface.uncertainty(2.0).low[0, 0] > before.low[0, 0]


def test_one_real_difference_among_many_cells_is_found():
    """With p of at least 1 / 2001, one cell of 961 could never pass Benjamini-Hochberg."""
    axis = tuple(np.linspace(0.7, 1.3, 31))
    rng = np.random.default_rng(1)
    quality = rng.normal(0.6, 0.03, (31, 31, 20))
    quality[3, 4] += 0.3
    known = Surface(axis, axis, rng.normal(50, 1, (31, 31, 20)), quality).uncertainty(2.0)
    assert known.different[3, 4] and known.different.sum() <= 3 and 0 < known.p[3, 4] < 1e-5
