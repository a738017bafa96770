"""Candidates that share their beginnings: the images of single runs, at the price that the sharing allows."""

import pytest
import torch
from embedded_model import PROMPTS, counted, embedded
from stock_schedulers import FAMILIES, make

from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.loop import draw_noise, sample
from qsched.sampling.sharing import SharedSampler

STEPS = 4
IMAGES = len(PROMPTS)


def per_step(*c_x):
    return Coefficients.per_step(c_x, [2 - c for c in c_x])


@pytest.fixture
def sampler():
    backbone = embedded()
    module = backbone.quantized(Quantization("w4a8")).module
    return SharedSampler(
        backbone, backbone.encode(PROMPTS), draw_noise(backbone.latent_shape, 3, range(IMAGES)), STEPS, module
    )


def run(sampler, candidates, batch_size=64):
    drawn = {}
    for which, images, batch in sampler.images(candidates, batch_size):
        assert len(which) == len(images) == len(batch) <= batch_size
        drawn |= dict(zip(zip(which, images, strict=True), batch, strict=True))
    assert len(drawn) == len(candidates) * IMAGES
    return drawn


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [4, 64])
@pytest.mark.parametrize(
    ("candidates", "calls"),
    [
        (
            [Coefficients.identity(), Coefficients.ramp(1.1, 0.9), Coefficients.constant(0.85, 1.15)],
            1 + 3 * 3,
        ),
        ([per_step(1.1, 0.9, 1, 1), per_step(1.1, 1.2, 1, 1)], 2 + 2 * 2),
        ([per_step(1.1, 0.9, 1, 1), per_step(1.1, 0.9, 1, 1.1), per_step(1.1, 0.9, 1, 0.8)], 4),
        ([per_step(1.1, 0.9, 1.05, 1)], 4),
    ],
    ids=["nothing in common", "the first step", "all but the last", "one alone"],
)
def test_images_equal_single_runs_and_calls_are_shared(sampler, candidates, calls, batch_size):
    with counted(embedded()) as count:
        images = run(sampler, candidates, batch_size)
    assert (count.calls, count.full) == (calls * IMAGES, 0)
    for c, candidate in enumerate(candidates):
        single = embedded().decode(
            sample(embedded(), sampler.condition, sampler.noise, STEPS, candidate, sampler.denoiser)
        )
        assert all(torch.equal(images[c, i], single[i]) for i in range(IMAGES))
        assert all(not torch.equal(images[c, 0], images[other, 0]) for other in range(c))


def test_what_is_shared_is_remembered(sampler):
    run(sampler, [per_step(1.1, 0.9, 1, 1)])
    with counted(embedded()) as count:
        run(sampler, [per_step(1.1, 0.9, 1, c) for c in (0.7, 0.8, 0.9)])
        run(sampler, [per_step(1.1, 0.9, 1, 1.3)])
    assert count.calls == 0
    with counted(embedded()) as count:
        run(sampler, [per_step(1.1, 0.8, 1, 1)])
    assert count.calls == 2 * IMAGES  # the steps after the one that differs


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_scheduler_can_go_on_in_the_middle(sampler, name, monkeypatch):
    monkeypatch.setattr(embedded(), "scheduler", make(name))
    candidates = [per_step(1.1, 0.9, 1, 1), per_step(1.1, 0.9, 1.1, 1)]
    images = run(sampler, candidates)
    for c, candidate in enumerate(candidates):
        single = embedded().decode(
            sample(embedded(), sampler.condition, sampler.noise, STEPS, candidate, sampler.denoiser)
        )
        assert all(torch.equal(images[c, i], single[i]) for i in range(IMAGES))
