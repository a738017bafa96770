"""Noise in the image: hatching where a cell does not differ from plain, the optimum's outline,
the k sweep.
"""

import numpy as np
import pytest
from PIL import ImageChops

from qsched.plots.heatmap import surface_figure
from qsched.plots.look import CURRENT, scale
from qsched.plots.sweep import k_sweep_figure
from qsched.surfaces.surface import Surface

AXIS = tuple(round(0.8 + 0.04 * i, 4) for i in range(11))
DIFFERENT = (1, 2)


def noisy(seed: int = 0, axis=AXIS) -> Surface:
    """All cells equal but for noise; the lower left quarter is worse by far, cell (9, 9) is better by far."""
    rng, n = np.random.default_rng(seed), len(axis)
    quality = 0.6 + rng.normal(scale=0.02, size=(n, n, 20))
    quality[:4, :4] -= 0.3
    quality[9, 9] += 0.3
    return Surface(axis, axis, np.full((n, n, 20), 30.0), quality)


def cell_pixels(shown, i: int, j: int) -> np.ndarray:
    """The inner pixels of a cell, without its border, shape (pixels, 3)."""
    left, top, width, height = shown.box
    w, h = width // len(shown.c_x), height // len(shown.c_eps)
    x, y = left + j * w, top + height - (i + 1) * h
    return np.asarray(shown.image).astype(int)[y + 5 : y + h - 5, x + 5 : x + w - 5].reshape(-1, 3)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [(840, 756), (600, 540)])
def test_cells_that_do_not_differ_from_plain_are_hatched_and_only_they(dark, size):
    surface = noisy()
    alike, norm = surface.uncertainty(2.0).alike, scale(surface.jaq(), "grey")
    shown = surface_figure(surface, dark=dark, size=size)
    assert 60 < alike.sum() < 121 and not alike[:4, :4].any() and not alike[9, 9]
    for i, j in np.ndindex(11, 11):
        if (i, j) in ((5, 5), (9, 9)):
            continue  # marked as plain and as best
        colour = np.round(255 * np.array(norm[1](norm[0](surface.jaq()[i, j]))[:3]))
        stroked = (np.abs(cell_pixels(shown, i, j) - colour).max(axis=1) > 12).mean()
        assert 0.1 < stroked < 0.5 if alike[i, j] else stroked == 0, (i, j)


def test_without_noise_there_is_no_hatching():
    surface = noisy()
    bare = surface_figure(surface, noise=False)
    assert len(np.unique(cell_pixels(bare, 6, 6), axis=0)) == 1
    one = surface_figure(Surface(AXIS, AXIS, surface.alignment[..., :1], surface.quality[..., :1]))
    assert len(np.unique(cell_pixels(one, 6, 6), axis=0)) == 1
    assert bare.box == surface_figure(surface).box, "the cells do not move when the noise comes"


def test_a_grid_that_does_not_cover_one_is_not_hatched_but_outlined():
    axis = tuple(1.1 + 0.04 * i for i in range(11))
    surface = noisy(axis=axis)
    shown = surface_figure(surface)
    assert all(len(np.unique(cell_pixels(shown, i, j), axis=0)) == 1 for i, j in ((0, 0), (6, 6), (10, 3)))
    assert (
        ImageChops.difference(shown.image, surface_figure(surface, noise=False).image).getbbox() is not None
    )


def test_the_cell_nearest_to_one_stands_for_plain():
    axis = tuple(0.81 + 0.04 * i for i in range(11))  # 0.97, 1.01: not 1
    shown = surface_figure(noisy(axis=axis))
    assert len(np.unique(cell_pixels(shown, 6, 6), axis=0)) > 1


def test_the_region_of_the_optimum_is_outlined():
    """Around the one cell that always wins: a light line with a dark rim along its border, and around no
    other.
    """
    shown = surface_figure(noisy())
    left, top, width, height = shown.box
    w, h = width // 11, height // 11
    image = np.asarray(shown.image).astype(int)
    border = top + height - 9 * h  # between rows 8 and 9
    row = lambda j: image[border - 4 : border + 5, left + j * w + w // 4]
    assert row(9).min(axis=0).max() < 60 and row(9).max(axis=0).min() > 240
    assert row(7).max() <= 255 and not (row(7).min(axis=1) > 240).any()


def test_scores_behind_the_same_means_change_the_image():
    """The image is remembered by its scores, not only by the cells' means."""
    surface = noisy()
    calm = Surface(
        AXIS, AXIS, surface.alignment, surface.quality.mean(axis=-1, keepdims=True).repeat(20, axis=-1)
    )
    assert (
        ImageChops.difference(surface_figure(surface).image, surface_figure(calm).image).getbbox() is not None
    )


def test_clicks_do_not_depend_on_k():
    surface = noisy()
    assert surface_figure(surface, k=0.0).box == surface_figure(surface, k=5.0, dark=True).box


def column(image, x: int) -> np.ndarray:
    return np.asarray(image)[:, x]


def test_the_sweep_marks_the_k_in_use_and_leaves_the_rest():
    surface = noisy()
    none, two, three = (k_sweep_figure(surface, k) for k in (None, 2.0, 3.0))
    orange = tuple(int(CURRENT[i : i + 2], 16) for i in (1, 3, 5))
    at = lambda image: np.nonzero((np.asarray(image) == orange).all(-1).sum(axis=0) > 300)[0]
    assert not at(none).size and at(two).size and at(three).size
    assert at(three).mean() - at(two).mean() == pytest.approx((840 - 128 - 30) / 5, abs=1)
    changed = (np.asarray(none) != np.asarray(two)).any(-1)
    assert set(np.nonzero(changed.any(axis=0))[0]) <= set(at(two))


@pytest.mark.slow
def test_the_sweep_is_drawn_in_both_looks_and_without_noise():
    light, dark = (k_sweep_figure(noisy(), 2.0, dark=dark, note="W4A8") for dark in (False, True))
    assert light.getpixel((0, 0)) == (255, 255, 255) and dark.getpixel((0, 0)) == (11, 15, 25)
    one = Surface((1.1, 1.2), (1.0,), np.full((1, 2, 1), 20.0), np.random.rand(1, 2, 1))
    assert k_sweep_figure(one, 9.0, size=(600, 640)).size == (600, 640)
    with pytest.raises(ValueError, match="no cell"):
        k_sweep_figure(Surface.empty(AXIS, AXIS, 3))
