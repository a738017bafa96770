"""JAQ, similarity to full precision, failure signatures."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from qsched.scoring import ImageScores, Scorer, jaq, jaq_values
from qsched.scoring.signatures import (
    colour_shift,
    contrast,
    detail_ratio,
    failure_badges,
    noise_likeness,
    to_lab,
)
from qsched.scoring.similarity import similarity


def shapes(seed: int, size: int = 64) -> torch.Tensor:
    """A clean image on white: a disc and a striped square at random places, colours from a fixed palette."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    image = np.ones((3, size, size))
    cx, cy = random.uniform(0.35, 0.65, 2)
    image[:, (x - cx) ** 2 + (y - cy) ** 2 < 0.09] = np.array([[0.85], [0.15], [0.1]])
    left, top = random.uniform(0.1, 0.5, 2)
    square = (x > left) & (x < left + 0.3) & (y > top) & (y < top + 0.3) & ((x * 16).astype(int) % 2 == 0)
    image[:, square] = np.array([[0.1], [0.3], [0.8]])
    return torch.tensor(image, dtype=torch.float32)


def blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).expand(3, 1, -1)
    padded = F.pad(image[None], [reach] * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, weights[..., None], groups=3), weights[:, :, None], groups=3)[0].clamp(
        0, 1
    )


def hue_shifted(image: torch.Tensor) -> torch.Tensor:
    return image[[1, 2, 0]]  # red becomes blue, blue green; white stays


def noisy(image: torch.Tensor, amount: float) -> torch.Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return (image + amount * noise).clamp(0, 1)


def names(*args) -> list[str]:
    return [badge.name for badge in failure_badges(*args)]


# JAQ


def test_jaq_is_log_of_the_mean_plus_k_times_the_mean():
    assert jaq([20.0, 30.0], [0.4, 0.6]) == pytest.approx(math.log(25) + 2 * 0.5)
    assert jaq(torch.tensor([20.0, 30.0]), torch.tensor([0.4, 0.6]), k=0.5) == pytest.approx(
        math.log(25) + 0.25
    )


def test_jaq_of_noise_is_finite_and_low():
    assert jaq([0.0, 0.0], [0.1, 0.1]) == pytest.approx(math.log(0.01) + 0.2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_score_that_is_not_finite_fails_the_whole_set(bad):
    assert math.isnan(jaq([20.0, bad], [0.5, 0.5]))
    assert math.isnan(jaq([20.0, 20.0], [bad, 0.5]))


@pytest.mark.parametrize(
    ("alignment", "quality"), [([], []), ([20.0], [0.5, 0.5]), (20.0, 0.5), ([[20.0]], [[0.5]])]
)
def test_jaq_refuses_scores_that_do_not_pair_up(alignment, quality):
    with pytest.raises(ValueError):
        jaq(alignment, quality)


def test_jaq_values_work_along_the_last_axis():
    alignment, quality = torch.rand(3, 4, 5) * 30, torch.rand(3, 4, 5)
    values = jaq_values(alignment, quality, 1.5)
    assert values.shape == (3, 4)
    assert values[1, 2] == pytest.approx(jaq(alignment[1, 2], quality[1, 2], 1.5))


def test_a_scorer_is_what_has_the_protocol():
    class Constant:
        name, definition = "constant", "always the same"

        def alignment(self, images, prompts):
            return torch.full((len(images),), 25.0)

        def quality(self, images):
            return torch.full((len(images),), 0.5)

        def score(self, images, prompts):
            return ImageScores(self.alignment(images, prompts), self.quality(images))

    assert isinstance(Constant(), Scorer)
    assert not isinstance(object(), Scorer)


# similarity


def test_ssim_takes_oblong_images():
    image = torch.rand(2, 3, 20, 33)
    assert similarity(image, image).ssim.tolist() == pytest.approx([1, 1])


def test_psnr_in_decibels():
    image = torch.full((2, 3, 16, 16), 0.5)
    other = image + torch.tensor([0.1, 0.01])[:, None, None, None]
    assert similarity(image, other).psnr.tolist() == pytest.approx([20, 40], abs=1e-3)
    assert similarity(image, image).psnr.tolist() == [100, 100]


def test_similarity_falls_with_damage():
    image = shapes(0)[None]
    results = [similarity(noisy(image, amount), image) for amount in (0.02, 0.1, 0.4)]
    for kind in ("ssim", "psnr"):
        values = [float(getattr(result, kind)) for result in results]
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("image", "reference", "says"),
    [
        (torch.rand(1, 3, 16, 16) * 255, torch.rand(1, 3, 16, 16), r"\[0, 1\]"),
        (torch.rand(1, 3, 16, 16) * 2 - 1, torch.rand(1, 3, 16, 16), r"\[0, 1\]"),
        (torch.rand(3, 16, 16), torch.rand(3, 16, 16), "batch"),
        (torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 17), "differ"),
        (torch.rand(1, 3, 8, 16), torch.rand(1, 3, 8, 16), "11"),
    ],
)
def test_similarity_refuses_wrong_shapes_and_ranges(image, reference, says):
    with pytest.raises(ValueError, match=says):
        similarity(image, reference)


# failure signatures


def test_lab_of_known_colours():
    """White, black and pure sRGB red (CIELAB 53.24, 80.09, 67.20 under D65)."""
    colours = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0]]).T[:, :, None]
    expected = torch.tensor([[100.0, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20]]).T[:, :, None]
    torch.testing.assert_close(to_lab(colours), expected, atol=0.05, rtol=0)


def test_colour_shift_sees_hue_saturation_and_tint_but_no_motion():
    image = shapes(0)
    grey = image.mean(0, keepdim=True).expand(3, -1, -1)
    tinted = (image - torch.tensor([0.3, 0.0, 0.0])[:, None, None]).clamp(0, 1)
    shift = lambda other: colour_shift(to_lab(other), to_lab(image))
    assert shift(image) == 0
    assert shift(image.flip(1).roll(9, 2)) == pytest.approx(0, abs=1e-3)
    assert min(shift(hue_shifted(image)), shift(grey), shift(tinted)) > 10


def test_detail_ratio_falls_with_blur_and_rises_with_noise():
    lab = to_lab(shapes(0))
    ratios = [detail_ratio(to_lab(blurred(shapes(0), sigma)), lab) for sigma in (0.5, 1, 2, 4)]
    assert ratios == sorted(ratios, reverse=True) and ratios[0] < 1
    assert detail_ratio(lab, lab) == 1
    assert detail_ratio(to_lab(noisy(shapes(0), 0.1)), lab) > 1.5


def test_contrast_and_noise_likeness_of_extremes():
    constant, noise, image = torch.full((3, 64, 64), 0.5), torch.rand(3, 64, 64), shapes(0)
    assert contrast(to_lab(constant)) == pytest.approx(0, abs=1e-3)
    assert contrast(to_lab(image)) > 20
    assert noise_likeness(to_lab(constant)) == 0
    assert noise_likeness(to_lab(noise)) == pytest.approx(1, abs=0.1)
    assert noise_likeness(to_lab(image)) < 0.3


@pytest.mark.parametrize("size", [64, 512])
def test_each_damage_gets_its_badge_and_a_clean_image_none(size):
    image = shapes(3, size)
    assert names(image, image) == []
    assert names(noisy(image, 0.02), image) == []
    assert names(image.roll(3, 2), image) == []
    assert names(blurred(image, 3 * size / 64), image) == ["lost detail"]
    assert names(hue_shifted(image), image) == ["colour distortion"]
    assert names(torch.full_like(image, 0.7), image) == ["collapse"]


def test_collapse_needs_no_reference():
    assert names(torch.full((3, 64, 64), 0.7)) == ["collapse"]
    assert names(torch.rand(3, 64, 64)) == ["collapse"]
    assert names(0.5 + 0.05 * (shapes(0) - 0.5)) == ["collapse"]
    assert names(torch.full((3, 64, 64), math.nan)) == ["collapse"]
    assert names(hue_shifted(shapes(0))) == []


def test_a_badge_says_what_was_measured_and_why():
    image = shapes(0)
    (badge,) = failure_badges(blurred(image, 3)[None], image[None])
    assert badge.value == detail_ratio(to_lab(blurred(image, 3)), to_lab(image)) < badge.threshold
    assert "c_x" in badge.explanation


def test_badges_refuse_batches_and_other_sizes():
    with pytest.raises(ValueError, match="one image"):
        failure_badges(torch.rand(2, 3, 16, 16))
    with pytest.raises(ValueError, match="differ"):
        failure_badges(torch.rand(3, 16, 16), torch.rand(3, 16, 17))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        failure_badges(torch.rand(3, 16, 16) * 255)
