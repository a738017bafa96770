"""The path: what each step believes the finished image to be, for the four schedulers and on the page."""

import numpy as np
import pytest
import torch
from browser_app import NEEDS_BROWSER, tiny_backbone
from diffusers import (
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    TCDScheduler,
)
from tiny_models import fresh

from qsched.comparison.comparison import compare, rescale
from qsched.comparison.record import record
from qsched.comparison.result import Settings
from qsched.comparison.thumbnail import SIDE
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.estimates import clean_estimate
from qsched.schedulers import with_coefficients
from qsched.ui.compare import path

SCHEDULERS = [LCMScheduler, TCDScheduler, EulerAncestralDiscreteScheduler, FlowMatchEulerDiscreteScheduler]
CLEAN, NOISE = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)


def noisy(scheduler, index):
    """x_t of CLEAN with NOISE at a step, and the prediction that explains it."""
    if isinstance(scheduler, LCMScheduler | TCDScheduler):
        return scheduler.add_noise(CLEAN, NOISE, scheduler.timesteps[index : index + 1]), NOISE
    sigma = scheduler.sigmas[index]
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return (1 - sigma) * CLEAN + sigma * NOISE, NOISE - CLEAN
    return CLEAN + sigma * NOISE, NOISE


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("index", [0, 2])
def test_the_right_prediction_gives_the_clean_sample(kind, index):
    scheduler = kind()
    scheduler.set_timesteps(4)
    sample, prediction = noisy(scheduler, index)
    torch.testing.assert_close(
        clean_estimate(scheduler, index, prediction, sample), CLEAN, atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_coefficients_of_the_step_are_applied(kind):
    scheduler = with_coefficients(kind(), [1.1, 1.0, 0.9, 0.8], [0.9, 1.0, 1.1, 1.2])
    plain = kind()
    for one in (scheduler, plain):
        one.set_timesteps(4)
    sample, prediction = noisy(plain, 2)
    expected = clean_estimate(plain, 2, 1.1 * prediction, 0.9 * sample)
    torch.testing.assert_close(clean_estimate(scheduler, 2, prediction, sample), expected)


def test_another_kind_of_prediction_is_refused():
    scheduler = LCMScheduler(prediction_type="sample")
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="'sample'; only 'epsilon' is known"):
        clean_estimate(scheduler, 0, NOISE, CLEAN)


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


@pytest.fixture(scope="module")
def comparison(backbone):
    settings = Settings("fox", 0, 4, Quantization("w4a8"))
    return compare(backbone, settings, Coefficients.ramp(1.1, 0.9))


def pixels(image):
    return np.asarray(image, dtype=float)


def test_the_last_step_believes_in_the_finished_image(comparison):
    for column in comparison.columns:
        assert len(column.path) == 4
        assert abs(pixels(column.path[-1]) - pixels(column.image)).max() <= 1, column.name
        assert abs(pixels(column.path[0]) - pixels(column.image)).mean() > 3, column.name


def test_a_drag_bends_the_path_of_its_image_alone(backbone, comparison):
    moved = rescale(backbone, comparison, Coefficients.constant(1.2, 0.8))
    assert moved.naive.path is comparison.naive.path
    assert (pixels(moved.qsched.path[0]) != pixels(comparison.qsched.path[0])).any()


@pytest.mark.slow
def test_images_of_a_path_are_small_counted_and_left_out_of_the_record(backbone, comparison, monkeypatch):
    column = comparison.qsched
    assert column.nbytes == 5 * 64 * 64 * 3
    assert all("path" not in numbers for numbers in record(comparison)["columns"])
    large = torch.zeros(1, 3, 1024, 512)
    monkeypatch.setattr(backbone, "decode", lambda latents: large)
    made = compare(backbone, Settings("large"), Coefficients.identity())
    assert {max(image.size) for image in made.naive.path} == {SIDE}


def test_a_slow_decoder_draws_no_path(backbone, monkeypatch):
    monkeypatch.setattr(backbone, "preview", lambda latents: None)
    made = compare(backbone, Settings("slow"), Coefficients.identity())
    assert not made.qsched.path and path.fixed_rows(made) == path.qsched_row(made) == ""


def test_a_pipeline_draws_it_by_its_tiny_decoder_where_nothing_has_to_leave():
    backbone = fresh("sdxl-turbo")
    made = compare(backbone, Settings("a red fox", 0, 2), Coefficients.ramp(1.1, 0.9))
    assert [len(column.path) for column in made.columns] == [2, 2, 2]
    everything = backbone.weight_bytes + backbone.parts.work
    tiny = sum(weight.nbytes for weight in backbone.tiny.state_dict().values())
    for room, images in ((tiny, 2), (tiny - 1, 0)):
        backbone.residency.budget = everything + room
        made = compare(backbone, Settings(f"room for {room}", 0, 2), Coefficients.identity())
        assert len(made.naive.path) == images, room


def test_the_strip_names_every_step(comparison):
    fixed, moving = path.fixed_rows(comparison), path.qsched_row(comparison)
    assert fixed.count("<img") == 8 and moving.count("<img") == 4 and "step 4" in fixed
    assert "c<sub>x</sub> 1.1<br>c<sub>ε</sub> 0.9" in moving and "c<sub>x</sub> 1<br>" in moving


class TestOnThePage:
    pytestmark = NEEDS_BROWSER

    def test_a_drag_updates_the_strip(self, visit):
        visitor, row = visit(), "#path img[data-path=qsched]"
        sources = lambda: visitor.page.eval_on_selector_all(row, "all => all.map((one) => one.src)")
        before = sources()
        assert len(before) == 4
        visitor.drag("c_x", 0.9)
        visitor.until(lambda: all(now != then for now, then in zip(sources(), before, strict=True)))
        left = lambda key: visitor.page.locator(f"#path img[data-path={key}]").nth(1).bounding_box()["x"]
        assert left("naive") == pytest.approx(left("qsched"), abs=0.5), "one column a step"

    def test_play_shows_the_steps_and_ends_with_the_images(self, visit):
        visitor, large = visit(), "#image-qsched img"
        end = visitor.page.get_attribute(large, "src")
        first = visitor.page.get_attribute("#path img[data-path=qsched]", "src")
        visitor.page.click("#play")
        assert visitor.page.get_attribute(large, "src") == first
        visitor.page.wait_for_selector("#path img.now", state="attached")
        visitor.page.wait_for_selector("#path img.now", state="detached")
        assert visitor.page.get_attribute(large, "src") == end
