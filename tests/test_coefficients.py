"""Coefficients: the shapes they take, how they spread over the steps, and what is refused."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from qsched.sampling.coefficients import Coefficients, stack
from qsched.schedulers import expand


def test_a_number_is_the_same_at_every_step():
    assert expand(1.07, 4).equal(torch.tensor([1.07] * 4))


@pytest.mark.parametrize("steps", [2, 3, 4, 8, 50])
def test_two_numbers_are_a_straight_line_with_exact_ends(steps):
    line = expand([0.955, 1.099], steps)
    assert line.dtype == torch.float32 and line.shape == (steps,)
    assert line[0] == torch.tensor(0.955) and line[-1] == torch.tensor(1.099)
    assert line.equal(torch.from_numpy(np.linspace(0.955, 1.099, steps)).float())


def test_with_one_step_only_the_first_end_counts():
    assert expand([0.9, 1.1], 1).equal(torch.tensor([0.9]))


def test_a_ramp_to_1_ends_at_exactly_1():
    assert all(expand([0.9, 1.0], steps)[-1] == 1 for steps in range(2, 65))


def test_one_number_per_step_is_taken_as_it_is():
    assert expand([0.9, 1.1, 1.0, 0.95], 4).equal(torch.tensor([0.9, 1.1, 1.0, 0.95]))
    assert expand([0.9], 1).equal(torch.tensor([0.9]))


def test_a_tensor_has_a_row_per_step_and_is_never_a_line():
    rows = torch.rand(4, 3) + 0.5
    assert expand(rows, 4).equal(rows)
    with pytest.raises(ValueError, match=r"c_x has 2 rows, but the schedule has 4 steps\."):
        expand(torch.tensor([0.9, 1.0]), 4)


@pytest.mark.parametrize("value", [np.float32(1.5), np.array(1.5), torch.tensor(1.5), Fraction(3, 2)])
def test_numbers_of_other_libraries_are_numbers(value):
    assert expand(value, 2).tolist() == [1.5, 1.5]
    assert expand([value, value, value], 3).tolist() == [1.5] * 3


def test_a_numpy_array_is_a_list():
    assert expand(np.array([0.5, 1.5, 1.0]), 3).tolist() == [0.5, 1.5, 1.0]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([0.9, 1.0, 1.1], "c_eps has 3 values, but the schedule has 4 steps: give one number, two numbers"),
        ([0.9], "c_eps has 1 value, but the schedule has 4 steps"),
        ([1.0] * 5, "c_eps has 5 values, but the schedule has 4 steps"),
        ([], "c_eps is empty"),
        (torch.ones(0), r"c_eps must be|c_eps is empty"),
        (math.nan, "c_eps must be finite and greater than 0, but it holds nan"),
        (math.inf, "c_eps must be finite and greater than 0, but it holds inf"),
        (10**400, "c_eps must be finite"),
        (1e300, "c_eps must be finite"),
        (1e-60, "c_eps must be finite and greater than 0, but it holds 0"),
        (0, "c_eps must be finite and greater than 0, but it holds 0"),
        (-1.0, "c_eps must be finite and greater than 0, but it holds -1"),
        ([1.0, -0.5], "c_eps must be finite and greater than 0, but it holds -0.5"),
        ([1.0, math.nan, 1.0, 1.0], "c_eps must be finite and greater than 0, but it holds nan"),
        (torch.tensor([[1.0, math.nan]] * 4), "c_eps must be finite and greater than 0, but it holds nan"),
        ("1.0", "c_eps must be a number or a list of numbers, but '1.0' is neither"),
        (["1.0", 1.0], "c_eps must be a number or a list of numbers, but '1.0' is neither"),
        (b"12", "c_eps must be a number or a list of numbers"),
        (None, "c_eps must be a number or a list of numbers, but None is neither"),
        (True, "c_eps must be a number or a list of numbers, but True is neither"),
        (1 + 1j, "c_eps must be a number or a list of numbers"),
        ({"c_x": 1.0}, "c_eps must be a number or a list of numbers"),
        ([[1.0, 1.0], [1.0, 1.0]], "c_eps must be a number or a list of numbers"),
        (np.ones((4, 2)), "c_eps must be a number or a list of numbers"),
        (torch.ones(4, 2, 2), r"c_eps must have the shape \(steps,\) or \(steps, batch\), not \(4, 2, 2\)"),
    ],
)
def test_bad_values_are_refused_in_one_sentence(value, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        expand(value, 4, "c_eps")
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_no_steps_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        expand(1.0, 0)


@pytest.mark.parametrize(
    ("coefficients", "shape"),
    [
        (Coefficients.identity(), "constant"),
        (Coefficients.constant(1.1, 0.9), "constant"),
        (Coefficients.ramp(1.1, 0.9), "ramp"),
        (Coefficients.ends([1.012, 0.967], [0.955, 1.099]), "ends"),
        (Coefficients.ends([1.1, 1.0], [0.9, 1.0]), "ramp"),
        (Coefficients.ends([1.1, 1.0], [0.9, 1.1]), "ends"),
        (Coefficients.per_step([1.1, 1.0, 0.9, 1.0], [1.0] * 4), "per-step"),
        (Coefficients.per_step([1.1], [0.9]), "per-step"),
        (Coefficients(1.0, (0.9, 1.0)), "ramp"),
        (Coefficients(1.1, (0.9, 1.0)), "ends"),
        (Coefficients(1.1, (0.9, 1.0, 1.0)), "per-step"),
    ],
)
def test_shape(coefficients, shape):
    assert coefficients.shape == shape


def test_ramp_pairs_every_number_with_1():
    c_x, c_eps = Coefficients.ramp(1.2, 0.8).expand(3)
    assert c_x.equal(torch.tensor([1.2, 1.1, 1.0])) and c_eps.equal(torch.tensor([0.8, 0.9, 1.0]))


def test_identity():
    assert Coefficients.identity() == Coefficients(1.0, 1.0) and Coefficients.identity().is_identity
    assert Coefficients.ramp(1, 1).is_identity and Coefficients.per_step([1] * 4, [1] * 4).is_identity
    assert not Coefficients(1.0, 0.9).is_identity and not Coefficients((1.0, 0.9), 1.0).is_identity


def test_lists_become_tuples_so_that_the_value_is_hashable_and_frozen():
    coefficients = Coefficients([1.1, 1], np.array([0.9, 1.0]))
    assert coefficients.c_x == (1.1, 1.0) and coefficients.c_eps == (0.9, 1.0)
    assert {coefficients: 1}[Coefficients((1.1, 1.0), (0.9, 1.0))] == 1
    with pytest.raises(AttributeError):
        coefficients.c_x = 1.0


@pytest.mark.parametrize(
    "coefficients",
    [
        Coefficients.constant(1.1, 0.9),
        Coefficients.ends([1.012, 0.967], [0.955, 1.099]),
        Coefficients(1.0, (0.9, 1.0, 1.1)),
    ],
)
def test_json_round_trip(coefficients):
    assert Coefficients.from_dict(json.loads(json.dumps(coefficients.to_dict()))) == coefficients


@pytest.mark.parametrize("data", [{}, {"c_x": 1.0}, {"c_x": 1.0, "c_eps": 1.0, "k": 2}, [1.0, 1.0], None])
def test_from_dict_needs_exactly_its_two_keys(data):
    with pytest.raises(ValueError, match="exactly the keys c_x and c_eps"):
        Coefficients.from_dict(data)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Coefficients("1", 1.0), "c_x must be a number"),
        (lambda: Coefficients(1.0, 0.0), "c_eps must be finite and greater than 0"),
        (lambda: Coefficients(1.0, ()), "c_eps is empty"),
        (lambda: Coefficients(torch.ones(4, 2), 1.0), "c_x must be one row"),
        (lambda: Coefficients.constant([1.0, 1.0], 1.0), "c_x must be a single number"),
        (lambda: Coefficients.ramp(1.0, [0.9, 1.0]), "c_eps must be a single number"),
        (lambda: Coefficients.ends([1.0, 1.0, 1.0], [1.0, 1.0]), "c_x needs two end points"),
        (lambda: Coefficients.ends([1.0, 1.0], 0.9), "c_eps must be a list of numbers here"),
        (lambda: Coefficients.per_step([1.0] * 4, [1.0] * 3), "c_x has 4 steps and c_eps has 3"),
        (
            lambda: Coefficients(1.0, (0.9, 1.0, 1.1)).expand(4),
            "c_eps has 3 values, but the schedule has 4 steps",
        ),
        (lambda: stack([], 4), "no candidates"),
        (lambda: stack([Coefficients(), Coefficients((1.0, 1.1, 1.2), 1.0)], 4), "c_x has 3 values"),
    ],
)
def test_bad_coefficients_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


def test_stack_puts_one_candidate_into_each_column():
    candidates = [Coefficients.constant(1.1, 0.9), Coefficients.ramp(0.8, 1.2), Coefficients.identity()]
    c_x, c_eps = stack(candidates, 4)
    assert c_x.shape == c_eps.shape == (4, 3)
    for column, candidate in enumerate(candidates):
        expected = candidate.expand(4)
        assert c_x[:, column].equal(expected[0]) and c_eps[:, column].equal(expected[1])
