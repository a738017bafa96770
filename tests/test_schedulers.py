"""The Q-Sched schedulers step by step: equal to the stock ones at 1, "scale, then stock step" elsewhere."""

import json

import numpy as np
import pytest
import torch
from stock_schedulers import FAMILIES, SHAPE, assert_same, make, model, rows, trajectory, twin_class

from qsched import schedulers
from qsched.sampling.coefficients import Coefficients, stack
from qsched.schedulers import with_coefficients

STEPS = [1, 2, 4, 8]


@pytest.fixture(params=FAMILIES)
def stock(request):
    return make(request.param)


# Equal to the stock scheduler, and to "scale, then stock step"


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("one", [1.0, 1, [1.0, 1.0], "per step", "tensor"])
def test_at_1_every_latent_equals_the_stock_scheduler(stock, steps, one):
    scheduler = twin_class(stock).from_config(stock.config)
    values = {"per step": [1.0] * steps, "tensor": torch.ones(steps, SHAPE[0])}
    scheduler.set_coefficients(*[values.get(one, one) if isinstance(one, str) else one] * 2)
    assert_same(trajectory(scheduler, steps), trajectory(stock, steps))


def test_at_1_nothing_is_multiplied(stock):
    scheduler, seen = with_coefficients(stock), []
    scheduler.set_timesteps(2)
    sample, prediction = torch.randn(SHAPE), torch.randn(SHAPE)
    original = type(stock).step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(stock), "step", lambda self, *a, **k: (seen.extend((a[0], a[2])), original(self, *a, **k))[1]
        )
        scheduler.step(prediction, scheduler.timesteps[0], sample)
    assert seen[0] is prediction and seen[1] is sample


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    ("c_x", "c_eps"),
    [
        (1.07, 0.92),
        (1.0, 0.92),
        (1.07, 1.0),
        ([0.9, 1.0], [1.1, 1.0]),
        ([1.012, 0.967], [0.955, 1.099]),
        (0.95, [1.1, 1.0]),
        ("per step", "per step"),
        ("per step", 1.05),
    ],
)
def test_equals_scale_then_stock_step(stock, steps, c_x, c_eps):
    free = {
        "c_x": [0.9, 1.0, 1.13, 0.97, 1.02, 1.1, 0.88, 1.0],
        "c_eps": [1.1, 0.93, 1.0, 1.04, 0.9, 1.2, 1.0, 0.99],
    }
    c_x = free["c_x"][:steps] if c_x == "per step" else c_x
    c_eps = free["c_eps"][:steps] if c_eps == "per step" else c_eps
    # With one step a line is its first end, which is also what numpy's linspace gives.
    expected = trajectory(stock, steps, rows=rows(c_x, c_eps, steps))
    assert_same(trajectory(with_coefficients(stock, c_x, c_eps), steps), expected)
    assert expected[-1].isfinite().all() and not torch.equal(expected[-1], trajectory(stock, steps)[-1])


def test_tcd_step_is_the_formula_of_the_paper():
    scheduler = schedulers.QSchedTCDScheduler(c_x=1.07, c_eps=0.92)
    scheduler.set_timesteps(4)
    x, e = torch.randn(SHAPE), torch.randn(SHAPE)
    alpha_t, alpha_s = scheduler.alphas_cumprod[scheduler.timesteps[:2]].sqrt()
    sigma_t, sigma_s = (1 - scheduler.alphas_cumprod[scheduler.timesteps[:2]]).sqrt()
    expected = alpha_s / alpha_t * (1.07 * x - sigma_t * 0.92 * e) + sigma_s * 0.92 * e
    torch.testing.assert_close(scheduler.step(e, scheduler.timesteps[0], x, eta=0.0).prev_sample, expected)


def test_flow_match_step_is_the_formula_of_the_paper():
    scheduler = schedulers.QSchedFlowMatchEulerDiscreteScheduler(c_x=1.07, c_eps=0.92)
    scheduler.set_timesteps(4)
    x, v = torch.randn(SHAPE), torch.randn(SHAPE)
    expected = 1.07 * x + 0.92 * (scheduler.sigmas[1] - scheduler.sigmas[0]) * v
    torch.testing.assert_close(scheduler.step(v, scheduler.timesteps[0], x).prev_sample, expected)


# Precision, devices, batches of candidates


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_dtype_and_the_exact_coefficient(stock, dtype):
    c_x, c_eps = 1.003, 0.998  # bfloat16 would round both to 1
    expected = trajectory(stock, 4, rows=rows(c_x, c_eps, 4), dtype=dtype)
    assert_same(trajectory(with_coefficients(stock, c_x, c_eps), 4, dtype=dtype), expected)
    scaled = schedulers.scale(torch.randn(SHAPE).to(dtype), torch.tensor(c_x))
    assert scaled.dtype == dtype


def test_the_product_stays_on_the_device_of_the_tensor():
    for coefficient in (torch.tensor(1.1), torch.tensor([1.1, 1.2, 1.3])):
        scaled = schedulers.scale(torch.empty(SHAPE, device="meta", dtype=torch.float16), coefficient)
        assert scaled.device.type == "meta" and scaled.dtype == torch.float16 and scaled.shape == SHAPE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (3, 16, 6)], ids=["latents", "tokens"])
def test_every_column_of_a_batch_is_a_candidate_of_its_own(stock, shape, dtype):
    candidates = [
        Coefficients.constant(1.07, 0.92),
        Coefficients.ends([0.9, 1.1], [1.2, 0.8]),
        Coefficients.identity(),
    ]
    scheduler = with_coefficients(stock, *stack(candidates, 4))
    together = trajectory(scheduler, 4, shape=shape, dtype=dtype)
    for column, candidate in enumerate(candidates):
        alone = trajectory(
            with_coefficients(stock, candidate.c_x, candidate.c_eps), 4, shape=shape, dtype=dtype
        )
        assert_same([x[column] for x in together], [x[column] for x in alone])


def test_a_tensor_is_for_the_run_only(stock, tmp_path):
    scheduler = with_coefficients(stock, 1.1, [0.9, 1.0])
    scheduler.set_coefficients(torch.full((4, 3), 1.05), torch.full((4,), 0.95))
    assert_same(trajectory(scheduler, 4), trajectory(stock, 4, rows=rows(1.05, 0.95, 4)))
    assert (scheduler.config.c_x, scheduler.config.c_eps) == (1.1, [0.9, 1.0])
    scheduler.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["c_x"] == 1.1
    scheduler.set_coefficients(1.2, 1.0)
    assert_same(trajectory(scheduler, 4), trajectory(stock, 4, rows=rows(1.2, 1.0, 4)))


def test_a_tensor_changed_afterwards_changes_nothing(stock):
    c = torch.full((4, 3), 1.05)
    scheduler = with_coefficients(stock, c, 1.0)
    c.fill_(3.0)
    assert_same(trajectory(scheduler, 4), trajectory(stock, 4, rows=rows(1.05, 1.0, 4)))


def test_columns_must_match_the_batch(stock):
    scheduler = with_coefficients(stock, torch.full((4, 2), 1.1), 1.0)
    with pytest.raises(ValueError, match=r"c_x has 2 columns, but the batch has 3 samples\."):
        trajectory(scheduler, 4)


# The life of a schedule


@pytest.mark.parametrize("values", [(1.07, 0.92), ([0.9, 1.0], [1.1, 1.0]), ([0.9, 1.1], 1.05)])
def test_changing_the_step_count_draws_the_coefficients_anew(stock, values):
    scheduler = with_coefficients(stock, *values)
    for steps in (4, 8, 2, 1, 4):
        assert_same(trajectory(scheduler, steps), trajectory(stock, steps, rows=rows(*values, steps)))


@pytest.mark.parametrize("value", [[0.9, 1.0, 1.0, 1.1], torch.ones(4, 3), torch.full((4,), 1.1)])
def test_values_for_other_steps_are_refused_and_work_again_when_the_steps_fit(stock, value):
    scheduler = with_coefficients(stock, 1.0, value)
    with pytest.raises(ValueError, match=r"c_eps has 4 (values|rows), but the schedule has 8 steps"):
        scheduler.set_timesteps(8)
    assert len(trajectory(scheduler, 4)) == 4


def test_step_refuses_coefficients_set_too_late_for_the_schedule(stock):
    scheduler = with_coefficients(stock)
    scheduler.set_timesteps(4)
    scheduler.set_coefficients(1.0, [0.9, 1.0, 1.1])
    with pytest.raises(ValueError, match="c_eps has 3 values, but the schedule has 4 steps"):
        scheduler.step(torch.ones(SHAPE), scheduler.timesteps[0], torch.ones(SHAPE))


def test_new_coefficients_count_from_the_next_step_on(stock):
    scheduler = with_coefficients(stock, 1.2, 1.0)
    sample, prediction = torch.randn(SHAPE), torch.randn(SHAPE)
    for each in (scheduler, stock):
        each.set_timesteps(4)
    results = []
    for each, second in ((scheduler, 1.0), (stock, 0.9)):
        generator = torch.Generator().manual_seed(0)
        each.step(prediction, each.timesteps[0], sample, generator=generator)
        if each is scheduler:
            each.set_coefficients(1.0, 0.9)
        results.append(
            each.step(second * prediction, each.timesteps[1], sample, generator=generator).prev_sample
        )
    assert torch.equal(*results)


@pytest.mark.parametrize("begin", [None, 2], ids=["found by timestep", "announced by the pipeline"])
def test_image_to_image_uses_the_coefficient_of_the_timestep_it_enters_at(stock, begin):
    c_x, c_eps = [0.9, 0.8, 1.1, 1.2], [1.1, 1.0]
    expected = trajectory(stock, 4, rows=rows(c_x, c_eps, 4), first=2, begin=begin)
    scheduler = with_coefficients(stock, c_x, c_eps)
    assert_same(trajectory(scheduler, 4, first=2, begin=begin), expected)
    # and the next text-to-image run starts at the first coefficient again
    assert_same(trajectory(scheduler, 4), trajectory(stock, 4, rows=rows(c_x, c_eps, 4)))


@pytest.mark.parametrize("values", [([0.9, 1.2], [1.1, 1.0]), ([0.9, 0.8, 1.1, 1.2], [1.1, 1.0, 0.9, 0.8])])
def test_timesteps_cut_by_hand_keep_their_coefficients(stock, values):
    scheduler = with_coefficients(stock, *values)
    scheduler.set_timesteps(4)
    scheduler.timesteps = scheduler.timesteps[2:]
    expected = [pair[2:] for pair in zip(*rows(*values, 4), strict=True)]
    for index, t in enumerate(scheduler.timesteps):
        factors = applied(scheduler, t)
        assert factors == pytest.approx([row[index] for row in expected], abs=1e-6)


def applied(scheduler, timestep):
    """The factors (c_x, c_eps) that one step multiplies by."""
    seen, original = [], schedulers.scale
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            schedulers, "scale", lambda x, c, name: (seen.append(float(c)), original(x, c, name))[1]
        )
        scheduler.step(torch.ones(SHAPE), timestep, torch.ones(SHAPE))
    return seen[::-1]


@pytest.mark.parametrize("family", ["lcm", "tcd"])
def test_a_strength_takes_the_coefficients_of_its_noise_levels(family):
    per_step = [0.9, 0.8, 1.1, 1.2]
    scheduler = with_coefficients(make(family), per_step, [1.1, 0.8])
    scheduler.set_timesteps(4)
    path = scheduler.timesteps.tolist()
    scheduler.set_timesteps(4, strength=0.5)
    assert len(scheduler.timesteps) == 4 and scheduler.timesteps[0] < path[0]
    for t in scheduler.timesteps:
        place = np.interp(float(t), path[::-1], [3, 2, 1, 0])
        expected = [np.interp(place, range(4), row) for row in (per_step, np.linspace(1.1, 0.8, 4))]
        assert applied(scheduler, t) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_custom_schedules_are_paths_of_their_own(family):
    scheduler = with_coefficients(make(family), [0.9, 1.2], [1.1, 0.9, 0.7])
    if family == "flow-match":
        scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.2])
    elif family == "euler-ancestral":
        scheduler.set_timesteps(3)  # it takes no custom timesteps
    else:
        scheduler.set_timesteps(timesteps=[999, 639, 199])
    for t, expected in zip(scheduler.timesteps, rows([0.9, 1.2], [1.1, 0.9, 0.7], 3), strict=True):
        assert applied(scheduler, t) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("family", ["lcm", "tcd"])
def test_a_step_after_the_last_is_the_stock_schedulers(family):
    stock, results = make(family), []
    for scheduler in (stock, with_coefficients(stock, [1.0, 1.0], 1.0)):
        x, generator = torch.ones(SHAPE), torch.Generator().manual_seed(1)
        scheduler.set_timesteps(2)
        for t in (*scheduler.timesteps, scheduler.timesteps[-1]):
            x = scheduler.step(model(x, t), t, x, generator=generator).prev_sample
        results.append(x)
    assert torch.equal(*results)


def test_step_index_begin_index_and_return_values_are_those_of_the_stock_scheduler(stock):
    scheduler = with_coefficients(stock, 1.1, 0.9)
    assert scheduler.step_index is None and scheduler.begin_index is None
    scheduler.set_timesteps(4)
    stock.set_timesteps(4)
    for index, t in enumerate(scheduler.timesteps):
        output = scheduler.step(torch.ones(SHAPE), t, torch.ones(SHAPE))
        assert type(output) is type(stock.step(torch.ones(SHAPE), t, torch.ones(SHAPE)))
        assert scheduler.step_index == stock.step_index == index + 1
    scheduler.set_timesteps(4)
    assert scheduler.step_index is None


def test_a_foreign_timestep_gets_the_stock_message():
    for name in ("euler-ancestral", "flow-match"):
        scheduler = with_coefficients(make(name), 1.1)
        scheduler.set_timesteps(4)
        with pytest.raises(ValueError, match="Passing integer indices"):
            scheduler.step(torch.ones(SHAPE), 0, torch.ones(SHAPE))
