"""The Fit button: the closed-form coefficients of what is shown, and what they explain."""

import pytest
from browser_app import NEEDS_BROWSER, tiny_backbone

from qsched.comparison.result import Settings
from qsched.evaluation.closed_form import fit
from qsched.hub.source import BackboneError
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.server.engine import Engine
from qsched.server.fitting import fit_session
from qsched.ui.compare.fit import explained


def test_it_is_the_closed_form_of_what_the_session_looks_at():
    engine = Engine(load=tiny_backbone)
    settings = Settings("fox", 3, 4, Quantization("w2a8", keep_high_precision=False))
    before = engine.compare("one", "emoji-lcm", settings, Coefficients.constant(1.1, 0.9))
    found = fit_session(engine, engine.session("one"))
    assert engine.session("one").comparison is before, "nothing moves by itself"
    backbone = engine.backbone("emoji-lcm")
    module = backbone.quantized(settings.quantization).module
    expected = fit(backbone, module, ["fox"], 4, seed=3)
    assert found.coefficients == expected.coefficients and found.coefficients.shape == "per-step"
    other = fit(backbone, module, ["fox"], 4, seed=4)
    assert found.coefficients != other.coefficients
    shares = " / ".join(f"{100 * max(0, step.explained('scalars')):.0f}" for step in expected.steps)
    assert f"<b>{shares} %</b>" in explained(found) and "at each of 4 steps" in explained(found)


def test_a_lent_gpu_is_not_asked_for_a_fit(monkeypatch):
    engine = Engine(load=tiny_backbone)
    engine.compare("one", "emoji-lcm", Settings("fox"), Coefficients.identity())
    monkeypatch.setattr(engine, "lends", lambda backbone: True)
    with pytest.raises(BackboneError, match="command line"):
        fit_session(engine, engine.session("one"))


class TestOnThePage:
    pytestmark = NEEDS_BROWSER

    def test_a_click_sets_the_sliders_and_says_what_is_explained_until_the_images_are_others(self, visit):
        visitor = visit()
        before = visitor.comparison
        visitor.page.click("#fit")
        visitor.page.wait_for_selector("#fit-line p")
        found = fit_session(visitor.engine, visitor.held)
        assert visitor.comparison.coefficients == found.coefficients
        assert visitor.comparison.naive is before.naive
        c_x, c_eps = (float(row[0]) for row in found.coefficients.expand(before.settings.steps))
        visitor.stands_at(c_x, c_eps)
        assert "of the squared prediction error" in visitor.page.inner_text("#fit-line")
        visitor.page.click("#reset")
        visitor.stands_at(1.0, 1.0)
        assert visitor.page.inner_text("#fit-line"), "it speaks of the settings, not of the sliders"
        visitor.page.fill("#seed input", "5")
        visitor.page.press("#seed input", "Enter")
        visitor.until(lambda: visitor.comparison.settings.seed == 5)
        visitor.until(lambda: not visitor.page.inner_text("#fit-line").strip(), "the line should go")
