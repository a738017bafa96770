"""Memory as arithmetic: exact for weights, an upper estimate for activations, and what follows for real
cards.
"""

import copy

import pytest
import torch
from tiny_models import REAL, tiny
from torch import nn

from qsched.models.memory import plan as memory
from qsched.models.memory.activations import peak_activation_bytes
from qsched.models.memory.architectures import ARCHITECTURES, build
from qsched.models.memory.plan import BITS, facts, needs, plan, quantized_bytes
from qsched.models.registry import SPECS
from qsched.quantization import quantize, stored_bytes

MIB, GIB = 2**20, 2**30
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CONTEXT = GIB // 2
"""What the driver and torch's context take of a card before anything else."""


@pytest.mark.parametrize(
    ("id", "mebibytes"),
    [
        ("lcm-dreamshaper-v7", 1639.6),
        ("pcm-sd15", 1639.4),
        ("sdxl-turbo", 4897.0),
        ("flux1-schnell", 22680.6),
    ],
)
def test_denoisers_have_their_known_sizes(id, mebibytes):
    assert facts(SPECS[id]).denoiser / MIB == pytest.approx(mebibytes, abs=0.06)


def test_text_encoders_and_decoders_have_their_known_sizes():
    parameters = {
        ("sd15", "text_encoder"): 123.06e6,
        ("sdxl", "text_encoder_2"): 694.66e6,
        ("flux", "text_encoder_2"): 4762.3e6,
        ("sd15", "vae"): 83.65e6,
        ("flux", "vae"): 83.82e6,
    }
    for (architecture, name), count in parameters.items():
        assert sum(p.numel() for p in build(architecture, name).parameters()) == pytest.approx(
            count, rel=1e-4
        )


@pytest.mark.parametrize("id", REAL)
def test_downloads_are_as_large_as_the_weights_they_bring(id):
    spec = SPECS[id]
    each = 4 if spec.id == "lcm-dreamshaper-v7" else 2  # its repository has float32 only
    count = sum(
        p.numel()
        for name in ARCHITECTURES[spec.architecture]
        for p in build(spec.architecture, name).parameters()
    )
    assert spec.download_bytes == pytest.approx(each * count, rel=0.01)


@pytest.mark.parametrize(
    ("architecture", "name", "bits"),
    [("lcm", "unet", "w3a8"), ("flux", "transformer", "w4a8")],
)
def test_quantized_sizes_are_the_quantizers_own(architecture, name, bits):
    module = build(architecture, name)
    expected = quantized_bytes(module, bits)
    assert quantize(module, bits).bytes_after == expected


@pytest.mark.parametrize("id", REAL)
@pytest.mark.parametrize("bits", BITS)
def test_quantized_sizes_hold_for_real_weights(id, bits):
    module = copy.deepcopy(tiny(id).denoiser)
    expected = quantized_bytes(module, bits)
    assert quantize(module, bits).bytes_after == expected < stored_bytes(tiny(id).denoiser)


def test_the_peak_of_activations_is_what_lives_at_one_time():
    with torch.device("meta"):
        layers = nn.Sequential(nn.Linear(10, 1000), nn.ReLU(), nn.Linear(1000, 20), nn.Linear(20, 20))
        x = torch.empty(4, 10)
    # the input was there before; ReLU's input and output live together, what comes after is smaller
    assert peak_activation_bytes(layers, lambda: layers(x)) == 2 * 4 * 1000 * 4


def test_the_peak_knows_no_matrix_of_all_pairs():
    heads = torch.empty(1, 8, 4096, 40, device="meta", dtype=torch.float16)
    attend = lambda: nn.functional.scaled_dot_product_attention(heads, heads, heads)
    assert peak_activation_bytes(nn.Identity(), attend) == heads.nbytes


def test_the_estimate_is_not_below_what_packed_layers_need():
    module, parts = build("sd15", "unet").half(), facts(SPECS["pcm-sd15"])
    quantize(module, "w4a8")
    inputs = [
        torch.empty(*shape, device="meta", dtype=torch.float16)
        for shape in ((1, 4, 64, 64), (1,), (1, 77, 768))
    ]
    peak = peak_activation_bytes(module, lambda: module(*inputs))
    assert 0.3 * (parts.denoise + parts.unpack) < peak <= parts.denoise + parts.unpack


def test_what_runs_on_which_card():
    def kinds(id, gigabytes):
        return {bits: plan(facts(SPECS[id]), bits, gigabytes * GIB - CONTEXT).kind for bits in BITS}

    assert set(kinds("lcm-dreamshaper-v7", 6).values()) == {"resident"}
    assert set(kinds("sdxl-turbo", 8).values()) == {"offloaded"}
    assert set(kinds("flux1-schnell", 24).values()) == {"streamed"}
    assert set(kinds("flux1-schnell", 48).values()) == {"resident"}
    assert set(kinds("flux1-schnell", 8).values()) == {"none"}


@pytest.mark.parametrize("id", REAL)
def test_a_plan_is_the_fastest_that_fits(id):
    parts = facts(SPECS[id])
    options = needs(parts, "w4a8")
    assert list(options) == [kind for kind in memory.PLANS if kind != "none"]
    assert sorted(options.values(), reverse=True) == list(options.values())
    for kind, peak in options.items():
        found = plan(parts, "w4a8", peak)
        assert (found.kind, found.peak, found.fits) == (kind, peak, True)
        assert (found.host == 0) == (kind == "resident")
    nothing = plan(parts, "w4a8", min(options.values()) - 1)
    assert nothing.kind == "none" and not nothing.fits and nothing.sentence == "does not fit"


def test_what_does_not_fit_is_said_with_what_would():
    assert (
        memory.would_fit(6 * GIB, CUDA) in ("sdxl-turbo", "pcm-sdxl") and memory.would_fit(GIB, CUDA) is None
    )
    assert memory.would_fit(48 * GIB, CUDA) == "flux1-schnell"
    sentence = memory.too_large(SPECS["flux1-schnell"], 10 * GIB, 2 * GIB, CUDA)
    assert sentence.startswith("FLUX.1-schnell needs 10.7 GB of memory and 2.1 GB are free: ")
    assert "would fit" in sentence and sentence.count(".") == 4


@pytest.mark.parametrize("id", REAL)
def test_a_loaded_model_is_measured_from_its_own_configurations(id):
    backbone = tiny(id)
    parts = backbone.parts
    assert parts.denoiser == stored_bytes(backbone.denoiser, 4)
    assert parts.text_encoders == stored_bytes(backbone.text_encoders, 4)
    assert parts.vae == stored_bytes(backbone.pipe.vae, 4)
    assert parts.decode > 3 * 64 * 64 * 4 and 0 < parts.largest_block < parts.denoiser
    assert next(backbone.denoiser.parameters()).device.type == "cpu"
