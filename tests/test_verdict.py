"""The verdict line: better, no difference or worse than naive, on this image and on held-out prompts."""

from dataclasses import replace

import pytest
from browser_app import tiny_backbone

from qsched.comparison.comparison import compare
from qsched.comparison.result import Settings
from qsched.presets import find_preset
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.ui import fragments

SHIPPED = find_preset("emoji-lcm", "w4a8", 4)


@pytest.fixture(scope="module")
def comparison():
    settings = Settings("fox", 0, 4, Quantization("w4a8"))
    return compare(tiny_backbone(), settings, SHIPPED.best(2.0))


def over_naive(comparison, difference):
    """The same with another quality of Q-Sched's image, so that its JAQ differs from naive by this much."""
    naive = comparison.naive
    column = replace(naive, name="Q-Sched", quality=naive.quality + difference / 2)
    return replace(comparison, qsched=column)


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (0.5, '<b class="good">Better</b> than naive on this prompt: <b>+0.500 JAQ</b>'),
        (-0.5, '<b class="bad">Worse</b> than naive on this prompt: <b>−0.500 JAQ</b>'),
        (0.004, '<b class="fair">No difference</b> from naive on this prompt: <b>+0.004 JAQ</b>'),
    ],
)
def test_this_image_is_judged_against_naive(comparison, difference, words):
    assert words in fragments.verdict(over_naive(comparison, difference), 2.0, None)


def test_held_out_prompts_are_judged_by_their_interval(comparison):
    found = SHIPPED.held_out["differences"]["Q-Sched - naive"]["jaq"]
    told = fragments.verdict(comparison, 2.0, SHIPPED)
    assert found["low"] > 0 and "Better</b> on 178 held-out prompts: <b>+0.060</b>" in told
    assert "10 % of the damage" in told and "without training" in told
    for low, high, word in ((-0.2, -0.1, "Worse"), (-0.1, 0.2, "No difference")):
        changed = found | {"mean": (low + high) / 2, "low": low, "high": high}
        held = SHIPPED.held_out | {"differences": {"Q-Sched - naive": {"jaq": changed}}}
        told = fragments.verdict(comparison, 2.0, replace(SHIPPED, held_out=held))
        assert f"{word}</b> on 178 held-out prompts" in told and "of the damage" not in told


def test_it_says_what_the_numbers_are_not_about(comparison):
    moved = replace(comparison, coefficients=Coefficients.constant(1.1, 0.9))
    assert "held-out prompts, the best known coefficients" in fragments.verdict(moved, 2.0, SHIPPED)
    assert "held-out" not in fragments.verdict(comparison, 3.0, SHIPPED), "they were judged at k = 2"
    plain = comparison.plain()
    assert "the same image as naive" in fragments.verdict(plain, 2.0, SHIPPED)
    unscored = replace(comparison, qsched=replace(comparison.qsched, alignment=None, quality=None))
    assert fragments.verdict(unscored, 2.0, SHIPPED) == ""
