"""The small decoder as a choice: in a comparison, in a search, on the command line, on the page."""

import json

import gradio as gr
import pytest
from browser_app import given, tiny_backbone
from embedded_model import counted, embedded
from tiny_models import fresh, models, tiny

from qsched.commands import cli
from qsched.comparison.comparison import compare, rescale, sketch
from qsched.comparison.record import record
from qsched.comparison.result import Settings
from qsched.hub.source import Source
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.search.options import SearchOptions
from qsched.search.run import search
from qsched.server.engine import Engine
from qsched.ui.compare.tab import CompareTab

FULL = Settings("a red fox", 0, 2, Quantization("w4a8"))
TINY = Settings("a red fox", 0, 2, Quantization("w4a8"), tiny_decoder=True)


@pytest.fixture
def decoders(monkeypatch):
    """Which decoder was used for the images, in order; no paths are drawn."""
    backbone, used = tiny("sdxl-turbo"), []
    monkeypatch.setattr(backbone, "preview", lambda latents: None)
    decode = backbone._decode_slice
    monkeypatch.setattr(
        backbone,
        "_decode_slice",
        lambda vae, part: used.append("tiny" if vae is backbone.tiny else "full") or decode(vae, part),
    )
    return backbone, used


def test_one_decoder_draws_all_three_columns_and_every_drag(decoders):
    backbone, used = decoders
    small = compare(backbone, TINY, Coefficients.ramp(1.1, 0.9))
    moved = rescale(backbone, small, Coefficients.ramp(0.9, 1.1))
    assert used == ["tiny"] * 4 and record(moved)["settings"]["tiny_decoder"]
    whole = compare(backbone, FULL, Coefficients.ramp(0.9, 1.1), moved)
    assert used[4:] == ["full"] * 3, "what the other decoder drew is not reused"
    for a, b in zip(moved.columns, whole.columns, strict=True):
        assert a.image.tobytes() != b.image.tobytes()


def test_a_sketch_is_what_the_small_decoder_draws_and_leaves_no_trace(decoders):
    backbone, used = decoders
    small = compare(backbone, TINY, Coefficients.ramp(0.9, 1.1))
    whole, moved = compare(backbone, FULL, Coefficients.identity()), Coefficients.ramp(0.9, 1.1)
    used.clear()
    with counted(backbone) as count:
        drawn = sketch(backbone, whole, moved)
    assert used == ["tiny"] and count.calls == 1 and drawn.tobytes() == small.qsched.image.tobytes()
    there = rescale(backbone, whole, moved)
    assert there.qsched.image.tobytes() != drawn.tobytes() and used == ["tiny", "full"]
    for known in (moved, Coefficients.identity()):
        assert sketch(backbone, there, known) is None, "the full decoder has drawn this one"
    assert sketch(backbone, small, Coefficients.ramp(1.2, 1.1)) is None, "the small one draws anyway"
    assert sketch(embedded(), compare(embedded(), Settings("fox"), Coefficients.identity()), moved) is None


def test_a_search_with_it_is_another_search(decoders):
    backbone, used = decoders
    options = {"prompts": ["a fox"], "steps": 2, "resolution": 2}
    presets = {}
    for strategy in ("shared", "exhaustive"):
        for small in (False, True):
            used.clear()
            presets[strategy, small] = search(
                backbone, SearchOptions("w4a8", **options, strategy=strategy, tiny_decoder=small)
            )
            assert set(used) == {"tiny" if small else "full"}
    assert (
        presets["shared", True].provenance["decoder"] == "tiny"
        and presets["shared", False].provenance["decoder"] == "full"
    )
    assert (
        presets["shared", True].surface
        == presets["exhaustive", True].surface
        != presets["shared", False].surface
    )
    plain, small = (
        SearchOptions("w4a8", **options, tiny_decoder=tiny).checked(backbone).identity(backbone)
        for tiny in (False, True)
    )
    assert "decoder" not in plain and small == plain | {"decoder": "tiny"}


def test_without_one_it_is_one_sentence():
    for run in (
        lambda: compare(embedded(), Settings("fox", tiny_decoder=True), Coefficients.identity()),
        lambda: SearchOptions("w4a8", ["fox"], tiny_decoder=True).checked(embedded()),
    ):
        with pytest.raises(ValueError, match="has no tiny decoder here: use the full one"):
            run()
    gone = fresh("sdxl-turbo", tiny_vae=Source(str(models() / "gone")))
    with pytest.raises(ValueError, match="pull sdxl-turbo"):
        TINY.check(gone)


def test_on_the_command_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("qsched.commands.generate.open_backbone", lambda args, id=None: tiny("sdxl-turbo"))
    arguments = [
        "generate",
        "--backbone",
        "sdxl-turbo",
        "--prompt",
        "a fox",
        "--steps",
        "1",
        "--tiny-decoder",
    ]
    assert cli.main([*arguments, "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["tiny_decoder"]
    monkeypatch.setattr("qsched.commands.search.open_backbone", lambda args, id=None: embedded())
    arguments = ["search", "--prompts", "1", "--grid", "2", "--tiny-decoder", "--dry-run"]
    assert cli.main(arguments) == 2 and "no tiny decoder" in capsys.readouterr().err


@pytest.mark.parametrize("id", ["sdxl-turbo", "emoji-lcm"])
def test_the_page_offers_it_where_there_is_one(id):
    there = id == "sdxl-turbo"
    engine = Engine(id, load=lambda id, **options: tiny(id) if there else tiny_backbone(id))
    with gr.Blocks():
        tab = CompareTab(engine, gr.Checkbox())
    request = type("Request", (), {"session_hash": "a"})()
    wish = {"backbone": id, "prompt": "a fox", "steps": 2, "bits": "w4a8"}
    for decoder, chosen in (("tiny", "tiny" if there else "full"), ("full", "full")):
        updates = tab.generate(request, given(tab, **wish, decoder=decoder))
        update = updates[tab.controls.decoder]  # without a value it stays as it is
        assert update["visible"] == there and update.get("value", decoder) == chosen
        assert engine.session("a").comparison.settings.tiny_decoder == (chosen == "tiny")
