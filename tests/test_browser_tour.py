"""The tour of a talk by keys: what is in the light, what is said, what acts, and whose keys they are."""

import re
import time

import cv2
import numpy as np
import pytest
from browser_app import BEST, NEEDS_BROWSER

from qsched.ui import stage

pytestmark = NEEDS_BROWSER
STATIONS = ("full-precision", "damage", "path", "drag", "map", "verdict")
FIRST = dict(zip(STATIONS, (".q-image.full-precision", ".q-image.naive", "#path", ".sliders.c_x",
                            "#surface img", ".verdict"), strict=True))  # fmt: skip
COVERED = """(selector) => {
  const box = document.querySelector(selector).getBoundingClientRect(), line = document.querySelector("#tour-line");
  const words = document.createRange();
  words.selectNodeContents(line.firstChild);
  const said = [...words.getClientRects()];
  const wrong = [];
  if (box.top < 0 || box.left < 0 || box.right > innerWidth || box.bottom > line.offsetTop) wrong.push("leaves the window");
  if (!document.elementFromPoint(box.left + 9, box.top + 9)?.closest(selector)) wrong.push("lies below something");
  const veil = document.querySelector("#tour-veil");
  veil.style.pointerEvents = "auto";
  for (const [x, y] of [[0.1, 0.1], [0.9, 0.9]])
    if (document.elementFromPoint(box.left + x * box.width, box.top + y * box.height) === veil) wrong.push("is dimmed");
  if (document.elementFromPoint(2, 2) !== veil) wrong.push("nothing is dimmed");
  veil.style.pointerEvents = "";
  if (said.some((r) => r.top < line.offsetTop || r.bottom > innerHeight || r.right > innerWidth)) wrong.push("sentence cut");
  if (document.documentElement.scrollWidth > innerWidth) wrong.push("scrolls sideways");
  return wrong;
}"""  # noqa: E501


@pytest.fixture(scope="module")
def app(hall):
    """The page of a lecture hall."""
    return hall


def station(visitor):
    return visitor.page.evaluate("document.body.dataset.station")


def press(visitor, key, times=1):
    for _ in range(times):
        visitor.page.keyboard.press(key)


@pytest.mark.parametrize(("width", "height", "dark"), [(1280, 720, False), (1920, 1080, True)])
def test_every_station_brings_its_part_into_the_light_with_one_sentence(visit, width, height, dark):
    visitor = visit(width=width, height=height, dark=dark)
    wrong, said = {}, []
    for index, name in enumerate(STATIONS):
        press(visitor, "PageDown" if index % 2 else "ArrowRight")
        assert station(visitor) == name
        visitor.page.wait_for_timeout(100)
        wrong[name] = visitor.page.evaluate(COVERED, FIRST[name])
        said.append(visitor.page.locator("#tour-line p").inner_text())
    assert not {name: found for name, found in wrong.items() if found}
    size = visitor.page.locator("#caption-full-precision b").inner_text()
    assert size in said[0] and re.search(r"\d\.\d× smaller", said[1]) and len(set(said)) == len(said)
    assert visitor.page.locator("#tour-line span").inner_text() == "6 / 6"
    press(visitor, "ArrowRight")
    assert station(visitor) == "verdict", "the last one is the end"
    press(visitor, "PageUp")
    press(visitor, "ArrowLeft")
    assert station(visitor) == "drag"
    press(visitor, "Escape")
    assert station(visitor) is None and visitor.page.locator("#tour-veil, #tour-line").count() == 0
    press(visitor, "ArrowRight")
    assert station(visitor) == "map", "it goes on from where it was left"


def test_the_sliders_are_moved_from_1_to_the_best_known_coefficients(visit):
    visitor = visit()
    visitor.stands_at(*BEST)
    press(visitor, "ArrowRight", 4)
    visitor.until(lambda: visitor.number("c_x") < 1.02, "the sliders should begin at 1")
    visitor.until(lambda: visitor.comparison.coefficients.c_x != BEST[0], "the server should follow")
    visitor.until(lambda: visitor.number("c_x") > 1.03, "the sliders should move")
    visitor.until(lambda: abs(visitor.number("c_x") - BEST[0]) < 1e-6)
    visitor.stands_at(*BEST)


def test_no_station_waits_for_the_server_and_quick_keys_end_at_the_best_known(visit, monkeypatch):
    visitor = visit()
    rescale = visitor.engine.rescale

    def slow(*asked):
        time.sleep(0.7)
        return rescale(*asked)

    monkeypatch.setattr(visitor.engine, "rescale", slow)
    press(visitor, "ArrowRight", 6)
    assert station(visitor) == "verdict"
    press(visitor, "ArrowLeft", 2)
    press(visitor, "ArrowRight", 2)
    assert station(visitor) == "verdict"
    visitor.stands_at(*BEST)
    visitor.page.wait_for_timeout(1500)
    visitor.stands_at(*BEST)


def test_keys_belong_to_the_widget_that_has_the_focus_and_r_brings_the_opening_state_back(visit):
    visitor = visit(dark=True)
    opening, page = visitor.comparison.settings, visitor.page
    page.locator("#prompt textarea").fill("a fox")
    for key in ("r", "ArrowLeft", "PageDown"):
        press(visitor, key)
    assert page.locator("#prompt textarea").input_value() == "a foxr" and station(visitor) is None
    press(visitor, "Enter")
    visitor.until(lambda: visitor.comparison.settings.prompt == "a foxr")
    assert not page.locator("#prompt textarea").evaluate("text => text === document.activeElement")
    slider = page.locator("#c_x input[type=range]")
    slider.focus()
    press(visitor, "ArrowLeft", 3)
    visitor.until(lambda: visitor.number("c_x") < BEST[0])
    assert station(visitor) is None
    visitor.drag("c_x", 0.3)
    press(visitor, "PageDown")
    assert station(visitor) == "full-precision", "a clicker's key goes on after the mouse has moved a slider"
    page.evaluate("document.activeElement.blur()")
    page.click("#theme-toggle")
    known = set(visitor.engine.sessions)
    assert not visitor.complaints
    press(visitor, "R")
    page.wait_for_url(lambda url: "a+foxr" not in url and "prompt=" in url)
    visitor.complaints.clear()  # of requests that were open when the page was left
    visitor.session = visitor.until(lambda: next(iter(set(visitor.engine.sessions) - known), None))
    assert visitor.comparison.settings == opening and station(visitor) is None
    visitor.stands_at(*BEST)
    assert not page.evaluate("document.body.classList.contains('dark')"), "the colours stay"


def test_a_phone_reads_the_code_in_any_colours_and_a_page_for_this_machine_alone_says_so(visit, monkeypatch):
    alone = visit()
    press(alone, "q")
    assert alone.page.locator("#tour-code").inner_text() == stage.ALONE
    press(alone, "Escape")
    press(alone, "ArrowRight")
    assert station(alone) == "full-precision" and not alone.page.locator("#tour-code").is_visible()
    address = "http://192.168.0.17:7860/"
    monkeypatch.setattr(stage, "reachable", lambda *given: (address, ""))
    for dark in (False, True):
        visitor = visit(height=720, dark=dark)
        press(visitor, "ArrowRight")
        assert read_code(visitor) == address, "small, beside the first station"
        press(visitor, "Q")
        assert read_code(visitor) == address
        assert visitor.page.locator("#tour-code svg").bounding_box()["height"] > 500
        assert visitor.page.locator("#tour-code p").bounding_box()["y"] < 680
        press(visitor, "Escape")
        assert station(visitor) == "full-precision" and visitor.page.locator("#tour-code").is_visible()


def read_code(visitor):
    """What the code on the screen says."""
    visitor.page.wait_for_timeout(300)
    image = np.frombuffer(visitor.page.screenshot(), np.uint8)
    return cv2.QRCodeDetector().detectAndDecode(cv2.imdecode(image, cv2.IMREAD_COLOR))[0]
