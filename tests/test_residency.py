"""Modules take turns on the device: what is moved when, with every move written down instead of made."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny_models import PROMPTS, fresh
from torch import nn

import qsched.models.memory.residency as residency_module
from qsched.hub.source import BackboneError
from qsched.models.memory.plan import RESERVE, SCORER, needs, packing_need
from qsched.models.memory.residency import HOST, DoesNotFit, Residency
from qsched.quantization import Quantization
from qsched.sampling.loop import draw_noise, sample

DEVICE = torch.device("cuda:0")  # a name only: nothing is moved


class Moves:
    """Writes down (name, "on" or "off")."""

    def __init__(self, **modules):
        self.modules, self.log = modules, []

    def __call__(self, module, device):
        found = [name for name, known in self.modules.items() if known is module]
        self.log.append((found[0] if found else type(module).__name__, "off" if device == HOST else "on"))

    def take(self):
        taken, self.log = self.log, []
        return taken


def block(size):
    return nn.Linear(size // 4, 1, bias=False)


@pytest.fixture
def three():
    moves = Moves(text=block(400), full=block(1000), quantized=block(200))
    return moves, moves.modules


def use(residency, *modules, work=0):
    for module in modules:
        with residency.using(module, work):
            assert residency.there[-1] is module


def test_all_stay_where_all_fit(three):
    moves, m = three
    residency = Residency(DEVICE, 1700, move=moves)
    use(residency, m["text"], m["full"], m["quantized"], m["full"], m["text"], work=100)
    assert moves.take() == [("text", "on"), ("full", "on"), ("quantized", "on")]


def test_without_a_budget_nothing_is_moved_off(three):
    moves, m = three
    use(Residency(DEVICE, None, move=moves), *m.values(), *m.values(), work=10**12)
    assert moves.take() == [("text", "on"), ("full", "on"), ("quantized", "on")]


def test_what_was_used_longest_ago_leaves_first(three):
    moves, m = three
    residency = Residency(DEVICE, 1300, move=moves)
    use(residency, m["text"], m["full"], work=0)
    assert moves.take() == [("text", "on"), ("text", "off"), ("full", "on")]
    use(residency, m["quantized"], work=100)
    assert moves.take() == [("quantized", "on")]
    use(residency, m["quantized"], work=101)
    assert moves.take() == [("full", "off")]
    assert residency.there == [m["quantized"]]


def test_activations_count(three):
    moves, m = three
    residency = Residency(DEVICE, 1500, move=moves)
    use(residency, m["text"], m["full"], work=50)
    assert moves.take() == [("text", "on"), ("full", "on")]
    assert residency.has_room(100) and not residency.has_room(101)
    use(residency, m["full"], work=101)
    assert moves.take() == [("text", "off")]


def test_dropped_modules_are_forgotten():
    residency = Residency(DEVICE, 1500, move=Moves())
    use(residency, block(1400))
    assert residency.there == [] and residency.has_room(1500)


def test_park_all_makes_room_for_another_backbone(three):
    moves, m = three
    residency = Residency(DEVICE, None, move=moves)
    use(residency, m["text"], m["full"])
    moves.take()
    residency.park_all()
    residency.park(m["full"])
    assert moves.take() == [("text", "off"), ("full", "off")] and residency.there == []


class Streamed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_in, self.down_blocks = block(40), nn.ModuleList([block(400), block(400)])

    def forward(self, x):
        return sum(layer(x[:, : layer.in_features]) for layer in self.down_blocks)


def test_what_never_fits_runs_block_by_block(three):
    moves, m = three
    module = Streamed()
    moves.modules |= {
        "whole": module,
        "in": module.conv_in,
        "a": module.down_blocks[0],
        "b": module.down_blocks[1],
    }
    residency = Residency(DEVICE, 700, move=moves)
    use(residency, m["text"])
    moves.take()
    for _ in range(2):
        with residency.using(module):
            module(torch.ones(1, 100))
        expected = [("in", "on"), ("a", "on"), ("a", "off"), ("b", "on"), ("b", "off"), ("whole", "off")]
        log = moves.take()
        assert log[-6:] == expected and residency.there == []
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in module.modules())


def test_running_out_of_memory_is_one_sentence_and_the_work_goes_on(three):
    moves, m = three
    residency = Residency(HOST, None, lambda: "A smaller batch would fit.", moves)
    with pytest.raises(DoesNotFit, match="A smaller batch would fit") as caught, residency.using(m["text"]):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    assert isinstance(caught.value, BackboneError) and isinstance(caught.value, torch.OutOfMemoryError)
    use(residency, m["text"], m["full"])
    with pytest.raises(ZeroDivisionError), residency.using(m["text"]):
        raise ZeroDivisionError


@pytest.fixture
def backbone():
    """A loaded backbone whose parts are moved about in the log."""
    loaded = fresh("sdxl-turbo")
    modules = {"text": loaded.text_encoders, "full": loaded.denoiser, "vae": loaded.pipe.vae}
    loaded.moves = Moves(**modules)
    return loaded


def limit(backbone, budget):
    backbone.residency = Residency(DEVICE, budget, move=backbone.moves)


def image(backbone, denoiser=None):
    condition, noise = backbone.encode(PROMPTS[:1]), draw_noise(backbone.latent_shape, 0, [0])
    return backbone.decode(sample(backbone, condition, noise, 2, None, denoiser))


def test_a_backbone_keeps_everything_where_there_is_room(backbone):
    limit(backbone, 10**12)
    image(backbone)
    image(backbone)
    assert backbone.moves.take() == [("text", "on"), ("full", "on"), ("vae", "on")]


def test_one_module_at_a_time_where_there_is_little(backbone):
    plain = image(backbone)
    parts = backbone.parts
    limit(
        backbone,
        max(parts.denoiser + parts.denoise + parts.unpack, parts.text_encoders, parts.vae + parts.decode) + 1,
    )
    assert torch.equal(image(backbone), plain)
    assert backbone.moves.take() == [
        ("text", "on"), ("text", "off"), ("full", "on"), ("full", "off"), ("vae", "on"),
    ]  # fmt: skip


def test_full_precision_is_moved_off_for_the_quantized_one(backbone):
    # else it would be the largest of an image this small
    backbone.parts = parts = replace(backbone.parts, decode=0)
    made = backbone.quantized(Quantization("w8a8"))
    backbone.moves.modules["quantized"] = made.module
    room = parts.text_encoders + parts.denoiser + parts.vae + parts.work
    arrivals = [("text", "on"), ("full", "on"), ("vae", "on")]
    for more, expected in (
        (0, [("full", "off"), ("quantized", "on")]),
        (parts.packed["w8a8"], [("quantized", "on")]),
    ):
        limit(backbone, room + more)
        condition, latents = backbone.encode(PROMPTS[:1]), draw_noise(backbone.latent_shape, 0, [0]).start
        for denoiser in (None, made.module):  # the text, which was used longest ago, stays
            backbone.decode(backbone.predict(latents, 500.0, condition, denoiser))
        assert backbone.moves.take() == [*arrivals, *expected]


def test_a_quantized_one_is_made_where_there_is_room_for_both(backbone):
    full, text = backbone.parts.denoiser, backbone.parts.text_encoders
    three, four = (packing_need(backbone.denoiser, bits) for bits in ("w3a8", "w4a8"))
    limit(backbone, full + four)
    made = backbone.quantized(Quantization("w4a8"))
    assert backbone.residency.there == [backbone.denoiser, made.module], "what is made there is counted there"
    backbone.moves.modules["older"] = made.module
    assert backbone.moves.take() == [("full", "on"), ("UNet2DConditionModel", "on")]
    assert backbone.residency.has_room(four - backbone.parts.packed["w4a8"]), "what both share counts once"
    backbone.quantized(Quantization("w3a8"))
    assert backbone.moves.take() == [("older", "off"), ("UNet2DConditionModel", "on")], "older ones give way"
    limit(backbone, text + full + three - 1)
    backbone.encode(PROMPTS[:1])
    with backbone.residency.using(backbone.denoiser):
        pass
    backbone.moves.take()
    backbone.quantized(Quantization("w2a8", group_size=2))
    assert backbone.moves.take() == [("full", "off")], "made in main memory"


def test_older_quantized_ones_are_dropped_where_main_memory_is_full(backbone, monkeypatch):
    for bits in ("w2a8", "w3a8"):
        backbone.quantized(Quantization(bits))
    free = iter([0, 10**9])
    monkeypatch.setattr("qsched.models.memory.plan.free_bytes", lambda device: next(free))
    backbone.quantized(Quantization("w4a8"))
    assert [settings.bits for settings in backbone._quantized] == ["w3a8", "w4a8"]


def test_known_cases_are_not_counted_again(three, monkeypatch):
    moves, m = three
    residency, counted = Residency(DEVICE, 1700, move=moves), []
    use(residency, *m.values())
    count = residency_module._bytes
    monkeypatch.setattr(
        residency_module, "_bytes", lambda *modules: counted.append(len(modules)) or count(*modules)
    )
    for _ in range(3):
        use(residency, *m.values(), work=100)
    assert len(counted) == 1
    use(residency, m["full"], work=101)
    assert len(counted) > 1 and moves.take()[3:] == [("text", "off")]
    residency.budget -= 1
    use(residency, m["full"], work=500)
    assert moves.take() == [("quantized", "off")]


def test_the_scorer_lies_on_the_device_unless_that_changes_how_the_backbone_runs(backbone, monkeypatch):
    asked, loaded = [], SimpleNamespace()
    fake = SimpleNamespace(
        load_scorer=lambda name, device, offline: asked.append(device) or loaded,
        scorer_weights=lambda name: [],
    )
    monkeypatch.setitem(sys.modules, "qsched.scoring.loading", fake)
    backbone.judge, enough = None, needs(backbone.parts, "w4a8")["resident"] - RESERVE
    for budget, device in (
        (enough + SCORER, DEVICE),
        (enough + SCORER - 1, HOST),
        (enough, HOST),
        (None, DEVICE),
    ):
        limit(backbone, budget)
        backbone.residency.device = backbone.device = DEVICE
        assert backbone._make_scorer() is loaded and asked.pop() == device
        assert backbone.residency.budget == (enough if budget == enough + SCORER else budget)


def test_a_backbone_that_runs_out_of_memory_says_what_would_fit(backbone, monkeypatch):
    def too_much(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(backbone.pipe.vae, "decode", too_much)
        with pytest.raises(DoesNotFit, match=r"SDXL-Turbo ran out of memory: .* would fit"):
            image(backbone)
    assert image(backbone).isfinite().all()
