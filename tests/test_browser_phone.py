"""A phone held upright: images at the top, sliders under the thumb, everything else between them."""

import pytest
from browser_app import BEST, NEEDS_BROWSER, Visitor, serving, write_preset

pytestmark = NEEDS_BROWSER
PHONE = {"width": 390, "height": 844, "touch": True}
REACHED = """([name, inner]) => {
  const box = document.querySelector(`#${name} ${inner}`).getBoundingClientRect();
  const hit = document.elementFromPoint((box.left + box.right) / 2, (box.top + box.bottom) / 2);
  return box.top >= 0 && box.bottom <= innerHeight && !!hit?.closest(`#${name}`);
}"""
SIDEWAYS = "document.documentElement.scrollWidth > innerWidth"


def scroll(visitor, part):
    visitor.page.evaluate("part => scrollTo(0, part * document.documentElement.scrollHeight)", part)
    visitor.page.wait_for_timeout(200)


@pytest.mark.parametrize("dark", [False, True])
def test_sliders_and_images_stay_in_reach_however_far_the_page_is_scrolled(visit, dark):
    visitor = visit(**PHONE, dark=dark)
    for part in (0, 0.2, 0.5, 1):
        scroll(visitor, part)
        for name in ("c_x", "c_eps"):
            for inner in ("input[type=range]", "input[type=number]"):
                assert visitor.page.evaluate(REACHED, [name, inner]), (name, inner, part)
        assert visitor.page.evaluate(REACHED, ["image-qsched", "img"]), part
    bar = visitor.page.locator("#c_x").bounding_box()
    assert 844 - bar["y"] <= 150 and bar["width"] == 390
    end = visitor.page.locator("#device").bounding_box()
    assert end["y"] + end["height"] < bar["y"], "the end of the page lies below the sliders"
    assert not visitor.page.evaluate(SIDEWAYS)
    for tab in ("Search", "About"):
        scroll(visitor, 0)
        visitor.page.get_by_role("tab", name=tab).click()
        visitor.page.locator("#search-start, .about").first.wait_for(state="attached")
        visitor.page.wait_for_timeout(200)
        assert not visitor.page.locator("#c_x").is_visible() and not visitor.page.evaluate(SIDEWAYS)


def test_a_finger_drags_a_slider_and_the_page_stays_where_it_is(visit):
    visitor = visit(**PHONE)
    scroll(visitor, 0.5)
    before = visitor.page.evaluate("scrollY")
    box = visitor.page.locator("#c_x input[type=range]").bounding_box()
    x = lambda value: box["x"] + 8 + (box["width"] - 16) * (value - 0.5)
    y, device = box["y"] + box["height"] / 2, visitor.context.new_cdp_session(visitor.page)

    def touch(kind, *points):
        points = [{"x": x, "y": y} for x in points]
        device.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

    touch("Start", x(BEST[0]))
    for value in (1.0, 0.9, 0.8):
        touch("Move", x(value))
    touch("End")
    visitor.until(lambda: abs(visitor.number("c_x") - 0.8) < 0.03, "the finger moves the slider")
    visitor.stands_at(visitor.number("c_x"), BEST[1])
    assert visitor.page.evaluate("scrollY") == before


def test_a_phone_held_sideways_has_no_height_for_fixed_sliders(visit):
    visitor = visit(width=844, height=390, touch=True)
    position = "name => getComputedStyle(document.querySelector(name)).position"
    assert visitor.page.evaluate(position, "#c_x") != "fixed" and not visitor.page.evaluate(SIDEWAYS)


def test_the_phones_of_an_audience_get_the_page_of_a_phone(browser, tmp_path):
    write_preset(tmp_path)
    with serving(tmp_path, talk=True) as served:
        visitor = Visitor(browser, *served, **PHONE)
        size = visitor.page.evaluate("getComputedStyle(document.querySelector('#prompt textarea')).fontSize")
        assert float(size.removesuffix("px")) < 18 and not visitor.page.evaluate(SIDEWAYS)
        assert visitor.page.evaluate(REACHED, ["c_eps", "input[type=range]"])
        visitor.close()
