"""Searches: every strategy's surface is what single runs give, the cost is what it must be, and nothing is
repeated.
"""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from embedded_model import PROMPTS, counted, embedded

from qsched.presets import load_preset, save_preset
from qsched.quantization import Quantization
from qsched.sampling import sharing as prefixes
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.loop import draw_noise, sample
from qsched.scoring import jaq
from qsched.search import job as search_job
from qsched.search import run as search_module
from qsched.search.job import SearchError
from qsched.search.options import Candidate, SearchOptions, grid
from qsched.search.run import Plan, estimate, search
from qsched.search.strategies.choice import strategy_of
from qsched.search.study import Scores, StorageError

STEPS = 2
SMALL = SearchOptions("w4a8", PROMPTS, STEPS, resolution=3)
TINY = SearchOptions("w4a8", PROMPTS[:1], 1, resolution=2)
AXIS = (0.8, 1.0, 1.2)


def changed(options: SearchOptions, **changes) -> SearchOptions:
    return dataclasses.replace(options, **changes)


@pytest.fixture(scope="module")
def found():
    """One small search with two noise draws per prompt, and what it cost."""
    with counted(embedded()) as count:
        preset = search(embedded(), changed(SMALL, seed=7, seeds=2))
    return preset, count


def test_grids_are_even_and_round():
    axis = grid(0.8, 1.2, 11)
    assert axis == (0.8, 0.84, 0.88, 0.92, 0.96, 1.0, 1.04, 1.08, 1.12, 1.16, 1.2)


@pytest.mark.parametrize(
    "bad",
    [
        (1.2, 0.8, 5),
        (1, 1, 5),
        (0, 1, 5),
        (-1, 1, 5),
        (float("nan"), 1, 5),
        (0.8, float("inf"), 5),
        (0.8, 1.2, 1),
        (0.8, 1.2, 2.5),
        (1, 1.0000001, 9),
    ],
)
def test_bad_grids_are_refused(bad):
    with pytest.raises(ValueError, match=r"range|grid"):
        grid(*bad)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["ramp", "constant"])
def test_every_cell_is_what_single_runs_give(found, shape):
    backbone = embedded()
    preset = found[0] if shape == "ramp" else search(backbone, changed(SMALL, seed=7, seeds=2, shape=shape))
    surface, module = preset.surface, backbone.quantized(Quantization("w4a8")).module
    assert surface.c_x == surface.c_eps == AXIS and surface.images == 6 and preset.shape == shape
    for i, j in ((0, 2), (1, 1), (2, 0)):
        coefficients = preset.at(AXIS[j], AXIS[i])
        assert coefficients.shape == shape
        for image in (0, 5):
            seed, prompt = 7 + image // 3, image % 3
            noise = draw_noise(backbone.latent_shape, seed, [prompt])
            latents = sample(backbone, backbone.encode([PROMPTS[prompt]]), noise, STEPS, coefficients, module)
            score = backbone.scorer().score(backbone.decode(latents), [PROMPTS[prompt]])
            assert surface.alignment[i, j, image] == pytest.approx(float(score.alignment), abs=2e-3)
            assert surface.quality[i, j, image] == pytest.approx(float(score.quality), abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["w4a8", "w4a4"])
def test_shared_and_exhaustive_give_the_same_surface(bits):
    surfaces = [
        search(embedded(), changed(SMALL, bits=bits, strategy=strategy)).surface
        for strategy in ("shared", "exhaustive")
    ]
    values = [surface.jaq() for surface in surfaces]
    assert np.abs(values[0] - values[1]).max() < 1e-3 and surfaces[0].best()[:2] == surfaces[1].best()[:2]
    assert np.ptp(values[0]) > 0.1  # the comparison means something


def test_the_first_prediction_is_computed_once_per_image(found):
    _, count = found
    assert (count.calls, count.full) == (6 + 9 * 6 * (STEPS - 1), 0)


def test_a_one_step_search_calls_the_denoiser_once_per_image():
    with counted(embedded()) as count:
        search(embedded(), SearchOptions("w4a8", PROMPTS, 1, resolution=4))
    assert count.calls == len(PROMPTS)


@pytest.mark.slow
def test_the_exhaustive_search_shares_nothing():
    with counted(embedded()) as count:
        search(embedded(), changed(SMALL, strategy="exhaustive"))
    assert count.calls == 9 * len(PROMPTS) * STEPS


@pytest.mark.slow
def test_the_adaptive_search_takes_fifteen_points_of_any_grid_and_finds_the_optimum():
    options = SearchOptions("w4a8", PROMPTS, STEPS, resolution=21, shape="constant")
    with counted(embedded()) as count:
        preset = search(embedded(), changed(options, strategy="adaptive"))
    assert preset.provenance["points_done"] == 15 and np.isfinite(preset.surface.jaq()).sum() == 15
    assert count.calls == len(PROMPTS) * (1 + 15 * (STEPS - 1))
    everything = search(embedded(), changed(options, resolution=9)).surface
    values = everything.jaq()
    assert preset.provenance["best"]["jaq"] > np.quantile(values, 0.95)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_the_adaptive_search_makes_a_tenth_of_the_exhaustive_searchs_calls(steps):
    options = SearchOptions("w4a8", PROMPTS, steps)
    plans = {s: strategy_of(changed(options, strategy=s)) for s in ("exhaustive", "adaptive")}
    calls = {s: plan.calls(plan.total) for s, plan in plans.items()}
    assert calls["adaptive"] <= calls["exhaustive"] / 10 and 12 <= plans["adaptive"].total <= 15


@pytest.mark.slow
def test_a_search_per_step_is_at_least_as_good_as_its_best_pair():
    preset = search(embedded(), changed(SMALL, resolution=5, strategy="per-step"))
    assert preset.provenance["best"]["jaq"] >= preset.surface.best()[2] and preset.coefficients.expand(STEPS)
    assert preset.coefficients.shape in ("ends", "ramp") and preset.provenance["strategy"] == "per-step"
    module, backbone = embedded().quantized(Quantization("w4a8")).module, embedded()
    noise, condition = draw_noise(backbone.latent_shape, 0, range(3)), backbone.encode(PROMPTS)
    scores = backbone.scorer().score(
        backbone.decode(sample(backbone, condition, noise, STEPS, preset.coefficients, module)), PROMPTS
    )
    assert jaq(scores.alignment, scores.quality) == pytest.approx(preset.provenance["best"]["jaq"], abs=1e-3)


@pytest.mark.slow
def test_two_ends_are_two_numbers_each_and_at_least_as_good_as_the_best_pair():
    options = changed(SMALL, steps=4, resolution=3, c_range=(0.9, 1.1), strategy="ends")
    preset = search(embedded(), options)
    assert preset.coefficients.shape == "ends" and preset.provenance["best"]["jaq"] > preset.surface.best()[2]
    values = torch.cat(preset.coefficients.expand(4))
    assert options.reach == pytest.approx((0.8, 1.2)) and 0.8 <= values.min() and values.max() <= 1.2
    assert preset.provenance["strategy"] == "ends"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ends", "per-step"])
def test_a_descent_may_compute_the_whole_grid_first(strategy):
    preset = search(embedded(), changed(SMALL, resolution=3, strategy=strategy, whole_grid=True))
    assert np.isfinite(preset.surface.jaq()).all() and preset.provenance["whole_grid"]
    assert preset.provenance["best"]["jaq"] >= preset.surface.best()[2]


def test_the_preset_holds_the_best_point_and_how_it_came_about(found, tmp_path):
    preset, _ = found
    values = preset.surface.jaq(2.0)
    i, j = np.unravel_index(values.argmax(), values.shape)
    assert preset.coefficients == preset.at(AXIS[j], AXIS[i])
    assert (preset.backbone, preset.bits, preset.steps) == (
        "emoji-lcm",
        "w4a8",
        STEPS,
    ) and preset.prompts == PROMPTS
    facts = preset.provenance
    assert preset.revision == embedded().revision and Quantization(
        preset.bits, **preset.settings
    ) == Quantization("w4a8")
    assert facts["seeds"] == [7, 8] and facts["k"] == 2 and facts["scorer"]["name"] == "emoji-clip"
    assert (
        len(facts["timesteps"]) == STEPS
        and facts["points"] == facts["points_done"] == 9
        and facts["failed"] == 0
    )
    assert {"torch", "diffusers", "optuna", "qsched"} <= set(facts["versions"]) and facts["duration_s"] > 0
    assert facts["best"]["jaq"] == pytest.approx(values.max()) and facts["strategy"] == "shared"
    save_preset(preset, tmp_path / "preset.json")
    assert load_preset(tmp_path / "preset.json") == preset


def test_the_best_point_is_the_best_jaq_and_not_the_best_alignment(monkeypatch):
    scores = itertools.cycle([([50.0], [0.1]), ([20.0], [0.2]), ([20.0], [0.9]), ([20.0], [0.3])])
    made = lambda self, candidates, on_images=None: [search_job.Scores(*next(scores)) for _ in candidates]
    monkeypatch.setattr(search_job.Job, "compute", made)
    preset = search(embedded(), TINY)
    best, aligned = preset.surface.best(2.0)[:2], preset.surface.best(0.0)[:2]
    assert best != aligned and preset.coefficients == Coefficients.ramp(*best)


@pytest.mark.slow
def test_progress_tells_batches_points_the_best_and_its_image():
    seen = []

    def watch(progress):
        filled = int(np.isfinite(progress.surface.jaq()).sum())
        seen.append(
            (progress.images, progress.done, filled, progress.last, progress.best, progress.remaining)
        )
        assert progress.total == 9 and progress.done == filled
        if progress.done:
            assert progress.image.shape == (3, 64, 64) and 0 <= float(progress.image.min())

    preset = search(embedded(), SMALL, batch_size=2, on_progress=watch)
    assert [images for images, *_, last, _, _ in seen if last is None] == sorted({i for i, *_ in seen})
    assert len([last for *_, last, _, _ in seen if last is not None]) == 9 and seen[-1][0] == 27
    assert seen[0][5] > 0 and seen[-1][5] == 0
    candidate, value = seen[-1][4]
    assert candidate.coefficients("ramp") == preset.coefficients and value == pytest.approx(
        preset.surface.best()[2]
    )


@pytest.mark.slow
def test_progress_tells_what_the_first_images_of_a_point_say():
    told, results = {}, {}

    def watch(progress):
        for candidate, so_far in progress.working.items():
            told.setdefault(candidate, []).append(so_far)
        if progress.last:
            results[progress.last[0]] = progress.last[1]

    search(embedded(), SMALL, batch_size=1, on_progress=watch)
    for candidate, found in told.items():
        assert [so_far.share for so_far in found] == pytest.approx([1 / 3, 2 / 3, 1])
        assert found[-1].jaq == pytest.approx(results[candidate], abs=1e-3)
    assert len(told) == 9


def test_the_device_is_lent_for_one_batch_at_a_time():
    inside, entered, told = [], [], []

    def device(batch):
        inside.append(batch)
        entered.append(batch)
        count = batch()
        inside.pop()
        return count

    search(
        embedded(), TINY, batch_size=1, device=device, on_progress=lambda progress: told.append(len(inside))
    )
    assert len(entered) >= 4 and set(told) == {0}


def test_a_image_that_is_not_finite_fails_its_point_for_good(tmp_path):
    storage = f"sqlite:///{tmp_path / 'search.sqlite3'}"
    options = changed(TINY, steps=2, c_range=(1.0, 3e38))
    preset = search(embedded(), options, storage=storage)
    failed = ~np.isfinite(preset.surface.jaq())
    assert failed[0, 1] and not failed[0, 0] and preset.surface.best()[:2] == (1.0, 1.0)
    assert preset.provenance["failed"] == failed.sum()
    with counted(embedded()) as count:
        search(embedded(), options, storage=storage)
    assert count.calls == 0


def test_a_search_without_any_finite_point_says_so():
    with pytest.raises(SearchError, match="no point with finite scores"):
        search(embedded(), changed(TINY, steps=2, c_range=(1e38, 3e38)))


def test_out_of_memory_halves_the_batch_and_goes_on(monkeypatch):
    real, sizes = prefixes.SharedSampler.images, []

    def limited(self, candidates, batch_size, *rest):
        sizes.append(batch_size)
        if batch_size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, candidates, batch_size, *rest)

    monkeypatch.setattr(prefixes.SharedSampler, "images", limited)
    preset = search(embedded(), TINY)
    assert sizes == [16, 8, 4] and np.isfinite(preset.surface.jaq()).all()


def test_one_image_that_does_not_fit_is_one_sentence(monkeypatch):
    def never(self, *arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(prefixes.SharedSampler, "images", never)
    with pytest.raises(SearchError, match="does not fit the device's memory"):
        search(embedded(), TINY)


@pytest.mark.slow
def test_an_estimate_counts_what_the_search_will_do(found, tmp_path):
    storage = f"sqlite:///{tmp_path / 'search.sqlite3'}"
    plan = estimate(embedded(), changed(SMALL, seed=7, seeds=2))
    assert isinstance(plan, Plan) and (plan.points, plan.stored, plan.images) == (9, 0, 54)
    assert plan.calls == found[1].calls and plan.seconds == pytest.approx(
        plan.images / plan.images_per_second
    )
    search(embedded(), SMALL, storage=storage)
    rest = estimate(embedded(), SMALL, storage=storage)
    assert (rest.stored, rest.images, rest.calls, rest.seconds) == (9, 0, 0, 0)


@pytest.mark.parametrize("strategy", ["exhaustive", "shared", "adaptive"])
@pytest.mark.parametrize("each", [0.01, 0.05, 0.3, 5.0])
def test_an_estimate_measures_for_two_seconds_at_most_or_two_images(strategy, each, monkeypatch):
    """On a clock on which an image takes `each` seconds, however large its batch."""
    clock, batches = [0.0], []

    def device(batch):
        count = batch()
        if count is not None:
            clock[0] += each * count
            batches.append(count)
        return count

    monkeypatch.setattr(search_module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    plan = estimate(embedded(), changed(SMALL, resolution=9, strategy=strategy), device=device)
    assert plan.images_per_second == pytest.approx(1 / each) and plan.seconds == pytest.approx(
        plan.images * each
    )
    assert clock[0] <= 2 or sum(batches) == 2
    assert max(batches) >= {0.01: 15, 0.05: 15, 0.3: 2, 5.0: 1}[each] or strategy == "exhaustive"


@pytest.mark.slow
def test_cells_that_were_never_computed_did_not_fail(monkeypatch):
    broken = Candidate.pair(1.0, 1.0)
    compute = search_module.Job.compute

    def spoiled(self, candidates, *rest):
        none = Scores([float("nan")] * len(PROMPTS), [float("nan")] * len(PROMPTS))
        return [
            none if c == broken else s
            for c, s in zip(candidates, compute(self, candidates, *rest), strict=True)
        ]

    monkeypatch.setattr(search_module.Job, "compute", spoiled)
    preset = search(embedded(), changed(SMALL, resolution=11, strategy="adaptive"))
    summary = preset.provenance["summary"]
    assert summary["failed"] == preset.provenance["failed"] == 1
    assert (summary["cells"], summary["scored"]) == (121, preset.provenance["points_done"] - 1)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["exhaustive", "shared", "adaptive"])
def test_the_announced_calls_are_the_calls_that_are_made(strategy):
    options = changed(SMALL, resolution=4, strategy=strategy)
    announced = estimate(embedded(), options).calls
    with counted(embedded()) as count:
        search(embedded(), options)
    assert count.calls == announced


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "steps", "whole_grid"),
    [("per-step", 2, False), ("per-step", 2, True), ("ends", 2, False), ("ends", 4, False)],
)
def test_a_descent_costs_at_most_what_is_announced(strategy, steps, whole_grid):
    options = changed(SMALL, steps=steps, resolution=4, strategy=strategy, whole_grid=whole_grid)
    announced = estimate(embedded(), options).calls
    with counted(embedded()) as count:
        search(embedded(), options)
    assert 0.6 * announced < count.calls <= announced


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(prompts=[]), "at least one prompt"),
        (dict(prompts=["fox", "  "]), "none of them empty"),
        (dict(steps=9), "steps, not 9"),
        (dict(shape="ends"), "shape"),
        (dict(strategy="magic"), "strategy must be one of"),
        (dict(strategy="per-step", steps=1), "single step"),
        (dict(strategy="adaptive", whole_grid=True), "ends and per-step alone"),
        (dict(seeds=0), "seeds"),
        (dict(seed=-1), "seeds"),
        (dict(k=float("nan")), "k must be"),
        (dict(bits="w1a1"), "1"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_computed(change, message):
    with counted(embedded()) as count, pytest.raises(ValueError, match=message):
        search(embedded(), changed(SMALL, **change))
    assert count.calls == 0


def test_a_file_that_is_no_database_is_left_alone(tmp_path):
    path = tmp_path / "notes.sqlite3"
    path.write_text("not a database, but mine " * 100)
    with pytest.raises(StorageError, match="not a database"):
        search(embedded(), TINY, storage=f"sqlite:///{path}")
    assert path.read_text() == "not a database, but mine " * 100
