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
from test_memory_plan import Card, Watched
from tiny_models import REAL, fresh

from qsched.comparison.comparison import Settings
from qsched.models import methods
from qsched.models.memory.plan import RESERVE, needs
from qsched.models.memory.residency import Residency
from qsched.quantization import DEFAULT_KEEP, Quantization, layers_to_pack, quantize
from qsched.quantizers import mixdq, sensitivity
from qsched.quantizers.calibration import observe
from qsched.quantizers.mixdq import calibrate, measure, plan
from qsched.quantizers.sensitivity import LayerErrors, _rounded
from qsched.sampling.coefficients import Coefficients
from qsched.server.engine import Engine

DEVICE = torch.device("cuda:0")  # a name only: nothing is moved


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


class Places:
    """Moves nothing, but knows where every module lies, and what ran elsewhere."""

    def __init__(self, backbone):
        self.on, self.strays, self.came = set(), [], 0
        for module in (backbone.denoiser, *backbone.text_encoders):
            for part in module.modules():
                if any(True for _ in part.parameters(recurse=False)):
                    part.register_forward_pre_hook(self.runs)

    def __call__(self, module, device):
        change = self.on.update if device == DEVICE else self.on.difference_update
        change(part for part in module.modules())
        self.came += device == DEVICE

    def runs(self, module, args):
        if module not in self.on:
            self.strays.append(type(module).__name__)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["swapped", "offloaded", "streamed"])
@pytest.mark.parametrize("method", ["mixdq", "svdquant"])
def test_calibration_runs_only_what_lies_on_the_device(kind, method):
    unlimited = fresh("lcm-dreamshaper-v7")
    expected = unlimited.quantized(Quantization("w4a8", method=method))
    backbone = fresh("lcm-dreamshaper-v7")
    backbone.parts = parts = replace(backbone.parts, denoise=3000, decode=4000)
    places, budget = Places(backbone), needs(parts, "w4a8")[kind] - RESERVE
    backbone.residency = Residency(DEVICE, budget, move=places)
    made = backbone.quantized(Quantization("w4a8", method=method))
    assert places.strays == [] and places.came
    assert made.report.layer_bits == expected.report.layer_bits
    (call, *_), errors = observe(unlimited, prompts=1).calls, []
    for module in (made.module, expected.module):
        errors.append(call.error(unlimited, module))
    assert errors[0] == pytest.approx(errors[1], rel=0.2), (
        "the same but for roundings that another batch tips over"
    )
    if kind != "swapped":
        assert backbone.residency.there == [], "there was no room for both: it was made in main memory"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["swapped", "offloaded", "streamed"])
@pytest.mark.parametrize("method", ["mixdq", "svdquant"])
def test_calibration_takes_no_more_memory_than_was_foreseen(kind, method):
    backbone = fresh("sdxl-turbo")
    backbone.parts = parts = replace(backbone.parts, denoise=3000, decode=4000)
    card, budget = Card(), needs(parts, "w4a8")[kind] - RESERVE
    backbone.residency = Watched(DEVICE, budget, move=card)
    while methods.calibrate(backbone, Quantization("w4a8", method=method)):
        pass
    assert parts.denoise < card.peak <= budget


def test_as_many_trials_at_once_as_memory_holds():
    backbone = fresh("sdxl-turbo")
    assert backbone.images_at_once(16) == 16 and embedded().images_at_once(5) == 5
    backbone.parts = p = replace(backbone.parts, denoise=1000, unpack=10)
    for weights, images, found in (
        (p.denoiser, 3.5, 3),
        (p.denoiser, 99, 16),
        (p.denoiser, 1, 1),
        (p.largest_block, 2, 2),
        (0, 1, 1),
    ):
        backbone.residency = Residency(DEVICE, int(weights + 10 + images * 1000))
        assert backbone.images_at_once(16) == found


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
