"""What is taken away from Compare: the share card, and images that say what made them."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from browser_app import NEEDS_BROWSER, tiny_backbone
from PIL import Image

from qsched.comparison.result import Settings
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.server.engine import Engine
from qsched.ui.compare import card, save


@pytest.fixture(scope="module")
def held():
    engine = Engine(load=tiny_backbone)
    settings = Settings("ein Fuchs 狐", 7, 4, Quantization("w4a8"))
    engine.compare("one", "emoji-lcm", settings, Coefficients.constant(1.1, 0.9))
    return engine.session("one")


def test_the_card_holds_the_three_images_pixel_for_pixel(held):
    drawn = np.asarray(card.card(held, "https://example.org"))
    assert drawn.shape == (630, 1200, 3)
    gap = (1200 - 2 * card.MARGIN - 3 * card.SIDE) // 2
    for index, column in enumerate(held.comparison.columns):
        x = card.MARGIN + index * (card.SIDE + gap)
        enlarged = column.image.resize((card.SIDE, card.SIDE), Image.Resampling.NEAREST)
        assert (drawn[116 : 116 + card.SIDE, x : x + card.SIDE] == np.asarray(enlarged)).all()


def ink(image):
    """Whether anything is drawn, by row."""
    return (np.asarray(image.convert("L")) < 200).any(axis=1)


def test_every_line_of_the_card_is_there_and_a_long_prompt_ends_inside(held):
    without, with_link = card.card(held), card.card(held, "https://example.org")
    assert ink(with_link)[584:604].any() and not ink(without)[584:604].any()
    assert all(ink(without)[a:b].any() for a, b in ((30, 66), (76, 100), (468, 490), (500, 520), (548, 570)))
    long = replace(held.comparison, settings=replace(held.comparison.settings, prompt="fox " * 300))
    drawn = np.asarray(card.card(replace(held, comparison=long)).convert("L"))
    assert (drawn[30:66, 1200 - card.MARGIN + 4 :] > 240).all()


def test_a_session_without_scores_has_a_card(held):
    bare = lambda column: replace(column, alignment=None, quality=None)
    c = held.comparison
    plain = replace(c, full_precision=bare(c.full_precision), naive=bare(c.naive), qsched=bare(c.qsched))
    assert card.card(replace(held, comparison=plain)).size == card.SIZE


def test_saved_images_say_what_made_them(held):
    with zipfile.ZipFile(save.images_file(held)) as archive:
        texts = {
            name: Image.open(io.BytesIO(archive.read(f"{name}.png"))).text
            for name in ("full_precision", "naive", "qsched")
        }
    for name, text in texts.items():
        assert (text["prompt"], text["seed"], text["steps"]) == ("ein Fuchs 狐", "7", "4"), name
    assert [text["bits"] for text in texts.values()] == ["fp16", "w4a8", "w4a8"]
    assert [text["c_x"] for text in texts.values()] == ["1.0", "1.0", "1.1"]


class TestOnThePage:
    pytestmark = NEEDS_BROWSER

    def test_a_click_saves_the_card(self, visit, tmp_path):
        visitor = visit()
        with visitor.page.expect_download() as saved:
            visitor.page.click("#download-card")
        saved.value.save_as(tmp_path / "card.png")
        assert saved.value.suggested_filename == "qsched-card.png"
        image = Image.open(tmp_path / "card.png")
        assert image.size == card.SIZE
        assert image.text["link"] == visitor.page.url, "it leads to what the page shows"
