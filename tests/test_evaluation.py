"""Evaluations: the intervals cover what they claim, the columns are what sampling gives, the report says what
it is.
"""

import json

import numpy as np
import pytest
import torch
from embedded_model import PROMPTS, counted, embedded, make_preset

from qsched.comparison.comparison import compare
from qsched.comparison.result import FULL_PRECISION, NAIVE, QSCHED, Settings
from qsched.evaluation.held_out import FIRST_SEED, evaluate, quantization_of
from qsched.evaluation.result import COLUMNS, CONTROL, DIFFERENCES, METRICS, Evaluation
from qsched.presets import load_preset, save_preset
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.scoring import jaq
from qsched.surfaces.intervals import bootstrap, over_seeds

STEPS = 2
CHOSEN = Coefficients.ramp(1.1, 0.9)
"""As in make_preset."""
MEASURED = set(METRICS) - {"lpips"}
"""The embedded scorer has no LPIPS."""


@pytest.fixture(scope="module")
def evaluated():
    """Three prompts, three seeds, and what they cost."""
    with counted(embedded()) as count:
        result = evaluate(embedded(), make_preset(), PROMPTS, 3)
    return result, count


def made_up(**columns) -> Evaluation:
    """An evaluation with given scores: column = (alignment, quality), arrays (seeds, prompts)."""
    scores = {
        name.replace("_", " "): dict(
            alignment=np.array(a), quality=np.array(q), ssim=np.array(q), psnr=np.array(a)
        )
        for name, (a, q) in columns.items()
    }
    seeds, prompts = next(iter(scores.values()))["alignment"].shape
    return Evaluation(
        make_preset(),
        [f"p{i}" for i in range(prompts)],
        list(range(seeds)),
        2.0,
        scores,
        {},
        {"name": "s", "definition": "d"},
        "cpu",
        "0",
    )


def test_students_interval_over_seeds():
    estimate = over_seeds(np.array([1.0, 2.0, 3.0]))
    # mean 2, standard deviation 1, t(2) = 4.303: half width 4.303 / sqrt(3)
    assert estimate.mean == 2 and (estimate.high - 2, 2 - estimate.low) == pytest.approx(
        (2.484, 2.484), abs=1e-3
    )
    assert over_seeds(np.array([5.0])).to_dict() == {"mean": 5.0, "low": None, "high": None}
    wide, narrow = over_seeds(np.arange(31.0)), over_seeds(np.arange(400.0) % 31)
    assert wide.high - wide.low == pytest.approx(2 * 2.0422725 * np.std(np.arange(31), ddof=1) / np.sqrt(31))
    assert narrow.high - narrow.low == pytest.approx(
        2 * 1.966 * np.std(np.arange(400) % 31, ddof=1) / 20, rel=1e-3
    )


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        values = rng.normal(size=(12, 1)) * 0.5 + rng.normal(size=(1, 40)) + rng.normal(size=(12, 40))
        estimate = bootstrap(lambda s, p, v=values: ((s @ v) * p).sum(axis=1), 12, 40)
        assert estimate.mean == pytest.approx(values.mean())
        hits += estimate.low <= 0 <= estimate.high
    assert 0.90 <= hits / 200 <= 1.0


def test_jaq_is_the_log_of_the_mean_over_the_prompts_per_seed():
    result = made_up(naive=([[10.0, 30.0], [40.0, 0.0]], [[0.2, 0.4], [0.1, 0.1]]))
    assert result.jaq_per_seed(NAIVE) == pytest.approx([jaq([10, 30], [0.2, 0.4]), jaq([40, 0], [0.1, 0.1])])
    assert result.estimate(NAIVE, "jaq").mean == pytest.approx(np.mean([np.log(20) + 0.6, np.log(20) + 0.2]))


def test_the_difference_is_paired():
    rng = np.random.default_rng(0)
    alignment, quality = rng.uniform(10, 60, (4, 20)), rng.uniform(0, 1, (4, 20))
    result = made_up(**{"naive": (alignment, quality), "Q-Sched": (alignment + 1, quality)})
    single, paired = result.estimate(NAIVE, "alignment"), result.difference("alignment")
    assert (paired.mean, paired.low, paired.high) == pytest.approx((1, 1, 1)) and single.high - single.low > 5
    assert result.difference("quality").high == 0 < result.difference("jaq").low
    assert result.difference("jaq").mean == pytest.approx(
        result.estimate(QSCHED, "jaq").mean - result.estimate(NAIVE, "jaq").mean
    )


def test_each_image_is_computed_once_and_prefixes_are_shared(evaluated):
    _, count = evaluated
    images = 3 * len(PROMPTS)
    assert (count.calls, count.full) == (2 * images * (1 + 2 * (STEPS - 1)), images * (1 + 2 * (STEPS - 1)))


def test_the_columns_are_what_the_comparison_shows(evaluated):
    result, _ = evaluated
    assert result.seeds == [FIRST_SEED, FIRST_SEED + 1, FIRST_SEED + 2] and list(result.scores) == list(
        COLUMNS
    )
    # One prompt, as the comparison has it: in a larger batch a quantized image drifts by a rounding.
    alone = evaluate(embedded(), make_preset(), PROMPTS[:1], [FIRST_SEED + 1])
    one = compare(embedded(), Settings(PROMPTS[0], FIRST_SEED + 1, STEPS, Quantization("w4a8")), CHOSEN)
    for column in one.columns:
        scores = {metric: values[0, 0] for metric, values in alone.scores[column.name].items()}
        assert scores["alignment"] == pytest.approx(column.alignment, abs=1e-3)
        assert scores["quality"] == pytest.approx(column.quality, abs=1e-4)
        assert scores["ssim"] == pytest.approx(column.ssim, abs=1e-4)
    assert result.scores[FULL_PRECISION]["psnr"] == pytest.approx(np.full((3, 3), 100.0))
    assert (result.scores[CONTROL]["ssim"] < 0.999).all()


def test_the_control_is_full_precision_with_the_coefficients():
    plain = evaluate(embedded(), make_preset(coefficients=Coefficients.identity()), PROMPTS[:2], [3])
    for metric in ("alignment", "quality", "ssim"):
        assert plain.difference(metric, CONTROL, FULL_PRECISION).mean == 0
        assert plain.difference(metric).mean == 0


def test_the_report_is_json_and_reproducible(evaluated, tmp_path):
    result, _ = evaluated
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data == json.loads(json.dumps(evaluate(embedded(), make_preset(), PROMPTS, 3).to_dict()))
    assert set(data["columns"]) == set(COLUMNS) and all(set(c) == MEASURED for c in data["columns"].values())
    for column in data["columns"].values():
        for estimate in column.values():
            assert estimate["low"] - 1e-9 <= estimate["mean"] <= estimate["high"] + 1e-9
    assert data["prompts"] == PROMPTS and data["failed_images"] == dict.fromkeys(COLUMNS, 0)
    assert data["notes"] == ["With fewer than 20 prompts, bootstrap intervals tend to be too narrow."]
    assert set(data["differences"]) == set(DIFFERENCES) and data["categories"] == {}
    for key in data:
        assert key in Evaluation.to_dict.__doc__, f"{key} is not documented"
    preset = make_preset(held_out=data)
    save_preset(preset, tmp_path / "preset.json")
    assert load_preset(tmp_path / "preset.json").held_out == data


def test_what_weakens_a_result_is_noted():
    preset = make_preset(prompts=PROMPTS[:1], revision="000000000000", provenance={"seeds": [5, 6]})
    notes = " ".join(evaluate(embedded(), preset, PROMPTS[:2], [6], any_revision=True).to_dict()["notes"])
    assert "1 of the 2 prompts" in notes and "other weights" in notes and "seeds were used" in notes


def test_one_seed_gives_no_interval_over_seeds():
    result = evaluate(embedded(), make_preset(), PROMPTS[:1], [3])
    assert result.to_dict()["columns"][NAIVE]["jaq"]["low"] is None


def test_broken_images_are_counted_and_scored_as_black():
    preset = make_preset(coefficients=Coefficients.constant(3e38, 3e38))
    result = evaluate(embedded(), preset, PROMPTS[:2], [3])
    assert result.failed == {FULL_PRECISION: 0, NAIVE: 0, QSCHED: 2, CONTROL: 2}
    assert all(np.isfinite(values).all() for scores in result.scores.values() for values in scores.values())
    assert f"not finite, of 2 each: {QSCHED} 2, {CONTROL} 2." in result.notes[-1]


@pytest.mark.slow
def test_categories_are_evaluations_of_their_prompts(evaluated):
    whole, _ = evaluated
    categories = {
        "food": [PROMPTS[0], "  pizza,  classic style"],
        "animals": ["fox, flat style"],
        "tools": ["hammer"],
    }
    done = []
    result = evaluate(
        embedded(), make_preset(), PROMPTS, 3, categories=categories, on_batch=lambda *n: done.append(n)
    )
    assert result.categories == {"food": [0, 2], "animals": [1]} and done == [(12, 36), (24, 36), (36, 36)]
    np.testing.assert_array_equal(
        result.part("food").scores[NAIVE]["ssim"], whole.scores[NAIVE]["ssim"][:, [0, 2]]
    )
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))["categories"]
    assert data["animals"]["prompts"] == 1 and set(data["food"]) == {"prompts", *COLUMNS, "Q-Sched - naive"}
    for name, index in result.categories.items():
        scores = whole.scores[NAIVE]
        per_seed = [jaq(scores["alignment"][s, index], scores["quality"][s, index]) for s in range(3)]
        assert data[name][NAIVE] == pytest.approx(np.mean(per_seed))
        assert data[name]["Q-Sched - naive"]["mean"] == pytest.approx(data[name][QSCHED] - data[name][NAIVE])
        assert data[name]["Q-Sched - naive"]["low"] is None, "too few prompts for an interval"


def test_a_category_with_enough_prompts_has_its_own_interval():
    rng = np.random.default_rng(0)
    alignment, quality = rng.uniform(30, 60, (3, 12)), rng.uniform(0, 1, (3, 12))
    better = alignment + np.where(np.arange(12) < 6, 10, 0)
    result = made_up(**{"naive": (alignment, quality), "Q-Sched": (better, quality)})
    result.categories = {"helped": list(range(6)), "not": list(range(6, 12))}
    assert result.difference_in("helped").low > 0 and result.difference_in("not").high == 0


def test_progress_is_told_by_the_batch_and_batches_change_little(evaluated):
    whole, _ = evaluated
    done = []
    parts = evaluate(embedded(), make_preset(), PROMPTS, 1, batch=2, on_batch=lambda *n: done.append(n))
    assert done == [(8, 12), (12, 12)]
    for column in COLUMNS:
        np.testing.assert_allclose(
            parts.scores[column]["quality"], whole.scores[column]["quality"][:1], atol=0.05
        )


def test_a_batch_that_does_not_fit_into_memory_is_halved(monkeypatch):
    alone = evaluate(embedded(), make_preset(steps=1), PROMPTS, [3], batch=1)
    decode, sizes, done = embedded().decode, [], []

    def small(latents):
        sizes.append(len(latents))
        if len(latents) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(latents)

    monkeypatch.setattr(embedded(), "decode", small)
    result = evaluate(embedded(), make_preset(steps=1), PROMPTS, [3, 4], on_batch=lambda *n: done.append(n))
    assert sizes == [3, 2] + [1] * 24 and done[-1] == (24, 24) and len(done) == 6
    for column in COLUMNS:
        np.testing.assert_array_equal(result.scores[column]["quality"][0], alone.scores[column]["quality"][0])
    monkeypatch.setattr(embedded(), "decode", lambda latents: small(latents.repeat(2, 1, 1, 1)))
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(embedded(), make_preset(), PROMPTS[:1], [3])


def test_lpips_is_reported_where_the_scorer_offers_it(monkeypatch):
    distance = lambda images, reference: (images - reference).abs().mean(dim=(1, 2, 3))
    monkeypatch.setattr(embedded().scorer(), "lpips", distance, raising=False)
    result = evaluate(embedded(), make_preset(), PROMPTS[:2], [3])
    assert set(result.metrics) == set(METRICS) and result.metrics["lpips"] == "LPIPS"
    assert result.estimate(FULL_PRECISION, "lpips").mean == 0 < result.estimate(NAIVE, "lpips").mean
    data = result.to_dict()
    assert "lpips" in data["columns"][NAIVE] and "lpips" in data["differences"]["Q-Sched - naive"]


def test_no_lpips_weights_means_no_lpips(monkeypatch):
    monkeypatch.setattr(embedded().scorer(), "lpips", lambda images, reference: None, raising=False)
    monkeypatch.setattr(embedded().scorer(), "quality_name", "HPSv2", raising=False)
    result = evaluate(embedded(), make_preset(), PROMPTS[:1], [3])
    assert (
        set(result.metrics) == MEASURED and result.metrics["quality"] == result.scorer["quality"] == "HPSv2"
    )


@pytest.mark.parametrize(
    ("preset", "prompts", "seeds", "message"),
    [
        ({}, [], 1, "at least one prompt"),
        ({}, ["fox", " "], 1, "none of them empty"),
        ({}, ["fox"], [], "at least one seed"),
        (dict(backbone="pcm-sd15"), ["fox"], 1, "The preset is for pcm-sd15"),
        (dict(steps=9), ["fox"], 1, "does not run in the preset's 9 steps"),
        (dict(settings={"rotation": True}), ["fox"], 1, "rotation"),
        (dict(revision="0123456789ab"), ["fox"], 1, "made with revision 0123456789ab .* --any-revision"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(preset, prompts, seeds, message):
    with counted(embedded()) as count, pytest.raises(ValueError, match=message):
        evaluate(embedded(), make_preset(**preset), prompts, seeds)
    assert count.calls == 0


def test_the_presets_quantizer_settings_are_used():
    settings = dict(group_size=16, activation_scale="tensor", scope="linear", keep_high_precision=False)
    assert quantization_of(make_preset(settings=settings)) == Quantization(
        "w4a8", 16, "tensor", "linear", False
    )
