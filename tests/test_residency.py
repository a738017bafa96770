"""Modules take turns on the device: what is moved when, with every move written down instead of made."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers.hooks.group_offloading import ModuleGroup
from tiny_models import fresh
from torch import nn

import qsched.models.residency as module_under_test
from qsched.comparison.comparison import compare, rescale
from qsched.comparison.result import Settings
from qsched.models.memory import SCORER, packing_need
from qsched.models.pipeline import PipelineBackbone
from qsched.models.residency import HOST, Residency
from qsched.quantization import Quantization, stored_bytes
from qsched.sampling.coefficients import Coefficients

DEVICE = torch.device("cuda:0")  # a name only: nothing is moved


class Card:
    """A pretended GPU of so many bytes; more on it is an error. log: (name, "on" or "off") of every move."""

    def __init__(self, size, **names):
        self.size, self.names, self.log, self.on, self.worked = size, names, [], [], 0
        self.residency = Residency(DEVICE, self.free, self.move)

    def free(self):
        return self.size - sum(stored_bytes(module, None) for module in self.on)

    def move(self, module, device):
        self.on = [other for other in self.on if other is not module] + [module] * (device == DEVICE)
        found = [name for name, known in self.names.items() if known is module]
        self.log.append((found[0] if found else "quantized", "off" if device == HOST else "on"))
        assert self.free() >= 0

    def take(self):
        taken, self.log = self.log, []
        return taken


def block(size):
    return nn.Linear(size // 4, 1, bias=False)


def use(card, *names, work=0):
    for name in names:
        with card.residency.using(card.names[name], work):
            assert list(card.residency.there)[-1] is card.names[name] and card.free() >= work
    return card.take()


def three(size):
    return Card(size, text=block(400), full=block(1000), quantized=block(200))


def test_what_was_used_longest_ago_leaves_first():
    card = three(1700)
    assert use(card, "text", "full", "quantized", "full", "text", work=100) == [
        ("text", "on"), ("full", "on"), ("quantized", "on"),
    ]  # fmt: skip
    assert use(card, "full", work=101) == [("quantized", "off")], "activations count"
    card.residency.park_all()
    card.residency.park(card.names["full"])
    assert card.take() == [("text", "off"), ("full", "off")] and not card.residency.there
    card = three(1300)
    assert use(card, "text", "full") == [("text", "on"), ("text", "off"), ("full", "on")]
    assert use(card, "quantized", work=100) == [("quantized", "on")]
    assert use(card, "quantized", work=101) == [("full", "off")]


def test_dropped_modules_are_forgotten():
    residency = Residency(HOST)
    residency.bring(block(1400))
    assert not residency.there


def test_what_did_not_fit_all_the_same_leaves_nothing_there():
    places = []

    def move(module, device):
        places.append(device)
        if device == DEVICE:
            raise torch.OutOfMemoryError("CUDA out of memory")

    residency = Residency(DEVICE, lambda: 10**9, move)
    with pytest.raises(torch.OutOfMemoryError):
        residency.bring(block(400))
    assert places == [DEVICE, HOST] and not residency.there


def watch_blocks(monkeypatch):
    """The classes of what comes to the device in parts; it gets memory of its own, as by a real move."""
    came, apply = [], module_under_test.apply_group_offloading

    def onload(group):
        came.extend(type(part._apply(lambda tensor: tensor.clone())).__name__ for part in group.modules)

    here = lambda module, device, **options: apply(module, HOST, **options)
    monkeypatch.setattr(module_under_test, "apply_group_offloading", here)
    monkeypatch.setattr(ModuleGroup, "onload_", onload)
    return came


@pytest.fixture
def blocks(monkeypatch):
    return watch_blocks(monkeypatch)


@pytest.fixture
def backbone(monkeypatch):
    """One whose activations are small beside its weights, as those of real ones are."""
    loaded = fresh("sdxl-turbo")
    small = replace(loaded.parts, denoise=3000, unpack=1000, decode=4000)
    monkeypatch.setattr(PipelineBackbone, "parts", small)
    return loaded


def limit(backbone, size):
    card = Card(size, text=backbone.text_encoders, full=backbone.denoiser, vae=backbone.pipe.vae)
    backbone.residency = card.residency
    return card


@pytest.fixture(scope="module")
def unlimited():
    return compare(fresh("sdxl-turbo"), Settings("a red fox", 0, 2), Coefficients.ramp(1.1, 0.9))


@pytest.mark.parametrize("kind", ["resident", "one at a time", "block by block"])
def test_a_comparison_gives_the_same_images_in_less_memory(kind, unlimited, backbone, blocks):
    full, vae = stored_bytes(backbone.denoiser, None), stored_bytes(backbone.pipe.vae, None)
    sizes = {"resident": 2 * backbone.weight_bytes, "one at a time": max(full, vae) + 4000}
    card = limit(backbone, sizes.get(kind, full - 1))
    found = compare(backbone, Settings("a red fox", 0, 2), Coefficients.ramp(1.1, 0.9))
    first = card.take()
    for ours, theirs in zip(found.columns, unlimited.columns, strict=True):
        assert ours.image.tobytes() == theirs.image.tobytes()
    seen = {*blocks}
    blocks.clear()
    rescale(backbone, found, Coefficients.ramp(0.9, 1.1))
    drag = card.take()
    if kind == "resident":
        assert [name for name, _ in first[:3]] == ["text", "full", "vae"] and drag == [] == [*seen]
        assert all(where == "on" for _, where in first)
    else:
        assert ("text", "off") in first and ("full", "on") not in drag
        assert (("full", "on") in first) == (kind == "one at a time")
        assert ("CrossAttnDownBlock2D" in seen) == (kind == "block by block") and not blocks
    parts = [part for part in backbone.denoiser.modules() if hasattr(part, "_diffusers_hook")]
    assert bool(parts) == (kind == "block by block") and not any(part._diffusers_hook.hooks for part in parts)
    assert not any(weight.is_inference() for weight in backbone.denoiser.parameters())


def test_a_quantized_one_is_made_where_there_is_room_for_both(backbone):
    full = stored_bytes(backbone.denoiser, None)
    four, three = (packing_need(backbone.denoiser, bits) for bits in ("w4a8", "w3a8"))
    card = limit(backbone, full + four)
    made = backbone.quantized(Quantization("w4a8"))
    assert [*backbone.residency.there] == [backbone.denoiser, made.module]
    assert card.take() == [("full", "on")], "it lies there already"
    card.on.append(made.module)
    backbone.quantized(Quantization("w3a8"))
    assert card.take() == [("quantized", "off")], "older ones give way"
    card.size = full + three - 1
    backbone.quantized(Quantization("w3a8", group_size=2))
    assert card.take() == [("quantized", "off"), ("full", "off")], "made in main memory"


def test_older_quantized_ones_are_dropped_where_main_memory_is_full(backbone, monkeypatch):
    for bits in ("w2a8", "w3a8"):
        backbone.quantized(Quantization(bits))
    free = iter([0, 10**9])
    monkeypatch.setattr("qsched.models.memory.free_bytes", lambda device: next(free))
    backbone.quantized(Quantization("w4a8"))
    assert [settings.bits for settings in backbone._quantized] == ["w3a8", "w4a8"]


def test_the_scorer_lies_on_the_device_where_there_is_room_for_it(backbone, monkeypatch):
    asked = []
    fake = SimpleNamespace(
        load_scorer=lambda name, device, offline: asked.append(device), scorer_weights=lambda name: []
    )
    monkeypatch.setitem(sys.modules, "qsched.scoring.loading", fake)
    backbone.judge, backbone.device = None, DEVICE
    enough = backbone.weight_bytes + backbone.parts.work
    for budget, device, left in (
        (enough + SCORER, DEVICE, enough),
        (enough + SCORER - 1, HOST, enough + SCORER - 1),
        (None, DEVICE, None),
    ):
        backbone.residency.budget = budget
        backbone._make_scorer()
        assert asked.pop() == device and backbone.residency.budget == left
