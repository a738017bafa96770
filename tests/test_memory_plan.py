"""The memory plan re-derived from the published configurations, shown by `backbones`, and kept to under a
pretended limit.
"""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from embedded_model import grey_levels
from test_residency import DEVICE, Moves
from tiny_models import REAL, fresh
from torchvision.transforms.functional import to_tensor

from qsched.commands import cli
from qsched.comparison.comparison import Settings, compare, rescale
from qsched.models.memory import plan as memory
from qsched.models.memory.plan import (
    BITS,
    CARDS,
    CONTEXT,
    RESERVE,
    SCORER,
    UNPACKED,
    facts,
    needs,
    plan,
    plan_on_card,
)
from qsched.models.memory.residency import HOST, Residency, _bytes
from qsched.models.registry import SPECS
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients

GIB, CUDA = 2**30, torch.device("cuda")
CLIP_L, CLIP_G, T5_XXL = 123_060_480, 694_659_840, 4_762_310_656
VAE, VAE_FLUX = 83_653_863, 83_819_683
SDXL, LCM = 2_567_463_684, 859_520_964 + 256 * 320
"""Parameters as published; LCM's U-Net is SD 1.5's and one projection of the guidance."""


def flux_by_hand():
    """(parameters, packed weights, output channels of packed layers) of FLUX.1-schnell, d = 3072, 19 + 38
    blocks.
    """
    d = 3072
    # two norms' modulations (d to 6d), eight projections (d to d), two MLPs (d to 4d to d)
    double, double_out = 2 * 6 * d * d + 8 * d * d + 2 * 8 * d * d, 2 * 6 * d + 8 * d + 2 * 5 * d
    # a modulation (d to 3d), an MLP in (d to 4d), q, k, v (d to d), the way out (5d to d)
    single, single_out = 3 * d * d + 4 * d * d + 3 * d * d + 5 * d * d, 3 * d + 4 * d + 3 * d + d
    packed, outs = 19 * double + 38 * single, 19 * double_out + 38 * single_out
    norms = 128 * (19 * 4 + 38 * 2)
    kept = (
        (64 + 1) * d
        + (4096 + 1) * d
        + (256 + 1 + d + 1) * d
        + (768 + 1 + d + 1) * d
        + (d + 1) * 2 * d
        + (d + 1) * 64
    )
    return packed + outs + norms + kept, packed, outs  # every packed layer has a bias per output channel


def decoder_by_hand(side, itemsize):
    """Three tensors of 256 channels at full resolution live at one time in every one of these decoders."""
    return 3 * 256 * side * side * itemsize


def test_flux_by_hand():
    parameters, packed, outs = flux_by_hand()
    parts = facts(SPECS["flux1-schnell"])
    assert parts.denoiser == 2 * parameters and parts.text_encoders == 2 * (CLIP_L + T5_XXL)
    assert parts.vae == 2 * VAE_FLUX and parts.decode == decoder_by_hand(1024, 2)
    assert parts.unpack == UNPACKED * 6 * 3072 * 3072, "a modulation is the largest matrix"
    for bits, width in (("w8a8", 8), ("w4a8", 4), ("w4a4", 4), ("w3a8", 3), ("w2a8", 2)):
        assert parts.packed[bits] == packed * width // 8 + 2 * outs + 3 * 494  # layers, with their layout
        assert parts.quantized[bits] == parts.packed[bits] + 2 * (parameters - packed)


@pytest.mark.parametrize(
    ("id", "denoiser", "text", "vae", "decode"),
    [
        ("lcm-dreamshaper-v7", LCM, CLIP_L, 2 * VAE, decoder_by_hand(512, 2)),
        # float32: in float16 it is black
        ("sdxl-turbo", SDXL, CLIP_L + CLIP_G, 4 * VAE, decoder_by_hand(512, 4)),
        ("pcm-sdxl", SDXL, CLIP_L + CLIP_G, 4 * VAE, decoder_by_hand(1024, 4)),
    ],
)
def test_u_nets_by_hand(id, denoiser, text, vae, decode):
    parts = facts(SPECS[id])
    assert (parts.denoiser, parts.text_encoders) == (2 * denoiser, 2 * text)
    assert parts.vae == vae and parts.decode == pytest.approx(decode, rel=1e-3), "besides, its small input"


@pytest.mark.parametrize("id", REAL)
@pytest.mark.parametrize("bits", BITS)
def test_what_each_way_needs_by_hand(id, bits):
    p = facts(SPECS[id])
    step, full, quantized = p.denoise + p.unpack, p.denoiser, p.packed[bits] + p.kept
    assert needs(p, bits) == {
        "resident": RESERVE + p.text_encoders + p.vae + full + quantized + max(step, p.decode),
        "swapped": RESERVE + p.text_encoders + p.vae + full + max(step, p.decode),
        "offloaded": RESERVE + max(p.text_encoders, full + step, p.vae + p.decode),
        "streamed": RESERVE + max(p.text_encoders, max(quantized, p.largest_block) + step, p.vae + p.decode),
    }


def shown(capsys, *arguments):
    assert cli.main(["backbones", "--device", "cpu", *arguments]) == 0
    return capsys.readouterr().out


def test_backbones_shows_the_plan(capsys):
    found = {entry["id"]: entry for entry in json.loads(shown(capsys, "--json"))["backbones"]}
    expected = {
        ("flux1-schnell", 24, "w4a8"): ("streamed", 9.60),
        **{("flux1-schnell", 48, bits): ("resident", gib) for bits, gib in zip(BITS, (44.54, 39.03, 39.03,
            37.65, 36.27), strict=True)},
        ("sdxl-turbo", 8, "w4a8"): ("offloaded", 5.61),
        ("lcm-dreamshaper-v7", 6, "w8a8"): ("resident", 3.69),
        ("lcm-dreamshaper-v7", 6, "w4a8"): ("resident", 3.30),
    }  # fmt: skip
    for (id, card, bits), (kind, gib) in expected.items():
        entry = found[id]["cards"][str(card)][bits]
        assert (entry["kind"], round(entry["peak_bytes"] / GIB, 2)) == (kind, gib), (id, card, bits)
        assert entry["peak_bytes"] == found[id]["device_memory_bytes"][bits][kind] <= card * GIB - CONTEXT
        assert (entry["host_bytes"] == 0) == (kind == "resident")
    assert all(found["flux1-schnell"]["cards"]["6"][bits]["kind"] == "none" for bits in BITS)
    lines = {
        line.split()[0]: line.split() for line in shown(capsys).split("on a GPU of")[1].splitlines()[1:6]
    }
    assert lines["flux1-schnell"][-6:] == ["streamed", "10.3", "GB", "resident", "41.9", "GB"]
    assert lines["sdxl-turbo"][4:7] == ["offloaded", "6.0", "GB"] and lines["flux1-schnell"][1] == "-"


def test_a_card_leaves_less_than_its_size():
    parts = facts(SPECS["lcm-dreamshaper-v7"])
    for card in CARDS:
        assert plan_on_card(parts, "w4a8", card) == plan(parts, "w4a8", card * GIB - CONTEXT)


def test_main_memory_holds_both_denoisers_and_what_they_share_once():
    spec = SPECS["sdxl-turbo"]
    parts = memory.published("sdxl", spec.size, torch.float32)
    found = memory.foreseen(spec, HOST, 100 * GIB)
    by_hand = parts.text_encoders + parts.vae + 4 * SDXL + parts.packed["w4a8"] + parts.work + SCORER
    assert found.kind == "resident" and found.peak == found.host == by_hand
    assert parts.quantized["w4a8"] == parts.packed["w4a8"] + 2 * facts(spec).kept, (
        "float32 keeps twice the bytes"
    )
    assert memory.foreseen(spec, HOST, by_hand).fits and not memory.foreseen(spec, HOST, by_hand - 1).fits


def test_what_would_fit_fits():
    for free in (4, 8, 20, 40, 90):
        for device in (HOST, CUDA):
            other = memory.would_fit(free * GIB, device)
            assert other is None or memory.foreseen(SPECS[other], device, free * GIB).fits
    assert memory.would_fit(20 * GIB, HOST) in ("sdxl-turbo", "pcm-sdxl"), "the CPU runs in float32"
    assert memory.would_fit(20 * GIB, CUDA) == "flux1-schnell"


def test_what_torch_holds_back_is_free(monkeypatch):
    for name, value in (("mem_get_info", (5, 24)), ("memory_reserved", 10), ("memory_allocated", 4)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert memory.free_bytes(CUDA) == 5 + 10 - 4


class Card(Moves):
    """Gives what is moved memory of its own, as a real move does, and adds up what lies on the device."""

    def __init__(self, **modules):
        super().__init__(**modules)
        self.on, self.work, self.peak = [], 0, 0

    def __call__(self, module, device):
        super().__call__(module, device)
        parts = set(map(id, module.modules()))
        self.on = [other for other in self.on if id(other) not in parts]
        if device != HOST:
            module._apply(lambda tensor: tensor.clone())
            self.on.append(module)
        self.seen()

    def seen(self):
        self.peak = max(self.peak, _bytes(*self.on) + self.work)


class Watched(Residency):
    """Tells the card how much is worked in."""

    @contextmanager
    def using(self, module, work=0, instead_of=()):
        with super().using(module, work, instead_of):
            self._mover.work = work
            self._mover.seen()
            yield
            self._mover.work = 0


@pytest.fixture(scope="module")
def unlimited():
    return compare(fresh("sdxl-turbo"), Settings("a red fox", 0, 2), Coefficients.ramp(1.1, 0.9))


@pytest.mark.parametrize("kind", ["resident", "swapped", "offloaded", "streamed"])
def test_a_comparison_runs_as_planned(kind, unlimited):
    backbone = fresh("sdxl-turbo")
    # so small an image needs more memory in the decoder than anywhere else
    backbone.parts = parts = replace(backbone.parts, denoise=3000, decode=4000)
    free = needs(parts, "w4a8")[kind]
    assert plan(parts, "w4a8", free).kind == kind
    card = Card(text=backbone.text_encoders, full=backbone.denoiser, vae=backbone.pipe.vae)
    backbone.residency = Watched(DEVICE, free - RESERVE, move=card)
    found = compare(backbone, Settings("a red fox", 0, 2), Coefficients.ramp(1.1, 0.9))
    card.modules["quantized"] = backbone.quantized(Quantization("w4a8")).module
    first = card.take()
    rescale(backbone, found, Coefficients.ramp(0.9, 1.1))
    drag = card.take()

    assert card.peak <= free - RESERVE, "what was foreseen is never exceeded"
    for ours, theirs in zip(found.columns, unlimited.columns, strict=True):
        assert grey_levels(to_tensor(ours.image), to_tensor(theirs.image)).float().mean() <= 1
    moved = [name for name, where in first if where == "off"]
    if kind == "resident":
        assert moved == [] and [name for name, _ in first[:3]] == ["text", "full", "vae"] and drag == []
    if kind == "swapped":
        assert moved == ["full"] and drag == [], "full precision leaves once, and a drag moves nothing"
    if kind == "offloaded":
        assert "full" in moved and not any("Block" in name for name, _ in first)
    if kind == "streamed":
        assert any("Block" in name for name, _ in first), "full precision comes block by block"
        assert not any("Block" in name for name, _ in drag), "the quantized one fits"
