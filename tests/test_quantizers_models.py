"""The other methods through the backbone: every command and the page on top of them; torchao."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from command_line import CommandLine
from embedded_model import PROMPTS, embedded
from tiny_models import fresh
from torch import nn

from qsched.comparison.comparison import compare
from qsched.comparison.record import record
from qsched.comparison.result import Settings
from qsched.evaluation.held_out import evaluate, quantization_of
from qsched.export.usage import export_scheduler
from qsched.presets import find_preset, preset_name, save_preset
from qsched.quantization import Quantization, stored_bytes
from qsched.quantizers import mixdq as mixdq_module
from qsched.quantizers.bos import BosLinear
from qsched.quantizers.calibration import observe
from qsched.quantizers.methods import METHODS
from qsched.sampling.coefficients import Coefficients
from qsched.search.options import SearchOptions
from qsched.search.run import search


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["w4a4", "w8a8"])
def test_svdquant_of_the_embedded_model(bits):
    backbone, calls = embedded(), embedded().calls
    made = backbone.quantized(Quantization(bits, method="svdquant"))
    assert backbone.calls == calls and made.report.bytes_after == stored_bytes(made.module)
    plain = backbone.quantized(Quantization(bits))
    assert plain.module is not made.module
    assert (
        made.report.bytes_after > plain.report.bytes_after and made.report.quantized == plain.report.quantized
    )
    calls = observe(backbone).calls
    errors = [sum(call.error(backbone, made.module) for call in calls) for made in (made, plain)]
    assert errors[0] < (0.5 if bits == "w4a4" else 1) * errors[1]


@pytest.mark.slow
def test_mixdq_of_the_embedded_model(monkeypatch):
    backbone, asked, measured = embedded(), [], mixdq_module.LayerErrors
    monkeypatch.setattr(mixdq_module, "LayerErrors", lambda *a: (asked.append(len(a[1])), measured(*a))[1])
    made, plain = (backbone.quantized(Quantization("w4a8", method=method)) for method in ("mixdq", "plain"))
    rows = [layer.row for layer in made.module.modules() if isinstance(layer, BosLinear)]
    assert len(rows) == 8, "to_k and to_v of four cross-attentions"
    assert made.report.bytes_after <= plain.report.bytes_after + 2 * sum(row.numel() for row in rows)
    assert made.report.bytes_after == stored_bytes(made.module) and len(made.report.layer_bits) == 3
    calls = observe(backbone).calls
    assert sum(c.error(backbone, made.module) for c in calls) < 0.3 * sum(
        c.error(backbone, plain.module) for c in calls
    )
    again = backbone.quantized(Quantization("w3a8", method="mixdq"))
    assert asked in ([], [sum(plain.report.quantized.values())]), "all bit-widths share one measurement"
    assert again.report.bytes_after < made.report.bytes_after


@pytest.mark.slow
@pytest.mark.parametrize("id", ["lcm-dreamshaper-v7", "pcm-sdxl"])
def test_a_planted_first_token_ruins_w8a8_per_tensor_and_not_mixdq(id, monkeypatch):
    backbone = fresh(id)
    encode, width = backbone.encode, backbone.denoiser.config.cross_attention_dim
    token = torch.randn(width, generator=torch.Generator().manual_seed(0))
    token[3] = 800.0

    def planted(prompts):
        condition = encode(prompts)
        embeds = condition.embeds.clone()
        embeds[:, 0] = token
        return replace(condition, embeds=embeds)

    monkeypatch.setattr(backbone, "encode", planted)
    for layer in (
        m for name, m in backbone.denoiser.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))
    ):
        layer.weight.data[:, 3] *= 1e-3  # nor is the published networks' attention ruled by that one channel
    plain, mixed = (
        backbone.quantized(Quantization("w8a8", activation_scale="tensor", method=method))
        for method in ("plain", "mixdq")
    )
    calls = observe(backbone).calls
    errors = [sum(call.error(backbone, made.module) for call in calls) for made in (plain, mixed)]
    assert errors[1] < errors[0] / 3
    rows = [layer for layer in mixed.module.modules() if isinstance(layer, BosLinear)]
    readers = [
        name for name, _ in backbone.denoiser.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))
    ]
    assert len(rows) == len(readers) >= 4 and mixed.report.bytes_after <= plain.report.bytes_after + sum(
        2 * layer.row.numel() for layer in rows
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mixdq", "svdquant", "torchao"])
def test_images_come_nearer_to_full_precision_than_plain_rounding(method):
    if method == "torchao":
        pytest.importorskip("torchao", reason="the optional package torchao is not installed")
    how, chosen = Quantization("w4a8", method=method), Coefficients.constant(1.02, 1.01)
    naive, moved = [], []
    for prompt in PROMPTS:
        comparison = compare(embedded(), Settings(prompt, 3, 2, how), chosen)
        plain = compare(embedded(), Settings(prompt, 3, 2, Quantization("w4a8")), chosen, comparison)
        naive.append(comparison.naive.ssim - plain.naive.ssim)
        moved.append(comparison.qsched.ssim != comparison.naive.ssim)
    assert sum(naive) > 0 and all(moved)
    written = record(comparison)
    assert written["settings"]["quantization"]["method"] == method and written["size"]["notes"]
    assert json.dumps(written["size"])


@pytest.mark.slow
def test_a_search_a_preset_and_an_evaluation_keep_to_the_method(tmp_path):
    how = Quantization("w4a4", method="svdquant")
    found = search(embedded(), SearchOptions(how, PROMPTS[:1], 1, resolution=2, c_range=(0.9, 1.1)))
    assert found.method == "svdquant" and quantization_of(found) == how
    for name in (preset_name("w4a4", 1, "svdquant"), preset_name("w4a4", 1)):
        save_preset(found, tmp_path / "emoji-lcm" / name)
    assert find_preset("emoji-lcm", "w4a4", 1, tmp_path, "svdquant").coefficients == found.coefficients
    assert find_preset("emoji-lcm", "w4a4", 1, tmp_path) is None, (
        "a preset of another method under plain's name"
    )
    assert find_preset("emoji-lcm", "w4a4", 1, tmp_path, "mixdq") is None
    result = evaluate(embedded(), found, PROMPTS[1:2], seeds=1)
    plain = evaluate(
        embedded(), replace(found, settings=found.settings | {"method": "plain"}), PROMPTS[1:2], seeds=1
    )
    assert result.estimate("naive", "ssim").mean > 3 * plain.estimate("naive", "ssim").mean
    snippet = export_scheduler(found, embedded().scheduler, tmp_path / "scheduler")
    assert (
        "load_backbone('emoji-lcm')" in snippet
        and ".quantized(Quantization('w4a4'" in snippet
        and "method='svdquant'" in snippet
    )


def test_presets_without_a_method_are_plain_ones():
    preset = find_preset("emoji-lcm", "w4a8", 4)
    preset.settings.pop("method", None)  # as presets were written before there was a choice
    assert preset.method == "plain"
    assert quantization_of(preset) == Quantization("w4a8")
    assert find_preset("emoji-lcm", "w4a8", 4, method="mixdq") is None


def test_generate_says_what_the_method_did(tmp_path, capsys, monkeypatch):
    line = CommandLine(capsys, monkeypatch)
    arguments = ["generate", "--bits", "w4a4", "--steps", 1, "--prompt", "fox", "--out", tmp_path]
    status, out, err = line.run(*arguments, "--method", "svdquant")
    assert (status, err) == (0, "") and "SVDQuant: a branch of rank 32" in out and "no preset is known" in out
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["settings"]["quantization"]["method"] == "svdquant"
    assert stored["size"]["bytes_after"] == stored["columns"][1]["stored_bytes"]
    monkeypatch.setattr("qsched.quantizers.torchao.importlib.util.find_spec", lambda name: None)
    assert "pip install torchao" in line.fails(*arguments, "--method", "torchao")
    assert "invalid choice: 'gptq'" in line.fails(*arguments, "--method", "gptq")


def test_an_unknown_method_is_named():
    with pytest.raises(
        ValueError, match=r"Unknown method 'gptq'; known are plain, mixdq, svdquant, torchao\."
    ):
        embedded().quantized(Quantization(method="gptq"))


def test_the_command_line_knows_the_registry():
    from qsched.settings import METHOD

    assert list(METHOD.choices) == list(METHODS)


def test_the_page_offers_every_method_and_says_what_cannot_run(monkeypatch):
    from qsched.comparison.facts import arithmetic
    from qsched.comparison.given import quantization_of
    from qsched.server.engine import Engine
    from qsched.ui import fragments, values

    monkeypatch.setattr("qsched.quantizers.torchao.importlib.util.find_spec", lambda name: None)
    choices = values.method_choices()
    assert [name for _, name in choices] == list(METHODS)
    assert [name for label, name in choices if "(not here)" in label] == ["torchao"]
    assert "torchao is not installed" in values.method_note()
    how = quantization_of({"bits": "w4a4", "method": "svdquant"})
    assert how == Quantization("w4a4", method="svdquant")
    engine = Engine(load=lambda *a, **k: embedded())
    assert engine.preset("emoji-lcm", Quantization("w4a4"), 4) and engine.preset("emoji-lcm", how, 4) is None
    assert "SVDQuant: a branch of rank 32" in arithmetic(embedded().quantized(how).report)
    missing = fragments.no_surface("emoji-lcm", "w4a4", 4, method="svdquant")
    assert "--method svdquant" in missing and "w4a4-svdquant-4steps.json" in missing


# --- torchao ------------------------------------------------------------------------------------------------


def test_without_torchao_one_sentence(monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torchao" else find(name, *a)
    )
    with pytest.raises(ValueError, match=r"^torchao is not installed \(pip install torchao\)\.$"):
        embedded().quantized(Quantization("w8a8", method="torchao"))


def torchao_quantize(*arguments, **options):
    pytest.importorskip("torchao", reason="the optional package torchao is not installed")
    from qsched.quantizers.torchao import torchao_quantize as call

    return call(*arguments, **options)


class Small(nn.Module):
    """Two Linear layers and a convolution: (B, 64) -> (B, 8, 1, 1)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.conv = nn.Linear(64, 96), nn.Linear(96, 8), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.conv(self.two(self.one(x))[..., None, None])


@pytest.mark.parametrize(("bits", "limit"), [("w8a8", 0.02), ("w4a8", 0.2)])
def test_torchao_quantizes_linear_layers_and_says_what_it_stores(bits, limit):
    model, x = Small(), torch.randn(20, 64)
    expected = model(x)
    report = torchao_quantize(model, bits)
    for one in (model, copy.deepcopy(model)):
        assert 0 < (one(x) - expected).norm() / expected.norm() < limit
    assert report.quantized == {"linear": 2} and [layer.name for layer in report.kept] == ["conv"]
    weights, rest = 64 * 96 + 96 * 8, 2 * (96 + 8 + 8 * 8 + 8)
    groups = 96 * 64 // 32 + 8 * 96 // 32 if bits == "w4a8" else 96 + 8
    # one byte per weight, at four bits too; per group two bytes of scale and one of zero point
    assert report.bytes_after == weights + 3 * groups + rest
    assert (
        report.execution == {"int8" if bits == "w8a8" else "fake": 2}
        and "Linear layers only" in report.notes[0]
    )
    assert bits == "w8a8" or "one 4-bit weight per byte" in report.notes[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(bits="w4a4"), "torchao quantizes to w8a8 and w4a8, not to w4a4"),
        (dict(bits="w8a8", activation_scale="tensor"), "per token"),
        (dict(bits="w8a8", group_size=32), "leave out the group size"),
        (dict(bits="w4a8", group_size=40), "no group of 40 divides"),
        (dict(bits="w4a8", keep="*"), "nothing to quantize"),
    ],
)
def test_what_torchao_does_not_have_is_one_sentence(options, message):
    model = Small()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        torchao_quantize(model, **options)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
