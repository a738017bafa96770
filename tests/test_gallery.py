"""The examples by outcome: honest by their making, fresh, and one click away."""

import pytest
from browser_app import NEEDS_BROWSER, tiny_backbone, write_preset

from qsched.comparison.comparison import compare
from qsched.comparison.result import OUTCOMES, Settings, outcome_of
from qsched.evaluation.gallery import Example, load_gallery, make_gallery, middle
from qsched.load import load_backbone
from qsched.presets import find_preset
from qsched.prompts.builtin import builtin_prompts
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.ui.compare import gallery as view

SHIPPED = load_gallery("emoji-lcm")


def example(difference):
    return Example(f"{difference}", 4.0, 4.0 + difference, ("a", "b"))


def test_the_middle_of_an_outcome_is_shown_and_not_its_best():
    examples = [example(0.1 * i) for i in range(1, 10)]
    assert [round(one.difference, 1) for one in middle(examples)] == [0.7, 0.6, 0.5, 0.4]
    assert middle(examples[:2]) == [examples[1], examples[0]] and middle([]) == []


@pytest.mark.parametrize(
    ("difference", "outcome"), [(0.02, "better"), (0.019, "no difference"), (-0.02, "worse")]
)
def test_outcomes(difference, outcome):
    assert outcome_of(difference) == outcome


def test_every_prompt_is_counted_once_and_a_file_keeps_everything(tmp_path):
    backbone, preset = tiny_backbone(), write_preset(tmp_path)
    prompts, seen = ["fox", "red apple", "a house", "ship"], []
    made = make_gallery(backbone, preset, prompts, 2.0, lambda *done: seen.append(done))
    assert sum(made.counts.values()) == 4 and seen[-1] == (4, 4)
    (tmp_path / "emoji-lcm.json").write_text(made.to_json(), "utf-8")
    assert load_gallery("emoji-lcm", tmp_path) == made
    assert load_gallery("sdxl-turbo", tmp_path) is None
    one = made.all_examples[0]
    settings = Settings(one.prompt, made.seed, preset.steps, Quantization("w4a8"))
    shown = compare(backbone, settings, preset.best(2.0))
    assert one.naive == pytest.approx(shown.naive.jaq(2.0), abs=1e-4)
    assert one.qsched == pytest.approx(shown.qsched.jaq(2.0), abs=1e-4)


def test_the_shipped_gallery_belongs_to_the_shipped_model_and_preset():
    preset = find_preset("emoji-lcm", SHIPPED.bits, SHIPPED.steps)
    backbone = load_backbone("emoji-lcm")
    assert backbone.revision == SHIPPED.revision, "make it anew: python -m qsched gallery"
    assert preset.best(SHIPPED.k).to_dict() == SHIPPED.coefficients
    assert sum(SHIPPED.counts.values()) == len(builtin_prompts("emoji", "held-out"))
    one = SHIPPED.examples["worse"][0]
    settings = Settings(one.prompt, SHIPPED.seed, SHIPPED.steps, Quantization(SHIPPED.bits))
    found = compare(backbone, settings, Coefficients.from_dict(SHIPPED.coefficients))
    assert found.qsched.jaq_difference(found.naive, SHIPPED.k) == pytest.approx(one.difference, abs=0.02)


def test_cards_tell_the_counts_and_the_differences():
    html = view.cards(SHIPPED)
    for outcome in OUTCOMES:
        assert f"{SHIPPED.counts[outcome]} of 178 prompts" in html
    assert html.count("data-example=") == len(SHIPPED.all_examples)


@pytest.mark.parametrize("index", [-1, 12, "0", None, 1.0])
def test_there_is_no_other_example(index):
    assert SHIPPED.compared(index) is None


def test_the_command_writes_what_the_page_reads(line, tmp_path):
    data = line.ok(
        "gallery", "--preset", "presets/emoji-lcm/w4a8-4steps.json", "--prompts", "2", "--out",
        str(tmp_path / "emoji-lcm.json"),
    )  # fmt: skip
    made = load_gallery("emoji-lcm", tmp_path)
    assert made.counts == data["counts"] and len(made.all_examples) == 2
    assert made.revision == SHIPPED.revision


class TestOnThePage:
    pytestmark = NEEDS_BROWSER

    def test_a_click_goes_to_the_example(self, visit):
        visitor, last = visit(), len(SHIPPED.all_examples) - 1
        visitor.page.click(f"[data-example='{last}'] img >> nth=0")
        prompt = SHIPPED.all_examples[last].prompt
        visitor.until(lambda: visitor.comparison.settings.prompt == prompt)
        assert visitor.comparison.settings.seed == SHIPPED.seed
        visitor.stands_at(1.08, 0.92)
        assert visitor.page.input_value("#prompt textarea") == prompt

    def test_it_leaves_the_example_prompts_under_the_form_their_look(self, visit):
        visitor = visit()
        chip = visitor.page.locator("#examples .gallery-item").first
        box, words = chip.bounding_box(), chip.locator("div").first.bounding_box()
        assert words["width"] > 0.75 * box["width"], "the text has the chip's width"

    def test_on_a_phone_it_comes_after_the_map(self, visit):
        visitor = visit(width=390, height=844)
        names = ("#surface", "#gallery", "#glance")
        tops = [visitor.page.locator(name).bounding_box()["y"] for name in names]
        assert tops == sorted(tops)
