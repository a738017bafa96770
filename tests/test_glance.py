"""All bit-widths at a glance: the same prompt and seed at each, and one click to go there."""

import numpy as np
import pytest
from browser_app import NEEDS_BROWSER, serving, tiny_backbone, write_preset

from qsched.comparison.result import Settings
from qsched.hub.source import BackboneError
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.server.engine import Engine
from qsched.settings import MAIN_BITS


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    for bits in ("w4a8", "w2a8"):
        write_preset(folder, bits)
    return folder


def test_every_bit_width_is_what_a_comparison_gives_and_the_session_keeps_its_own(presets):
    engine = Engine(load=tiny_backbone, presets=presets)
    settings = Settings("fox", 3, 4, Quantization("w4a4", keep_high_precision=False))
    before = engine.compare("one", "emoji-lcm", settings, Coefficients.constant(1.1, 0.9))
    found = dict(engine.each_bit_width("one"))
    assert engine.session("one").comparison is before
    assert tuple(found) == MAIN_BITS
    for bits, comparison in found.items():
        quantization = Quantization(bits, keep_high_precision=False)
        assert comparison.settings == Settings("fox", 3, 4, quantization)
        assert comparison.coefficients == engine.start("emoji-lcm", comparison.settings)
        assert comparison.full_precision is before.full_precision
    images = [np.asarray(comparison.naive.image, dtype=float) for comparison in found.values()]
    error = [abs(image - np.asarray(before.full_precision.image)).mean() for image in images]
    assert error[0] < error[1] < error[4], "fewer bits, more damage"


def test_a_lent_gpu_is_not_asked_for_five_times(presets, monkeypatch):
    engine = Engine(load=tiny_backbone, presets=presets)
    engine.compare("one", "emoji-lcm", Settings("fox"), Coefficients.identity())
    monkeypatch.setattr(engine, "lends", lambda backbone: True)
    with pytest.raises(BackboneError, match="choose one bit-width at a time"):
        next(engine.each_bit_width("one"))


@pytest.fixture(scope="module")
def app(presets):
    with serving(presets) as served:
        yield served


class TestOnThePage:
    pytestmark = NEEDS_BROWSER

    def test_one_click_shows_all_and_another_goes_there(self, visit):
        visitor = visit()
        visitor.page.click("#glance")
        visitor.page.wait_for_selector("#glance-w2a8 img")
        texts = {bits: visitor.page.inner_text(f"#glance-{bits}") for bits in MAIN_BITS}
        assert all("JAQ" in text and bits.upper() in text for bits, text in texts.items())
        assert "No best coefficients are known" in texts["w3a8"]
        assert "No best" not in texts["w2a8"] + texts["w4a8"]
        assert "seed 0, 4 steps, k = 2" in visitor.page.inner_text("#glance-about")
        visitor.page.click("#go-w2a8")
        visitor.until(lambda: visitor.comparison.settings.quantization.bits == "w2a8")
        visitor.stands_at(1.08, 0.92)
        assert visitor.page.input_value("#bits input") == "W2A8"
