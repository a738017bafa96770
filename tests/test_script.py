"""The script to copy makes the very image that the page shows; words that the model lacks are named."""

import numpy as np
import pytest
import torch
from browser_app import NEEDS_BROWSER
from embedded_model import embedded
from PIL import Image
from tiny_models import folder_of, tiny

from qsched.comparison.comparison import compare
from qsched.comparison.result import Settings
from qsched.export.usage import script
from qsched.models.diffusers_folder import open_pipeline
from qsched.models.words import unknown, words_of
from qsched.prompts.builtin import builtin_prompts
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.server.engine import Engine
from qsched.ui.compare.script import script_of

ENDS = Coefficients.ends((1.1, 0.9), (0.9, 1.1))


def drawn_by(code, folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(compile(code, "script", "exec"), {})
    return np.asarray(Image.open("qsched.png"))


@pytest.mark.parametrize("quantization", [Quantization("w4a8"), Quantization("w4a4", 32)])
def test_the_script_of_the_embedded_model_draws_the_image_of_the_page(quantization, tmp_path, monkeypatch):
    engine = Engine(load=lambda id, **options: embedded())
    engine.compare("a", "emoji-lcm", Settings("an apple's “core”", 7, 2, quantization), ENDS)
    found = drawn_by(script_of(engine, "a"), tmp_path, monkeypatch)
    shown = np.asarray(engine.session("a").comparison.qsched.image)
    assert np.abs(found.astype(int) - shown).max() <= 1


@pytest.mark.parametrize("id", ["lcm-dreamshaper-v7", "sdxl-turbo", "flux1-schnell"])
def test_the_script_of_a_pipeline_draws_the_image_of_the_page(id, tmp_path, monkeypatch):
    backbone, settings = tiny(id), Settings("a red fox", 3, 2, Quantization("w8a8"))
    shown = np.asarray(compare(backbone, settings, ENDS).qsched.image)
    twin = f"QSched{type(backbone.scheduler).__name__}"
    open_pipeline(backbone.spec, folder_of(id), torch.float32).save_pretrained(tmp_path / "pipeline")
    code = script(id, settings, ENDS, twin, str(tmp_path / "pipeline"))
    size = "num_inference_steps=2"
    code = code.replace(size, f"{size}, height={shown.shape[0]}, width={shown.shape[1]}")
    found = drawn_by(code, tmp_path, monkeypatch)
    assert found.shape == shown.shape and np.abs(found.astype(int) - shown).mean() < 3


def test_words_that_no_training_caption_had_are_named():
    notes = compare(embedded(), Settings("an Axolotl with bacon on the Café moon", 0, 1), ENDS).notes
    assert any("does not know “axolotl” and “bacon”:" in note for note in notes)
    assert not compare(embedded(), Settings("two red apples, 3 glossy CATS", 0, 1), ENDS).notes
    assert words_of("T-Rex, 3 cafés") == ["t", "rex", "cafes"] and unknown("x 3 ?", {"a"}) == []


def test_no_prompt_that_the_page_offers_has_a_word_that_the_model_lacks():
    backbone = embedded()
    offered = [*backbone.spec.examples, *builtin_prompts("emoji", "calibration")]
    assert {prompt: words for prompt in offered if (words := backbone.unknown_words(prompt))} == {}
    lacking = [prompt for prompt in builtin_prompts("emoji", "held-out") if backbone.unknown_words(prompt)]
    assert 0 < len(lacking) < 20, "the pairs of concepts that no training image had"


@NEEDS_BROWSER[0]
@NEEDS_BROWSER[1]
@NEEDS_BROWSER[2]
def test_the_page_shows_and_copies_it(visit):
    visitor = visit()
    page = visitor.page
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-script")
    visitor.until(lambda: "load_backbone" in page.evaluate("navigator.clipboard.readText()"))
    code = page.evaluate("navigator.clipboard.readText()")
    compile(code, "script", "exec")
    assert code.strip() == page.locator("#script code").inner_text().strip()
    assert repr(visitor.comparison.settings.prompt) in code
