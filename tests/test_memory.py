"""The table of sizes re-derived from the published configurations, and what it means for real cards."""

import json

import pytest
import torch
from bench.memory_table import build, measure, peak_activation_bytes
from tiny_models import REAL
from torch import nn

from qsched.commands import cli
from qsched.models import memory
from qsched.models.memory import (
    BITS,
    CONTEXT,
    PLANS,
    RESERVE,
    SCORER,
    TABLE,
    UNPACKED,
    footprint,
    foreseen,
    needs,
    plan,
)
from qsched.models.registry import SPECS
from qsched.quantization import quantize

GIB, CPU, CUDA = 2**30, torch.device("cpu"), torch.device("cuda")
CLIP_L, CLIP_G, T5_XXL = 123_060_480, 694_659_840, 4_762_310_656
VAE, VAE_FLUX = 83_653_863, 83_819_683
SDXL, LCM = 2_567_463_684, 859_520_964 + 256 * 320
"""Parameters as published; LCM's U-Net is SD 1.5's and one projection of the guidance."""


def decoder_by_hand(side, itemsize):
    """Three tensors of 256 channels at full resolution live at one time in every one of these decoders."""
    return 3 * 256 * side * side * itemsize


def test_flux_by_hand():
    d = 3072  # in 19 + 38 blocks
    # two norms' modulations (d to 6d), eight projections (d to d), two MLPs (d to 4d to d)
    double, double_out = 2 * 6 * d * d + 8 * d * d + 2 * 8 * d * d, 2 * 6 * d + 8 * d + 2 * 5 * d
    # a modulation (d to 3d), an MLP in (d to 4d), q, k, v (d to d), the way out (5d to d)
    single, single_out = 3 * d * d + 4 * d * d + 3 * d * d + 5 * d * d, 3 * d + 4 * d + 3 * d + d
    packed, outs = 19 * double + 38 * single, 19 * double_out + 38 * single_out
    inputs = [64, 4096, 256, d, 768, d]
    outside = sum((n + 1) * d for n in inputs) + (d + 1) * 2 * d + (d + 1) * 64
    kept = outside + 128 * (19 * 4 + 38 * 2)
    parts, parameters = footprint(SPECS["flux1-schnell"]), packed + outs + kept
    assert parts.denoiser == 2 * parameters and parts.text_encoders == 2 * (CLIP_L + T5_XXL)
    assert parts.vae == 2 * VAE_FLUX and parts.decode == decoder_by_hand(1024, 2)
    assert parts.unpack == UNPACKED * 6 * d * d, "a modulation is the largest matrix"
    assert parts.largest_block == 2 * (outside + double + double_out + 128 * 4)
    for bits, width in (("w8a8", 8), ("w4a8", 4), ("w4a4", 4), ("w3a8", 3), ("w2a8", 2)):
        assert parts.packed[bits] == packed * width // 8 + 2 * outs + 3 * 494  # layers, with their layout
        assert parts.quantized(bits) == parts.packed[bits] + 2 * (parameters - packed)


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
    parts = footprint(SPECS[id])
    assert (parts.denoiser, parts.text_encoders) == (2 * denoiser, 2 * text)
    assert parts.vae == vae and parts.decode == pytest.approx(decode, rel=1e-3), "besides, its small input"


@pytest.mark.slow
def test_the_table_is_what_its_command_writes_and_the_quantizers_own():
    spec, module = SPECS["lcm-dreamshaper-v7"], build("lcm", "unet").half()
    parts = footprint(spec)
    assert list(TABLE) == list(REAL) and measure(spec, torch.float16) == TABLE[spec.id]["half"]
    assert quantize(module, "w4a8").bytes_after == parts.quantized("w4a8")
    shapes = ((1, 4, 64, 64), (1,), (1, 77, 768))
    inputs = [torch.empty(*shape, device="meta", dtype=torch.float16) for shape in shapes]
    peak = peak_activation_bytes(module, lambda: module(*inputs))
    assert 0.3 * (parts.denoise + parts.unpack) < peak <= parts.denoise + parts.unpack


def test_the_peak_of_activations_is_what_lives_at_one_time():
    with torch.device("meta"):
        layers = nn.Sequential(nn.Linear(10, 1000), nn.ReLU(), nn.Linear(1000, 20), nn.Linear(20, 20))
        x = torch.empty(4, 10)
    # the input was there before; ReLU's input and output live together, what comes after is smaller
    assert peak_activation_bytes(layers, lambda: layers(x)) == 2 * 4 * 1000 * 4


@pytest.mark.parametrize("id", REAL)
def test_downloads_are_as_large_as_the_weights_they_bring(id):
    spec, parts = SPECS[id], footprint(SPECS[id], torch.float32)
    each = 4 if spec.id == "lcm-dreamshaper-v7" else 2  # its repository has float32 only
    count = (parts.denoiser + parts.text_encoders + parts.vae) / 4
    assert spec.download_bytes == pytest.approx(each * count, rel=0.01)


@pytest.mark.parametrize("id", REAL)
@pytest.mark.parametrize("bits", BITS)
def test_a_plan_is_the_fastest_that_fits(id, bits):
    options = needs(footprint(SPECS[id]), bits)
    assert [*options, "none"] == list(PLANS) and options["resident"] > options["offloaded"]
    for kind, peak in options.items():
        found = plan(options, peak)
        assert (found.kind, found.peak, found.fits) == (kind, peak, True)
    nothing = plan(options, options["offloaded"] - 1)
    assert nothing.kind == "none" and not nothing.fits and nothing.sentence == "does not fit"
    assert nothing.peak == options["offloaded"]


def test_activations_grow_with_the_image():
    spec = SPECS["pcm-sdxl"]
    small, large = footprint(spec, pixels=512 * 512), footprint(spec)
    assert small.decode == large.decode // 4 and small.denoise == large.denoise // 4
    assert small.denoise == pytest.approx(footprint(SPECS["sdxl-turbo"]).denoise, rel=0.01), "as measured"
    assert small.vae == large.vae


def shown(capsys, *arguments):
    assert cli.main(["backbones", "--device", "cpu", *arguments]) == 0
    return capsys.readouterr().out


def test_backbones_shows_what_runs_on_which_card(capsys):
    found = {entry["id"]: entry for entry in json.loads(shown(capsys, "--json"))["backbones"]}
    expected = {
        ("flux1-schnell", 24, "w4a8"): ("offloaded", 9.60),
        **{("flux1-schnell", 48, bits): ("resident", gib) for bits, gib in zip(BITS, (44.54, 39.03, 39.03,
            37.65, 36.27), strict=True)},
        ("sdxl-turbo", 8, "w4a8"): ("offloaded", 3.86),
        ("lcm-dreamshaper-v7", 6, "w8a8"): ("resident", 3.69),
        ("lcm-dreamshaper-v7", 6, "w4a8"): ("resident", 3.30),
    }  # fmt: skip
    for (id, card, bits), (kind, gib) in expected.items():
        entry = found[id]["cards"][str(card)][bits]
        assert (entry["kind"], round(entry["peak_bytes"] / GIB, 2)) == (kind, gib), (id, card, bits)
        assert entry["peak_bytes"] == found[id]["device_memory_bytes"][bits][kind] <= card * GIB - CONTEXT
    assert all(found["flux1-schnell"]["cards"]["6"][bits]["kind"] == "none" for bits in BITS)
    lines = {
        line.split()[0]: line.split() for line in shown(capsys).split("on a GPU of")[1].splitlines()[1:6]
    }
    assert lines["flux1-schnell"][-6:] == ["offloaded", "10.3", "GB", "resident", "41.9", "GB"]
    assert lines["sdxl-turbo"][4:7] == ["offloaded", "4.1", "GB"] and lines["flux1-schnell"][1] == "-"


def test_main_memory_holds_both_denoisers_and_what_they_share_once():
    spec = SPECS["sdxl-turbo"]
    parts = footprint(spec, torch.float32)
    found = foreseen(spec, CPU, 100 * GIB)
    weights = 4 * (CLIP_L + CLIP_G + VAE + SDXL) + parts.packed["w4a8"]
    assert found.kind == "resident" and found.peak == weights + parts.work + SCORER
    assert parts.kept == 2 * footprint(spec).kept, "float32 keeps twice the bytes"
    assert foreseen(spec, CPU, found.peak).fits and not foreseen(spec, CPU, found.peak - 1).fits


def test_what_would_fit_fits():
    for free in (4, 8, 20, 40, 90):
        for device in (CPU, CUDA):
            other = memory.would_fit(free * GIB, device)
            assert other is None or foreseen(SPECS[other], device, free * GIB).fits
    assert memory.would_fit(20 * GIB, CPU) in ("sdxl-turbo", "pcm-sdxl"), "the CPU runs in float32"
    assert memory.would_fit(20 * GIB, CUDA) == "flux1-schnell"
    assert memory.would_fit(RESERVE, CUDA) is None
    sentence = memory.too_large(SPECS["flux1-schnell"], 10 * GIB, 2 * GIB, CUDA)
    assert sentence.startswith("FLUX.1-schnell needs 10.7 GB of memory and 2.1 GB are free: ")
    assert "would fit" in sentence and sentence.count(".") == 4


def test_what_torch_holds_back_is_free(monkeypatch):
    for name, value in (("mem_get_info", (5, 24)), ("memory_reserved", 10), ("memory_allocated", 4)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert memory.free_bytes(CUDA) == 5 + 10 - 4
