"""Three columns, each computed once; a drag costs steps - 1 calls of the quantized denoiser and
nothing else.
"""

import dataclasses
import io
import json
import pickle

import pytest
import torch
from browser_app import tiny_backbone
from embedded_model import counted, embedded, jumps
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from qsched.comparison.comparison import compare, rescale
from qsched.comparison.record import record
from qsched.comparison.result import FULL_PRECISION, NAIVE, QSCHED, Settings
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.loop import draw_noise, sample
from qsched.scoring import jaq

STEPS = 3
SETTINGS = Settings("red apple, glossy style", seed=4, steps=STEPS, quantization=Quantization("w4a8"))
CHOSEN = Coefficients.ramp(1.1, 0.9)


def pixels(column) -> Tensor:
    return pil_to_tensor(column.image).float() / 255


@pytest.fixture(scope="module")
def comparison():
    return compare(embedded(), SETTINGS, CHOSEN)


def test_three_columns_with_their_numbers(comparison):
    assert [column.name for column in comparison.columns] == [FULL_PRECISION, NAIVE, QSCHED]
    full, naive, qsched = comparison.columns
    assert (
        full.stored_bytes == embedded().full_precision_bytes
        and full.ratio == 1
        and full.ssim == pytest.approx(1)
    )
    assert naive.stored_bytes == qsched.stored_bytes < full.stored_bytes
    assert naive.ratio == pytest.approx(full.stored_bytes / naive.stored_bytes)
    for column in comparison.columns:
        assert column.image.size == (64, 64) and column.image.mode == "RGB" and column.latency_s > 0
        assert 0 <= column.alignment <= 100 and 0 <= column.quality <= 1 and column.ssim <= 1
        assert column.jaq(1.5) == jaq([column.alignment], [column.quality], 1.5)


def test_each_column_is_what_plain_sampling_gives(comparison):
    backbone = embedded()
    condition, noise = (
        backbone.encode([SETTINGS.prompt]),
        draw_noise(backbone.latent_shape, SETTINGS.seed, [0]),
    )
    module = backbone.quantized(SETTINGS.quantization).module
    for column, coefficients, denoiser in zip(
        comparison.columns, (None, None, CHOSEN), (None, module, module), strict=True
    ):
        expected = backbone.decode(sample(backbone, condition, noise, STEPS, coefficients, denoiser))[0]
        assert jumps(expected, pixels(column)) == 0
    assert jumps(pixels(comparison.naive), pixels(comparison.qsched)) > 0.1


def test_computing_everything_costs_each_call_once():
    with counted(embedded()) as count:
        compare(embedded(), dataclasses.replace(SETTINGS, seed=5), CHOSEN)
    assert (count.calls, count.full) == (STEPS + STEPS + STEPS - 1, STEPS)


def test_a_drag_costs_the_remaining_steps_and_leaves_the_other_columns_alone(comparison):
    with counted(embedded()) as count:
        moved = rescale(embedded(), comparison, Coefficients.constant(0.93, 1.04))
    assert (count.calls, count.full) == (STEPS - 1, 0)
    assert moved.full_precision is comparison.full_precision and moved.naive is comparison.naive
    assert (
        moved.coefficients == Coefficients.constant(0.93, 1.04)
        and moved.qsched.image != comparison.qsched.image
    )


def test_where_it_is_already_costs_nothing(comparison):
    with counted(embedded()) as count:
        back = rescale(embedded(), comparison, CHOSEN)
        same = compare(embedded(), SETTINGS, CHOSEN, previous=back)
    assert count.calls == 0
    assert back.qsched is comparison.qsched and same.qsched is comparison.qsched


@pytest.mark.parametrize(
    "one", [Coefficients.identity(), Coefficients.ramp(1, 1), Coefficients.per_step([1] * 3, [1] * 3)]
)
def test_at_one_qsched_is_the_naive_column_for_no_call(comparison, one):
    with counted(embedded()) as count:
        plain = rescale(embedded(), comparison, one)
    assert count.calls == 0 and plain.qsched == dataclasses.replace(plain.naive, name=QSCHED)


def test_another_bit_width_keeps_full_precision(comparison):
    settings = dataclasses.replace(SETTINGS, quantization=Quantization("w2a8"))
    with counted(embedded()) as count:
        other = compare(embedded(), settings, CHOSEN, previous=comparison)
    assert (count.calls, count.full) == (STEPS + STEPS - 1, 0)
    assert (
        other.full_precision is comparison.full_precision
        and other.naive.stored_bytes < comparison.naive.stored_bytes
    )


@pytest.mark.parametrize("change", [dict(prompt="fox"), dict(seed=99), dict(steps=2)])
def test_another_image_is_computed_anew(comparison, change):
    settings = dataclasses.replace(SETTINGS, **change)
    with counted(embedded()) as count:
        other = compare(embedded(), settings, Coefficients.identity(), previous=comparison)
    assert (count.calls, count.full) == (2 * settings.steps, settings.steps)
    assert other.settings == settings and other.full_precision is not comparison.full_precision


def test_another_models_images_are_not_reused(comparison):
    foreign = dataclasses.replace(comparison, backbone="emoji-lcm 000000000000")
    with counted(embedded()) as count:
        compare(embedded(), SETTINGS, Coefficients.identity(), previous=foreign)
    assert count.full == STEPS


def test_it_survives_a_pickle_and_goes_on(comparison):
    assert all(
        value.device.type == "cpu"
        for owner in (comparison, comparison.condition, comparison.noise)
        for value in vars(owner).values()
        if isinstance(value, Tensor)
    )
    data = pickle.dumps(comparison)
    copy = pickle.loads(data)
    assert len(data) < 1_000_000
    assert [numbers(column) for column in copy.columns] == [numbers(column) for column in comparison.columns]
    point = Coefficients.constant(1.03, 0.97)
    with counted(embedded()) as count:
        one, other = rescale(embedded(), copy, point), rescale(embedded(), comparison, point)
    assert numbers(one.qsched) == numbers(other.qsched) and count.calls == 2 * (STEPS - 1)


def numbers(column) -> tuple:
    return column.image.tobytes(), column.alignment, column.quality, column.ssim, column.psnr, column.badges


def test_it_knows_its_size_and_does_not_grow():
    comparison = compare(embedded(), Settings("fox", steps=1), Coefficients.identity())
    for tensor in (comparison.condition.embeds, comparison.condition.pooled, comparison.first):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, "a view would keep the batch it is part of"
    before = comparison.nbytes
    for i in range(5):
        comparison = rescale(embedded(), comparison, Coefficients.constant(1.001 + i / 1000, 1.0))
    assert comparison.nbytes == before == pytest.approx(len(pickle.dumps(comparison)), rel=0.1)


def test_the_record_reproduces_the_comparison(comparison):
    stored = json.loads(json.dumps(record(comparison, k=1.0), allow_nan=False))
    settings = stored["settings"] | {"quantization": Quantization(**stored["settings"]["quantization"])}
    again = compare(embedded(), Settings(**settings), Coefficients.from_dict(stored["coefficients"]))
    for column, numbers in zip(again.columns, stored["columns"], strict=True):
        assert numbers["jaq"] == pytest.approx(column.jaq(1.0), abs=1e-4) and numbers["name"] == column.name
    assert [column.image for column in again.columns] == [column.image for column in comparison.columns]
    assert stored["backbone"]["revision"] == embedded().revision and len(stored["timesteps"]) == STEPS
    assert stored["scorer"]["name"] == "emoji-clip" and stored["scorer"]["k"] == 1.0
    assert stored["columns"][0]["jaq_difference"] == 0


def test_a_long_prompt_is_cut_and_said_so():
    long = compare(embedded(), Settings("a very " * 3000 + "red fox", steps=1), Coefficients.identity())
    assert any("longer" in note for note in long.notes) and len(long.settings.prompt) <= 2000
    assert compare(embedded(), Settings("a red fox", steps=1), Coefficients.identity()).notes == ()


def test_white_space_makes_no_other_image():
    one = compare(embedded(), Settings("  red\n  fox ", steps=1), Coefficients.identity())
    with counted(embedded()) as count:
        compare(embedded(), Settings("red fox", steps=1), Coefficients.identity(), previous=one)
    assert count.calls == 0


def test_a_broken_trajectory_is_scored_badly_and_recorded_as_json():
    broken = compare(embedded(), Settings("fox", steps=2), Coefficients.constant(3e38, 3e38))
    assert broken.qsched.image.size == (64, 64)
    text = json.dumps(record(broken), allow_nan=False)
    assert json.loads(text)["columns"][2]["alignment"] is not None
    image = io.BytesIO()
    broken.qsched.image.save(image, "png")
    assert Image.open(image).size == (64, 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(""), "type a prompt"),
        (Settings(" \n\t "), "type a prompt"),
        (Settings(None), "type a prompt"),
        (Settings("fox", steps=0), "runs in 1, 2, 3, 4, 5, 6, 7 or 8 steps, not 0"),
        (Settings("fox", steps=9), "not 9"),
        (Settings("fox", steps=2.5), "not 2.5"),
        (Settings("fox", seed=-1), "seed must be a whole number"),
        (Settings("fox", seed=2**31), "seed must be a whole number"),
        (Settings("fox", seed=1.5), "seed must be a whole number"),
        (Settings("fox", quantization=Quantization("w9a9")), "9"),
        (Settings("fox", quantization=Quantization("")), "unknown bit-width"),
    ],
)
def test_bad_settings_are_one_sentence_and_cost_nothing(settings, message):
    with counted(embedded()) as count, pytest.raises(ValueError, match=message) as caught:
        compare(embedded(), settings, Coefficients.identity())
    assert count.calls == 0 and "\n" not in str(caught.value)


def test_coefficients_that_do_not_fit_leave_the_comparison_as_it_was(comparison):
    before = comparison.qsched
    with counted(embedded()) as count, pytest.raises(ValueError, match="the schedule has 3 steps"):
        rescale(embedded(), comparison, Coefficients.per_step([1.1] * 4, [1.0] * 4))
    assert count.calls == 0 and comparison.qsched is before
    assert torch.isfinite(comparison.first).all()


def test_a_first_run_is_marked_and_later_ones_are_not():
    fresh = tiny_backbone()
    marks = lambda comparison: [column.first_run for column in comparison.columns]
    first = compare(fresh, Settings("fox", 0, 1), Coefficients.constant(1.1, 0.9))
    assert marks(first) == [True, True, True], "the third shares a first prediction with the second"
    later = compare(fresh, Settings("owl", 0, 1), Coefficients.constant(1.1, 0.9), first)
    assert marks(later) == [False, False, False]
    other = compare(fresh, Settings("owl", 0, 1, Quantization("w2a8")), Coefficients.identity(), later)
    assert marks(other) == [False, True, True]
