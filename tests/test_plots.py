"""The surface image: exact clicks, marks at their places, fast redraws."""

import time

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import ImageChops

from qsched import plots
from qsched.plots.heatmap import surface_figure
from qsched.plots.look import SIZE
from qsched.plots.working import WorkingCell
from qsched.surfaces.surface import Surface

ORANGE = (255, 90, 31)


def surface(columns: int = 11, rows: int = 11, seed: int = 0) -> Surface:
    """Random quality at constant alignment: every cell has its own colour. The range does not hold (1, 1)."""
    quality = np.random.default_rng(seed).uniform(0.2, 0.8, (rows, columns, 1))
    axes = np.linspace(1.1, 1.5, columns), np.linspace(0.5, 0.9, rows)
    return Surface(*map(tuple, axes), np.full_like(quality, 25.0), quality)


def pixels(shown) -> np.ndarray:
    return np.asarray(shown.image).astype(int)


@pytest.mark.parametrize(
    ("columns", "rows", "size"), [(11, 11, SIZE), (7, 10, (600, 500)), (50, 50, (1003, 770))]
)
def test_every_pixel_of_the_cells_has_the_colour_of_the_cell_a_click_on_it_gives(columns, rows, size):
    """So the inverse is exact to the pixel, and no legend covers a cell; only the star of the optimum is left
    out.
    """
    grid = surface(columns, rows)
    shown, values = surface_figure(grid, size=size), grid.jaq()
    norm, _, _ = plots.look.scale(values, "grey")
    colours = colormaps["viridis"](norm(values), bytes=True)[..., :3].astype(int)
    left, top, width, height = shown.box
    x, y = np.arange(left, left + width), np.arange(top, top + height)
    clicked_i = [shown.to_cell(left, row)[0] for row in y]
    clicked_j = [shown.to_cell(column, top)[1] for column in x]
    assert sorted(set(clicked_i)) == list(range(rows)) and sorted(set(clicked_j)) == list(range(columns))
    expected = colours[np.ix_(clicked_i, clicked_j)]
    wrong = (pixels(shown)[top : top + height, left : left + width] != expected).any(-1)
    star = shown.value_to_xy(*grid.best()[:2])
    assert not wrong[np.hypot(x[None] - star[0], y[:, None] - star[1]) > 40].any()


@pytest.mark.parametrize(("columns", "rows"), [(11, 11), (1, 1), (3, 20)])
def test_cells_and_their_centres_are_inverse(columns, rows):
    shown = surface_figure(surface(columns, rows))
    for i in range(rows):
        for j in range(columns):
            assert shown.to_cell(*shown.value_to_xy(shown.c_x[j], shown.c_eps[i])) == (i, j)
            assert shown.to_cell(*shown.value_to_xy(shown.c_x[j], shown.c_eps[i])) == (i, j)


def test_clicks_on_margins_hit_nothing():
    shown = surface_figure(surface())
    left, top, width, height = shown.box
    inside = [
        (left, top),
        (left + width - 1, top),
        (left, top + height - 1),
        (left + width - 1, top + height - 1),
    ]
    assert [shown.to_cell(*xy) for xy in inside] == [(10, 0), (10, 10), (0, 0), (0, 10)]
    outside = [
        (left - 1, top),
        (left, top - 1),
        (left + width, top),
        (left, top + height),
        (0, 0),
        (-5, 9),
        (839, 719),
    ]
    assert [shown.to_cell(*xy) for xy in outside] == [None] * 7


def test_the_current_point_lies_between_cells_and_stays_on_the_edge_when_outside():
    shown = surface_figure(surface())
    left, top, width, height = shown.box
    x, y = shown.value_to_xy(1.12, 0.52)  # half-way between the first and the second cell
    assert (x, y) == pytest.approx((left + width / 11, top + height - height / 11))
    assert shown.value_to_xy(9.0, 9.0) == (left + width - 1, top)
    assert shown.value_to_xy(0.1, 0.1) == (left, top + height - 1)
    for current in ((9.0, 9.0), (0.1, 0.1), (float("inf"), 0.7)):
        marked = surface_figure(surface(), current)
        box = ImageChops.difference(shown.image, marked.image).getbbox()
        assert left - 30 <= box[0] and box[2] <= left + width + 30
        assert top - 30 <= box[1] and box[3] <= top + height + 30


def test_uneven_axes_place_a_value_between_its_neighbours():
    grid = Surface((0.5, 1.0, 2.0), (1.0,), np.full((1, 3, 1), 20.0), np.full((1, 3, 1), 0.5))
    shown = surface_figure(grid)
    left, _, width, _ = shown.box
    assert shown.value_to_xy(1.5, 1.0)[0] == pytest.approx(left + 2 * width / 3)


def test_moving_the_current_point_redraws_only_its_marks():
    plain, marked = surface_figure(surface()), surface_figure(surface(), (1.3, 0.7))
    left, top, width, height = plain.box
    x, y = map(int, marked.value_to_xy(1.3, 0.7))
    changed = (pixels(plain) != pixels(marked)).any(-1)
    rows, columns = np.nonzero(changed)
    assert all(
        (abs(columns - x) < 25) & (abs(rows - y) < 25) | (abs(columns - x) <= 2) | (abs(rows - y) <= 2)
    )
    assert (
        left <= columns.min()
        and columns.max() < left + width
        and top <= rows.min()
        and rows.max() < top + height
    )
    assert tuple(pixels(marked)[y, left + 3]) == tuple(pixels(marked)[top + 3, x]) == ORANGE
    assert not changed[y - 5 : y + 6, x - 5 : x + 6].any()  # the ring leaves the cell visible
    assert ImageChops.difference(surface_figure(surface()).image, plain.image).getbbox() is None


def test_a_caller_that_paints_on_the_image_does_not_spoil_the_next():
    first = surface_figure(surface())
    first.image.paste((1, 2, 3), (0, 0, 840, 720))
    assert tuple(pixels(surface_figure(surface()))[0, 0]) != (1, 2, 3)


def test_optimum_and_plain_scheduler_are_marked():
    x = np.linspace(0.8, 1.2, 11)
    quality = np.full((11, 11, 1), 0.2)
    quality[2, 8] = 0.9
    grid = Surface(tuple(x), tuple(x), np.full_like(quality, 25.0), quality)
    shown = surface_figure(grid)
    image = pixels(shown)
    for i, j in ((2, 8), (5, 5)):
        column, row = map(int, shown.value_to_xy(shown.c_x[j], shown.c_eps[i]))
        assert tuple(image[row, column]) == (255, 255, 255)


def test_failed_cells_are_grey_and_a_surface_without_a_score_is_drawn():
    grid = surface()
    grid.record(4, 3, [float("nan")], [0.5])
    shown = surface_figure(grid)
    assert tuple(pixels(shown)[tuple(map(int, shown.value_to_xy(shown.c_x[3], shown.c_eps[4])[::-1]))]) == (
        209,
        213,
        219,
    )
    empty = surface_figure(Surface.empty((0.9, 1.0), (0.9, 1.0), 2), (1.0, 1.0), dark=True)
    assert tuple(pixels(empty)[tuple(map(int, empty.value_to_xy(empty.c_x[0], empty.c_eps[0])[::-1]))]) == (
        55,
        65,
        81,
    )


def test_a_new_score_k_or_variant_changes_the_image():
    grid = surface()
    first = surface_figure(grid)
    different = lambda other: ImageChops.difference(first.image, other.image).getbbox() is not None
    assert different(surface_figure(grid, k=1.0))
    assert different(surface_figure(grid, note="scorer"))
    dark = surface_figure(grid, dark=True)
    assert tuple(pixels(first)[0, 0]) == (255, 255, 255) and tuple(pixels(dark)[0, 0]) == (11, 15, 25)
    grid.record(0, 0, [25.0], [0.0])
    assert different(surface_figure(grid))


def test_one_collapsed_cell_does_not_take_the_colours_of_the_rest():
    grid = surface()
    grid.record(0, 0, [0.0], [0.0])
    norm, _, extend = plots.look.scale(grid.jaq(), "grey")
    assert extend == "min" and norm.vmin > 0
    assert plots.look.scale(surface().jaq(), "grey")[2] == "neither"


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        ((0.8, 0.84, 1.2), ["0.80", "0.90", "1.00", "1.10", "1.20"]),
        ((1.0,), ["1.00"]),
        ((0.99, 1.01), ["0.99", "0.995", "1.00", "1.005", "1.01"]),
    ],
)
def test_axis_labels_are_round(axis, labels):
    assert [plots.look.label(tick) for tick in plots.look.ticks(axis)] == labels


def test_nan_draws_no_current_point_and_too_small_a_image_is_refused():
    without = surface_figure(surface()).image
    assert (
        ImageChops.difference(surface_figure(surface(), (float("nan"), 1.0)).image, without).getbbox() is None
    )
    with pytest.raises(ValueError, match="too small"):
        surface_figure(surface(50, 50), size=(60, 60))


def test_a_redraw_costs_less_than_five_milliseconds():
    grid, costs = surface(), []
    surface_figure(grid)
    for c_x in np.linspace(1.0, 1.6, 60):
        start = time.perf_counter()
        surface_figure(grid, (c_x, 0.7))
        costs.append(time.perf_counter() - start)
    assert sorted(costs)[15] < 0.005  # the lower quartile: other processes may hold the cores


def test_a_cell_in_work_fills_with_its_colour_as_its_images_come():
    grid = surface()
    where, before = (grid.c_x[3], grid.c_eps[8]), surface_figure(grid)
    value = float(np.median(grid.jaq()))
    norm, colours, _ = plots.look.scale(grid.jaq(), "grey")
    filled = []
    for share in (0.0, 0.25, 1.0):
        shown = surface_figure(grid, working=[WorkingCell(*where, share, value if share else None)])
        changed = (pixels(shown) != pixels(before)).any(-1)
        rows, columns = changed.nonzero()
        assert {shown.to_cell(x, y) for y, x in zip(rows, columns, strict=True)} == {(8, 3)}
        filled.append(
            (changed & (pixels(shown) == np.array(colours(norm(value), bytes=True)[:3])).all(-1)).sum()
        )
    area = before.box[2] * before.box[3] / 121
    frame = 1 - filled[2] / area
    assert filled[0] == 0 and filled[1] == pytest.approx(area / 4, rel=0.1) and 0 < frame < 0.2
