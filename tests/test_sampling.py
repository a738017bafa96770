"""The few-step loop: equal to a stock pipeline at c = 1, independent of the batch, sharing what can be
shared.
"""

import pytest
import torch
from embedded_model import PROMPTS, counted, embedded, grey_levels, jumps, stock_image

from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.loop import Noise, draw_noise, first_prediction, prepare_scheduler, sample

STEPS = 2
CANDIDATES = [Coefficients.identity(), Coefficients.ramp(1.1, 0.9), Coefficients.constant(0.85, 1.15)]


@pytest.fixture(scope="module")
def shared():
    """Backbone, quantized denoiser, condition, noise and first predictions of three prompts."""
    backbone = embedded()
    module = backbone.quantized(Quantization("w4a8")).module
    condition, noise = backbone.encode(PROMPTS), draw_noise(backbone.latent_shape, 3, range(len(PROMPTS)))
    return backbone, module, condition, noise, first_prediction(backbone, condition, noise, STEPS, module)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "coefficients", [None, Coefficients.identity(), Coefficients.ramp(1.0, 1.0)], ids=str
)
def test_at_one_the_image_is_the_stock_pipelines(steps, coefficients):
    backbone = embedded()
    condition, noise = backbone.encode(PROMPTS[:1]), draw_noise(backbone.latent_shape, 17, [0])
    image = backbone.decode(sample(backbone, condition, noise, steps, coefficients))
    assert grey_levels(image, stock_image(backbone, PROMPTS[0], steps, seed=17)).max() <= 1


def test_other_coefficients_give_another_image(shared):
    backbone, module, condition, noise, _ = shared
    plain = backbone.decode(sample(backbone, condition, noise, STEPS, None, module))
    scaled = backbone.decode(sample(backbone, condition, noise, STEPS, Coefficients.ramp(1.1, 0.9), module))
    assert all(jumps(plain[i], scaled[i]) > 0.1 for i in range(len(PROMPTS)))


@pytest.mark.parametrize("bits", [None, "w8a8", "w4a8", "w4a4"])
def test_a_image_does_not_depend_on_its_batch(bits):
    backbone, prompts = embedded(), PROMPTS * 2
    denoiser = bits and backbone.quantized(Quantization(bits)).module
    run = lambda index: backbone.decode(
        sample(
            backbone,
            backbone.encode([prompts[i] for i in index]),
            draw_noise(backbone.latent_shape, 3, index),
            STEPS,
            CANDIDATES[1],
            denoiser,
        )
    )
    together = run(range(6))
    assert jumps(together[:1], together[1:2]) > 0.1
    for index in ([0], [4], [1, 2], [3, 4, 5], [5, 4, 3, 2, 1]):
        if bits is None:
            assert grey_levels(run(index), together[index]).max() <= 1
        else:  # a last bit would flip a rounding, and flips multiply: so it must be none
            assert torch.equal(run(index), together[index])


def test_the_shared_first_prediction_changes_nothing_and_saves_a_call(shared):
    backbone, module, condition, noise, first = shared
    with counted(backbone) as whole:
        fresh = sample(backbone, condition, noise, STEPS, CANDIDATES[1], module)
    with counted(backbone) as rest:
        reused = sample(backbone, condition, noise, STEPS, CANDIDATES[1], module, first)
    assert torch.equal(fresh, reused)
    assert (whole.calls, rest.calls) == (STEPS * len(PROMPTS), (STEPS - 1) * len(PROMPTS))


def test_noise_belongs_to_seed_and_prompt_index():
    noise = draw_noise((4, 8, 8), 5, [0, 1, 2])
    assert torch.equal(noise.start[0], torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(5)))
    assert torch.equal(draw_noise((4, 8, 8), 5, [2]).start[0], noise.start[2])
    assert not torch.equal(noise.start[0], noise.start[1])
    assert not torch.equal(draw_noise((4, 8, 8), 6, [0]).start[0], noise.start[0])


def test_noise_is_replayed_selected_and_joined():
    noise = draw_noise((1, 2, 2), 5, [0, 1])
    steps = lambda noise: [torch.randn(3, generator=generator) for generator in noise.generators()]
    assert all(torch.equal(a, b) for a, b in zip(steps(noise), steps(noise), strict=True))
    swapped = noise.select([1, 0, 1])
    assert len(swapped) == 3 and torch.equal(swapped.start[0], noise.start[1])
    assert torch.equal(steps(swapped)[2], steps(noise)[1])
    joined = Noise.join([noise, swapped])
    assert torch.equal(joined.start, torch.cat([noise.start, swapped.start]))
    assert torch.equal(steps(joined)[3], steps(noise)[0])


def test_step_noise_continues_after_the_start_noise():
    generator = torch.Generator().manual_seed(9)
    torch.randn(1, 2, 2, generator=generator)
    expected = torch.randn(4, generator=generator)
    assert torch.equal(torch.randn(4, generator=draw_noise((1, 2, 2), 9, [0]).generators()[0]), expected)


def test_the_backbones_scheduler_is_only_a_template():
    backbone = embedded()
    before = (
        dict(backbone.scheduler.config),
        backbone.scheduler.num_inference_steps,
        type(backbone.scheduler),
    )
    prepare_scheduler(backbone, 3, Coefficients.constant(1.1, 0.9))
    sample(
        backbone, backbone.encode(PROMPTS[:1]), draw_noise(backbone.latent_shape, 0, [0]), 1, CANDIDATES[1]
    )
    assert (
        dict(backbone.scheduler.config),
        backbone.scheduler.num_inference_steps,
        type(backbone.scheduler),
    ) == before


def test_coefficients_that_do_not_fit_the_steps_are_refused(shared):
    backbone, module, condition, noise, _ = shared
    with pytest.raises(ValueError, match="3 values, but the schedule has 2 steps"):
        sample(backbone, condition, noise, STEPS, Coefficients.per_step([1, 1.1, 1], [1, 1, 1]), module)
