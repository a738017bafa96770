"""The model and the judge in assets/: what everything that the app shows with them rests on, on prompts of
the reports.
"""

import functools

import pytest
import torch
from embedded_model import embedded

from qsched.embedded.judges.degradations import KINDS, degrade, noise_and_flat
from qsched.embedded.judges.judging import auc
from qsched.embedded.report import draw
from qsched.prompts.builtin import builtin_prompts
from qsched.quantization import Quantization

pytestmark = pytest.mark.slow


def judge():
    return embedded().scorer()


@functools.cache
def prompts():
    """Some of every category, evenly."""
    return builtin_prompts("emoji", "held-out")[::4]


@functools.cache
def drawn(bits=None, steps=4):
    """Images of the prompts (count, 3, 64, 64)."""
    backbone = embedded()
    denoiser = bits and backbone.quantized(Quantization(bits)).module
    return draw(backbone, prompts(), steps, 0, denoiser)


@functools.cache
def quality(bits=None):
    return judge().quality(drawn(bits))


@pytest.mark.parametrize("steps", [1, 4])
def test_the_model_draws_what_it_is_asked_for(steps):
    """Among all prompts of the reports, the image's own is among the best five; a blind model would have it
    in 3 to 5 % of them.
    """
    asked = builtin_prompts("emoji", "held-out")
    images = drawn(steps=steps)
    scores = torch.stack([judge().alignment(images, [prompt] * len(images)) for prompt in asked], 1)
    own = scores.gather(1, torch.tensor([[asked.index(p)] for p in prompts()]))
    assert ((scores > own).sum(1) < 5).float().mean() >= 0.9


def test_the_judge_is_not_fooled_by_too_much_colour():
    number = list(KINDS).index("saturate")
    for strength in (0.5, 0.75, 1.0):
        loud = degrade(drawn(), torch.full((len(drawn()),), strength), torch.full((len(drawn()),), number))
        assert (judge().quality(loud) < quality()).float().mean() >= 0.9, strength


def test_nothing_is_the_worst_image():
    torch.manual_seed(0)
    nothing = noise_and_flat(64, 64)
    assert judge().quality(nothing).max() < quality("w2a8").median() < quality().median()
    assert auc(quality("w2a8"), judge().quality(nothing)) > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_the_judge_sees_every_kind_of_damage(kind):
    torch.manual_seed(0)
    count = len(drawn())
    hurt = degrade(drawn(), torch.full((count,), 0.75), torch.full((count,), list(KINDS).index(kind)))
    assert auc(quality(), judge().quality(hurt)) > 0.9


@pytest.mark.parametrize("bits", ["w4a8", "w3a8", "w4a4", "w2a8"])
def test_the_judge_sees_what_quantization_does(bits):
    assert auc(quality(), quality(bits)) > 0.75 and (quality() > quality(bits)).float().mean() > 0.75
