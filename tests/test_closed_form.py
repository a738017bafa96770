"""Coefficients by least squares: exact where the error is what scalars can undo, and honest where
it is not.
"""

import numpy as np
import pytest
import torch
from embedded_model import embedded
from tiny_models import PROMPTS, REAL, fresh

from qsched.evaluation.closed_form import CORRECTIONS, Moments, fit
from qsched.evaluation.diagnosis import diagnose
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.loop import draw_noise, sample

P, Q = 1.25, 0.1
QUANTIZED = torch.nn.Identity()


@pytest.fixture
def distorted(monkeypatch):
    """A backbone whose prediction with the denoiser QUANTIZED is (E - Q x) / P."""

    def of(id):
        backbone = fresh(id)
        predict = backbone.predict

        def distorting(latents, timestep, condition, denoiser=None):
            full = predict(latents, timestep, condition)
            return full if denoiser is None else (full - Q * latents) / P

        monkeypatch.setattr(backbone, "predict", distorting)
        return backbone

    return of


@pytest.mark.parametrize("id", REAL)
@pytest.mark.parametrize("steps", [1, 4])
def test_what_scalars_can_undo_is_undone_with_every_scheduler(id, steps, distorted):
    backbone = distorted(id)
    if steps not in backbone.spec.steps:
        steps = backbone.spec.default_steps
    found = fit(backbone, QUANTIZED, PROMPTS, steps, seed=3)
    assert all(step.explained("scalars") == pytest.approx(1, abs=1e-4) for step in found.steps)
    assert [step.c_eps for step in found.steps] == pytest.approx([P] * steps, abs=1e-3)

    condition, noise = backbone.encode(PROMPTS), draw_noise(backbone.latent_shape, 3, range(len(PROMPTS)))
    full = sample(backbone, condition, noise, steps)
    plain = sample(backbone, condition, noise, steps, None, QUANTIZED)
    repaired = sample(backbone, condition, noise, steps, found.coefficients, QUANTIZED)
    assert (repaired - full).abs().max() < 0.01 * (plain - full).abs().max()


def test_an_exact_prediction_asks_for_the_plain_scheduler():
    backbone = embedded()
    found = fit(backbone, backbone.denoiser, ["red apple, flat style"], 4)
    c_x, c_eps = found.coefficients.expand(4)
    assert c_x.tolist() == pytest.approx([1] * 4, abs=1e-5) and c_eps.tolist() == pytest.approx(
        [1] * 4, abs=1e-5
    )


def test_the_fit_needs_a_prompt():
    with pytest.raises(ValueError, match="at least one prompt"):
        fit(embedded(), embedded().denoiser, [], 4)


def test_held_out_prompts_measure_and_do_not_fit():
    backbone = embedded()
    module = backbone.quantized(Quantization("w4a8")).module
    prompts, others = ["red apple, flat style", "cat"], ["a unicorn on a pink background"]
    alone, beside = fit(backbone, module, prompts, 2), fit(backbone, module, prompts, 2, held_out=others)
    assert alone.coefficients == beside.coefficients
    assert alone.steps[0].held_out is None and beside.steps[0].held_out is not None
    # the matrix has learnt two prompts
    assert alone.steps[0].explained("matrix") > beside.steps[0].explained("matrix")


@pytest.mark.slow
def test_the_coefficients_bring_the_latents_nearer_to_full_precision_than_the_plain_scheduler():
    backbone = embedded()
    module = backbone.quantized(Quantization("w4a8")).module
    prompts = ["red apple, flat style", "cat", "a unicorn on a pink background", "two dogs"]
    coefficients = fit(backbone, module, prompts, 4).coefficients
    condition, noise = backbone.encode(prompts), draw_noise(backbone.latent_shape, 9, range(4))
    full = sample(backbone, condition, noise, 4)
    error = lambda c: float((sample(backbone, condition, noise, 4, c, module) - full).square().mean())
    assert error(coefficients) < 0.9 * error(Coefficients.identity())


def moments(seed=0, count=3):
    generator = torch.Generator().manual_seed(seed)
    quantized, sample_, noise = (torch.randn(count, 4, 6, 5, generator=generator) for _ in range(3))
    return quantized, sample_, 0.7 * quantized - 0.2 * sample_ + 0.3 * quantized.flip(1) + 0.5 + 0.05 * noise


def test_richer_corrections_explain_more_and_the_scalars_are_those_of_numpy():
    quantized, x, full = moments()
    found = Moments.of(quantized, x, full)
    columns = np.stack([quantized.numpy().ravel(), x.numpy().ravel()], 1).astype(np.float64)
    expected = np.linalg.lstsq(columns, full.numpy().ravel().astype(np.float64), rcond=None)[0]
    weights = found.correction("scalars")
    assert [weights[0, 0], weights[4, 0]] == pytest.approx(expected.tolist(), rel=1e-6)
    errors = [found.squared_error(found.correction(kind)) for kind in CORRECTIONS]
    assert found.squared_error() > errors[0] > errors[1] > errors[2]
    assert found.squared_error() == pytest.approx(float((full - quantized).double().square().sum()), rel=1e-6)
    assert errors[2] == pytest.approx(0.05**2 * full.numel(), rel=0.2)  # the matrix leaves the noise alone


def test_moments_add_up_over_batches():
    parts = moments()
    whole, halves = Moments.of(*parts), [Moments.of(*(v[i : i + 1] for v in parts)) for i in range(3)]
    np.testing.assert_allclose(sum(halves[1:], halves[0]).matrix, whole.matrix, rtol=1e-9)


@pytest.mark.slow
def test_the_layer_that_carries_the_damage_is_found():
    backbone = embedded()
    prompts = ["red apple, flat style", "a unicorn on a pink background"]
    found = diagnose(backbone, Quantization("w4a8"), prompts, 2, layer_prompts=1)
    first = found.layers[0]
    assert first.name == "up_blocks.1.resnets.1.conv_shortcut" and first.weights == 18_432
    assert first.share > 0.8 > 5 * found.layers[1].share
    assert len(found.layers) == sum(backbone.quantized(Quantization("w4a8")).report.quantized.values())
    assert found.weights == sum(layer.weights for layer in found.layers)


def test_methods_that_cannot_be_taken_apart_are_refused():
    with pytest.raises(ValueError, match="plain rounding"):
        diagnose(embedded(), Quantization("w4a8", method="svdquant"), ["cat"], 2)


@pytest.mark.slow
def test_the_command_says_it_in_numbers_and_in_words(line):
    options = ("diagnose", "--bits", "w4a8", "--steps", "2", "--prompts", "2", "--held-out", "2")
    data = line.ok(*options)
    assert data["layers"][0]["name"] == "up_blocks.1.resnets.1.conv_shortcut"
    assert set(data["explained"]) == set(CORRECTIONS) and len(data["coefficients"]["c_x"]) == 2
    status, out, err = line.run(*options, "--layers", "3")
    assert (status, err) == (0, "")
    assert "conv_shortcut" in out and "c_x and c_eps" in out and out.count(".resnets.") <= 3
    status, _, err = line.run("diagnose", "--steps", "9")
    assert status == 2 and "not 9" in err
