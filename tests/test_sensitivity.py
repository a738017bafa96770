"""What one rounded layer does to the prediction: many layers in one batch find what one after the other
finds.
"""

import copy
import gc
import threading
import weakref
from dataclasses import replace

import pytest
import torch
from embedded_model import embedded
from test_residency import Card, watch_blocks
from tiny_models import REAL, fresh

from qsched.comparison.result import Settings
from qsched.models.pipeline import PipelineBackbone
from qsched.quantization import DEFAULT_KEEP, Quantization, layers_to_pack, quantize, stored_bytes
from qsched.quantizers import mixdq, sensitivity
from qsched.quantizers.calibration import observe
from qsched.quantizers.mixdq import calibrate, measure, plan
from qsched.quantizers.sensitivity import LayerErrors, _rounded
from qsched.sampling.coefficients import Coefficients
from qsched.server.engine import Engine


def errors_of(backbone, names, calls):
    """What all batches find."""
    measured = LayerErrors(backbone, names, calls)
    while measured.done < measured.total:
        measured.advance(backbone)
    return measured.found


def one_after_the_other(backbone, names, calls):
    """The definition, written out: a denoiser call for every layer, bit-width and calibration call."""
    errors = {}
    for name in names:
        layer, errors[name], noise = backbone.denoiser.get_submodule(name), {}, {}
        weight = layer.weight
        for bits in (2, 4, 8):
            layer.weight = torch.nn.Parameter(_rounded(layer, bits, None), requires_grad=False)
            noise[bits] = float((layer.weight - weight).square().sum())
            errors[name][bits] = sum(call.error(backbone) for call in calls) / len(calls)
            layer.weight = weight
        errors[name][8] = errors[name][4] * noise[8] / noise[4]
    return errors


def calibration(backbone):
    names = [group[0] for group in layers_to_pack(backbone.denoiser, "all", DEFAULT_KEEP)[0]]
    calls = [call.first_image() for call in observe(backbone).calls]
    return names, [calls[0], calls[-1]]


@pytest.mark.slow
@pytest.mark.parametrize("id", REAL)
def test_batches_find_what_single_calls_find_at_a_fraction_of_the_calls(id):
    backbone = fresh(id)
    names, calls = calibration(backbone)
    expected, count = one_after_the_other(backbone, names, calls), []
    state = {name: tensor.clone() for name, tensor in backbone.denoiser.state_dict().items()}
    hook = backbone.denoiser.register_forward_pre_hook(lambda module, args: count.append(1))
    before = backbone.calls
    found = errors_of(backbone, names, calls)
    hook.remove()
    assert len(count) <= 2 + -(-4 * len(names) // 16) and backbone.calls == before
    assert found.keys() == expected.keys()
    for name, errors in expected.items():
        for bits in (2, 4, 8):
            assert found[name][bits] == pytest.approx(errors[bits], rel=0.05, abs=1e-12), (name, bits)
    for bits in ("w3a8", "w4a8", "w8a8"):
        plans = (plan(mixdq.Sensitivity(e, {}), backbone.denoiser, bits) for e in (found, expected))
        assert next(plans).weight_bits == next(plans).weight_bits
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.denoiser.state_dict().items())
    assert not any(part._forward_hooks or "forward" in vars(part) for part in backbone.denoiser.modules())


def test_sensitivity_is_the_error_of_one_rounded_layer():
    backbone, name = embedded(), "up_blocks.1.resnets.1.conv2"
    calls = [observe(backbone, prompts=1).calls[-1]]
    before, weight = backbone.calls, backbone.denoiser.get_submodule(name).weight
    errors = errors_of(backbone, [name], calls)[name]
    assert errors[2] > errors[4] > 10 * errors[8] > 0
    assert backbone.denoiser.get_submodule(name).weight is weight and backbone.calls == before
    alone = copy.deepcopy(backbone.denoiser)
    quantize(alone, "w4a16", keep=[n for n, _ in alone.named_modules() if n and not name.startswith(n)])
    assert calls[0].error(backbone, alone) == pytest.approx(errors[4], rel=1e-3)
    assert calls[0].error(backbone) == pytest.approx(0, abs=1e-9)


def test_a_prediction_that_is_not_finite_is_the_worst_error(monkeypatch):
    backbone = fresh("lcm-dreamshaper-v7")
    names, calls = calibration(backbone)
    broken, real = names[3], sensitivity._rounded
    layer = backbone.denoiser.get_submodule(broken)
    nan = lambda one, bits, group: (
        real(one, bits, group) * (float("nan") if one is layer and bits == 2 else 1)
    )
    monkeypatch.setattr(sensitivity, "_rounded", nan)
    found = errors_of(backbone, names, calls)
    assert found[broken][2] == float("inf")
    assert all(
        error < 10 for name in names for bits, error in found[name].items() if (name, bits) != (broken, 2)
    )


@pytest.mark.slow
def test_a_measurement_belongs_to_a_denoiser_and_whoever_asks_goes_on_with_it():
    backbone = fresh("pcm-sd15")
    total = 4 * len(calibration(backbone)[0])
    assert calibrate(backbone) == (0, total) and calibrate(backbone) == (16, total)
    gone = weakref.ref(backbone.denoiser)
    backbone.use(2)
    gc.collect()
    assert gone() is None, "a measurement that was left off keeps no denoiser"
    assert calibrate(backbone) == (0, total), "another denoiser is measured from the beginning"
    found = measure(backbone)
    assert calibrate(backbone) is None and measure(backbone) is found


# --- where it happens ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("room", [4000, -1], ids=["alone", "block by block"])
@pytest.mark.parametrize("method", ["mixdq", "svdquant"])
def test_calibration_in_little_memory_finds_the_same(method, room, monkeypatch):
    unlimited, backbone = fresh("lcm-dreamshaper-v7"), fresh("lcm-dreamshaper-v7")
    expected = unlimited.quantized(Quantization("w4a8", method=method))
    came = watch_blocks(monkeypatch)
    small = replace(backbone.parts, denoise=3000, unpack=1000, decode=4000)
    monkeypatch.setattr(PipelineBackbone, "parts", small)
    card, strays = Card(stored_bytes(backbone.denoiser, None) + room), []
    stray = lambda module, args: strays.extend({module}.difference(card.on))
    backbone.denoiser.register_forward_pre_hook(stray)
    backbone.residency = card.residency
    made = backbone.quantized(Quantization("w4a8", method=method))
    assert bool(strays) == bool(came) == (room < 0) and not backbone.residency.there
    assert made.report.layer_bits == expected.report.layer_bits
    (call, *_), errors = observe(unlimited, prompts=1).calls, []
    for module in (made.module, expected.module):
        errors.append(call.error(unlimited, module))
    assert errors[0] == pytest.approx(errors[1], rel=0.2), (
        "the same but for roundings that another batch tips over"
    )


def test_as_many_trials_at_once_as_memory_holds(monkeypatch):
    backbone = fresh("sdxl-turbo")
    assert backbone.images_at_once(16) == 16 and embedded().images_at_once(5) == 5
    small = replace(backbone.parts, denoise=1000, unpack=10, largest_block=500)
    monkeypatch.setattr(PipelineBackbone, "parts", small)
    full = stored_bytes(backbone.denoiser, None)
    for weights, images, found in ((full, 3.5, 3), (full, 99, 16), (full, 1, 1), (500, 2, 2), (0, 1, 1)):
        backbone.residency.budget = int(weights + 10 + images * 1000)
        assert backbone.images_at_once(16) == found


@pytest.mark.slow
def test_others_have_the_device_between_two_pieces():
    backbone = fresh("lcm-dreamshaper-v7")
    engine = Engine("lcm-dreamshaper-v7", load=lambda *args, **options: backbone)
    plain, how = Settings("a red fox", 0, 1), Quantization("w4a8", method="mixdq")
    engine.compare("other", "lcm-dreamshaper-v7", plain, Coefficients.identity())
    seen, drags = [], []

    def on_progress(done, total):
        seen.append((done, total))
        if len(seen) in (3, 6):
            turn = threading.Thread(
                target=lambda: drags.append(
                    engine.rescale("other", Coefficients.constant(1 + len(seen) / 50, 1.0))
                )
            )
            turn.start()
            turn.join(60)

    found = engine.compare(
        "mine", "lcm-dreamshaper-v7", replace(plain, quantization=how), Coefficients.identity(), on_progress
    )
    assert len(seen) > 10 and seen[0][0] == 0 and seen[-1][0] == seen[-1][1] and len(drags) == 2
    assert found.settings.quantization == how and None not in drags
    seen.clear()
    engine.compare(
        "mine",
        "lcm-dreamshaper-v7",
        replace(plain, quantization=how, seed=1),
        Coefficients.identity(),
        on_progress,
    )
    assert seen == [], "measured once"


@pytest.mark.slow
def test_a_calibration_ends_where_others_keep_changing_the_model():
    backbone, pieces = fresh("pcm-sd15"), []
    engine = Engine("pcm-sd15", load=lambda *args, **options: backbone)
    four, two = Settings("a red fox", 0, 4, Quantization("w4a8", method="mixdq")), Settings("a red fox", 0, 2)

    def on_progress(*piece):
        pieces.append(piece)
        assert len(pieces) < 5, "it would never end"
        engine.compare("other", "pcm-sd15", two, Coefficients.identity())

    found = engine.compare("mine", "pcm-sd15", four, Coefficients.identity(), on_progress)
    assert len(pieces) == 1 and found.settings == four


def test_the_page_announces_only_what_takes_long(monkeypatch):
    from qsched.ui.compare import tab as compare_tab

    told, now = [], iter([0.0, 1.0, 2.0, 5.0])
    monkeypatch.setattr(compare_tab.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(compare_tab.gr, "Info", lambda text, duration: told.append(text))
    tell = compare_tab.patience()
    tell(0, 100)
    tell(50, 100)
    assert told == []
    tell(20, 100)
    tell(40, 100)
    assert told == ["This method calibrates first, once: about 8 s. The sliders work meanwhile."]
