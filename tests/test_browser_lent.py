"""A drag in a real browser where the GPU is lent: it is asked for when the hand lets go."""

import pytest
from browser_app import NEEDS_BROWSER, serving, write_preset
from lent_gpu import Lender

pytestmark = NEEDS_BROWSER
LARGE = "lcm-dreamshaper-v7"


@pytest.fixture(scope="module")
def lender():
    return Lender()


@pytest.fixture(scope="module")
def app(lender, tmp_path_factory):
    presets = tmp_path_factory.mktemp("presets")
    write_preset(presets)
    with serving(presets, lend=lender) as served:
        yield served


def test_a_drag_asks_for_the_gpu_once_when_the_hand_lets_go(visit, lender):
    visitor = visit(query=f"?backbone={LARGE}&steps=4&shape=constant&c_x=1&c_eps=1")
    calls = len(lender.calls)
    assert calls == 1 and visitor.held.backbone == LARGE
    slider = visitor.page.locator("#c_x input[type=range]")
    slider.scroll_into_view_if_needed()
    slider.dispatch_event("pointerdown")
    for value in (1.1, 1.2, 1.3):
        slider.evaluate(
            "(s, v) => { s.value = v; s.dispatchEvent(new Event('input', { bubbles: true })) }", value
        )
        visitor.page.wait_for_selector(f'[data-draft][title^="c_x {value}"]')
    visitor.page.wait_for_timeout(800)
    assert len(lender.calls) == calls, "the hand still holds it"
    slider.dispatch_event("pointerup")
    visitor.until(lambda: len(lender.calls) > calls, "the GPU is asked for")
    visitor.page.locator("[data-draft]").wait_for(state="detached")
    visitor.until(lambda: visitor.comparison.coefficients.c_x == 1.3, "the last point is computed")
    visitor.settle()
    assert len(lender.calls) == calls + 1
