"""The page's look, measured in a real browser: what lies where, what is cut, what a finger can hit, what a
link shows.
"""

import io
import re
import time
from dataclasses import replace
from urllib.request import Request, urlopen

import pytest
from browser_app import NEEDS_BROWSER, Visitor
from PIL import Image

from qsched.models.registry import EMOJI_LCM
from qsched.scoring.signatures import Badge
from qsched.ui import fragments, preview

pytestmark = NEEDS_BROWSER
PHONE = {"width": 390, "height": 844, "touch": True}
SIZES = [(390, 844), (640, 900), (900, 700), (1024, 768), (1110, 800), (1280, 720), (1366, 768), (1920, 1080)]
HALL = [(1280, 720), (1366, 768), (1920, 1080)]
MANY = (Badge("colour distortion", 20.0, 12.0, "Far off."), Badge("loss of detail", 0.1, 0.2, "Flat."))

TEXTS = """() => {
  const card = document.querySelector("#scores").closest(".q-card").getBoundingClientRect();
  const cells = [...document.querySelectorAll("#scores [role=row] > *")].map((cell) => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    const texts = [...range.getClientRects(), ...[...cell.querySelectorAll(".chip")].map((c) => c.getBoundingClientRect())];
    return { text: cell.textContent, boxes: texts.filter((b) => b.width > 1) };
  });
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  const wrong = [];
  cells.forEach((one, i) => {
    if (one.boxes.some((b) => b.left < card.left || b.right > card.right)) wrong.push(`${one.text} leaves the card`);
    for (const other of cells.slice(i + 1))
      if (one.boxes.some((a) => other.boxes.some((b) => meet(a, b)))) wrong.push(`${one.text} on ${other.text}`);
  });
  return wrong;
}"""  # noqa: E501
SMALL = """() => [...document.querySelectorAll("button, input, textarea, summary, label, [tabindex='0']")].filter((e) => {
  const own = e.matches("label") ? e.querySelector("input[type=radio], input[type=checkbox]") : !e.closest("label");
  const box = e.getBoundingClientRect();
  return own && e.checkVisibility({ visibilityProperty: true }) && !e.disabled && box.height > 1 && Math.min(box.width, box.height) < 32;
}).map((e) => `${e.tagName} ${e.closest("[id]")?.id} ${e.textContent.trim()} ${JSON.stringify(e.getBoundingClientRect())}`)"""  # noqa: E501
CLIPPED = """() => [...document.querySelectorAll("input[type=range]")].filter((e) => e.checkVisibility()).filter((e) => {
  const box = e.getBoundingClientRect(), middle = (box.top + box.bottom) / 2;
  if (box.left < 0 || box.right > innerWidth) return true;
  for (let n = e.parentElement; n; n = n.parentElement) {
    const outer = n.getBoundingClientRect();
    if (getComputedStyle(n).overflowY !== "visible" && n !== document.body && n !== document.documentElement
      && (outer.top > middle - 9 || outer.bottom < middle + 9)) return true;
  }
}).map((e) => e.closest("[id^=c], #k").id)"""  # noqa: E501
ARROWS = """() => [...document.querySelectorAll("input[role=combobox]")].filter((e) => e.checkVisibility()).map((e) => [
  e.getAttribute("aria-label"), e.getBoundingClientRect().right - parseFloat(getComputedStyle(e).paddingRight),
  e.parentElement.querySelector("svg").getBoundingClientRect().left])"""  # noqa: E501


@pytest.fixture
def visit_hall(hall, browser):
    """Opens tabs of the page with large type."""
    visitors = []

    def open_tab(**options):
        visitors.append(Visitor(browser, *hall, **options))
        return visitors[-1]

    yield open_tab
    for visitor in visitors:
        visitor.close()


def box(visitor, selector):
    """A box in the browser's pixels, from the top of the page."""
    return visitor.page.locator(selector).first.bounding_box()


def fullest(comparison):
    """The score table with every column and with several badges."""
    columns = {
        name: replace(getattr(comparison, name), lpips=0.123, badges=MANY if name != "full_precision" else ())
        for name in ("full_precision", "naive", "qsched")
    }
    return fragments.scores(replace(comparison, **columns))


def table_faults(visitor, widths):
    """What is wrong with the score table at these sizes of the window."""
    put = "html => { document.querySelector('#scores [role=table]').outerHTML = html }"
    visitor.page.evaluate(put, fullest(visitor.comparison))
    faults = {}
    for width, height in widths:
        visitor.page.set_viewport_size({"width": width, "height": height})
        visitor.page.wait_for_timeout(100)
        faults[width] = visitor.page.evaluate(TEXTS)
        faults[width] += ["the page scrolls sideways"] * visitor.page.evaluate(
            "document.documentElement.scrollWidth > innerWidth"
        )
    return {width: found for width, found in faults.items() if found}


def test_the_score_table_stays_in_its_card_and_badges_cover_nothing(visit, visit_hall):
    assert not table_faults(visit(), SIZES)
    assert not table_faults(visit_hall(), SIZES)


@pytest.mark.parametrize(("width", "height"), HALL)
def test_in_a_hall_images_come_first_whole_and_large(visit_hall, width, height):
    visitor = visit_hall(width=width, height=height)
    images = [box(visitor, f"#image-{name}") for name in fragments.KEYS.values()]
    assert all(
        image["y"] + image["height"] <= height and image["width"] >= 0.25 * min(width, 1280)
        for image in images
    )
    assert width > 1600 or all(
        image["y"] + image["height"] < box(visitor, "#backbone")["y"] for image in images
    )
    assert max(image["y"] for image in images) - min(image["y"] for image in images) < 1


def test_large_type_is_as_large_in_the_dark(visit_hall):
    size = "name => getComputedStyle(document.querySelector(name)).fontSize"
    light, dark = visit_hall(), visit_hall(dark=True)
    for name in ("#tabs button[role=tab]", "#theme-toggle", "#prompt textarea", "#advanced button"):
        assert light.page.evaluate(size, name) == dark.page.evaluate(size, name) >= "17px", name


def test_on_a_phone_images_come_first_and_stay_in_view(visit):
    visitor = visit(**PHONE)
    assert box(visitor, "#image-qsched")["y"] < box(visitor, "#shape")["y"] < box(visitor, "#backbone")["y"]
    visitor.page.locator("#generate").scroll_into_view_if_needed()
    assert 0 <= box(visitor, "#image-qsched")["y"] < 200, "they left the view"


def test_on_a_phone_a_finger_hits_everything(visit):
    visitor = visit(**PHONE)
    visitor.page.locator("#advanced button").first.click()
    visitor.page.locator("#method input").wait_for()
    visitor.page.locator("#k-sweep button").first.click()
    assert not visitor.page.evaluate(SMALL)
    assert visitor.page.evaluate(CLIPPED) == []
    visitor.page.get_by_role("tab", name="Search").click()
    visitor.page.locator("#search-start").wait_for()
    assert not visitor.page.evaluate(SMALL)


@pytest.mark.parametrize("size", [PHONE, {"width": 1280, "height": 900}, {"width": 700, "height": 400}])
def test_full_screen_shows_the_whole_image_and_nothing_else(visit, size):
    visitor = visit(**size)
    image = visitor.page.locator("#image-qsched img")
    image.scroll_into_view_if_needed()
    button = visitor.page.locator("#image-qsched [aria-label=Fullscreen]")
    button.tap() if size is PHONE else button.click()  # a mouse makes it appear, a finger taps the image
    visitor.page.wait_for_selector("#image-qsched.fullscreen")
    frame, window = image.bounding_box(), visitor.page.viewport_size
    assert frame["x"] >= 0 and frame["x"] + frame["width"] <= window["width"]
    assert frame["y"] >= 0 and frame["y"] + frame["height"] <= window["height"]
    assert max(frame["width"] / window["width"], frame["height"] / window["height"]) > 0.9, (
        "it does not fill the screen"
    )
    assert image.evaluate("image => getComputedStyle(image).objectFit") == "contain", "it is cut or stretched"
    on_top = "([x, y]) => !!document.elementFromPoint(x, y).closest('.fullscreen')"
    for x in (0.1, 0.5, 0.9):
        for y in (0.1, 0.3, 0.5, 0.9):
            assert visitor.page.evaluate(on_top, [x * window["width"], y * window["height"]]), (x, y)


def test_texts_of_dropdowns_end_before_their_arrows(visit, visit_hall):
    for visitor in (visit(), visit(**PHONE), visit_hall(height=720), visit_hall(width=1920)):
        found = visitor.page.evaluate(ARROWS)
        assert len(found) >= 5
        assert not [name for name, end, arrow in found if end > arrow + 0.5]


@pytest.mark.parametrize("width", [390, 1280])
def test_a_mouse_reaches_every_example(visit, width):
    visitor = visit(width=width)
    chips = visitor.page.locator("#examples .gallery-item")
    assert chips.count() == len(EMOJI_LCM.examples)
    outer = box(visitor, "#examples")
    for chip in chips.all():
        inner = chip.bounding_box()
        assert outer["x"] <= inner["x"] and inner["x"] + inner["width"] <= outer["x"] + outer["width"] + 1
        words = chip.locator("div").first
        assert words.evaluate("e => e.scrollWidth <= e.clientWidth"), f"{words.inner_text()} is cut off"
    last = chips.last.bounding_box()
    visitor.page.mouse.wheel(0, max(0, last["y"] - 500))
    visitor.page.wait_for_timeout(200)
    last = chips.last.bounding_box()
    visitor.page.mouse.click(last["x"] + last["width"] / 2, last["y"] + last["height"] / 2)
    visitor.until(lambda: visitor.comparison.settings.prompt == EMOJI_LCM.examples[-1])


def test_every_image_has_a_text(visit):
    visitor = visit()
    texts = lambda: visitor.page.evaluate(
        "[...document.images].filter((i) => i.checkVisibility() && !i.closest('footer')).map((i) => i.alt)"
    )
    expected = {"Full precision", "Naive", "Q-Sched", "Loss surface"}
    visitor.until(lambda: all(texts()) and expected <= set(texts()), texts())
    path = {f"{name} after step {step}" for name in ("Full precision", "Naive", "Q-Sched") for step in (1, 4)}
    assert path <= set(texts())
    visitor.page.locator("#wipe-left input").click()
    visitor.page.get_by_role("option", name="Full precision").click()
    visitor.until(lambda: visitor.page.locator("#wipe img").first.get_attribute("alt") == "Full precision")


def test_the_footer_holds_no_lone_divider(visit):
    for visitor in (visit(), visit(**PHONE)):
        assert visitor.page.locator("footer").inner_text().strip() in ("", "Use via API or MCP")


def test_nothing_says_left_where_the_form_is_above(visit):
    visitor = visit(**PHONE)
    visitor.page.get_by_role("tab", name="Search").click()
    visitor.page.locator("#search-progress").wait_for()
    assert " left" not in visitor.page.locator("#search-progress").inner_text()


def test_an_announcement_ends_with_the_work_that_it_announced(visit, monkeypatch):
    visitor = visit()

    compare = visitor.engine.compare

    def calibrating(*asked):
        time.sleep(0.01)
        asked[-1](1, 10**6)
        time.sleep(0.5)
        return compare(*asked)

    monkeypatch.setattr(visitor.engine, "compare", calibrating)
    visitor.page.locator("#prompt textarea").fill("a slow fox")
    visitor.page.click("#generate")
    assert "calibrates first" in visitor.toast()
    visitor.until(lambda: visitor.comparison.settings.prompt == "a slow fox")
    visitor.until(lambda: visitor.page.locator(".toast-body").count() == 0, "the announcement stays")


def test_a_first_run_is_marked_under_its_image(visit):
    visitor = visit()
    latencies = lambda: [text for text in visitor.page.locator(".caption .latency").all_inner_texts()]
    assert not [text for text in latencies() if "first run" in text], (
        "the opening ones are made after a first run"
    )
    visitor.page.locator("#bits input").click()
    visitor.page.get_by_role("option", name="W3A8", exact=True).click()
    visitor.until(lambda: ["first run" in text for text in latencies()] == [False, True, True])
    visitor.page.locator("#prompt textarea").fill("another fox")
    visitor.page.click("#generate")
    visitor.until(lambda: not any("first run" in text for text in latencies()))


def test_a_link_to_the_page_shows_our_own_image_and_icon(app):
    url, _ = app
    page = urlopen(Request(f"{url}/?bits=w4a8", headers={"x-forwarded-host": "here.example"})).read().decode()
    assert page.count('property="og:image"') == page.count('name="twitter:image"') == 1
    assert 'property="og:image" content="http://here.example/preview.jpg"' in page
    assert page.index("og:image") < 10_000, "some readers stop early"
    assert f'property="og:title" content="{preview.TITLE}"' in page and "Click to try out the app" not in page
    metas = re.findall(r"<meta[^>]*>", page)
    assert not [meta for meta in metas if re.search("gradio|githubusercontent", meta, re.IGNORECASE)]
    data = urlopen(f"{url}/preview.jpg").read()
    assert Image.open(io.BytesIO(data)).size == (1200, 630) and 10_000 < len(data) < 100_000
    icon = urlopen(f"{url}/favicon.ico").read()
    assert icon == preview.FAVICON.read_bytes() and Image.open(io.BytesIO(icon)).size == (64, 64)
