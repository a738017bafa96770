"""One state on the page, with a real mouse: one pick is one run, and what is shown belongs together."""

import json
import time

import numpy as np
import pytest
from browser_app import NEEDS_BROWSER, serving, tiny_backbone, write_preset
from browser_app import SLOW as SLOW_MS
from playwright.sync_api import expect

from qsched.presets import save_preset
from qsched.sampling.coefficients import Coefficients

pytestmark = NEEDS_BROWSER
BITS = {"W2A8": (0.9, 1.1), "W4A4": (1.04, 0.96), "W4A8": (1.08, 0.92), "W3A8": (0.84, 1.2)}


class Slow:
    """A tiny backbone whose denoiser takes its time when asked to."""

    seconds = 0.0

    def __call__(self, *arguments, **options):
        backbone = tiny_backbone(*arguments, **options)
        forward = backbone._forward

        def slowly(*inputs):
            time.sleep(self.seconds)
            return forward(*inputs)

        backbone._forward = slowly
        return backbone


SLOW = Slow()


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    for bits, best in BITS.items():
        preset = write_preset(folder, bits.lower())
        preset.coefficients = Coefficients.ramp(*best)
        save_preset(preset, folder / "emoji-lcm" / f"{bits.lower()}-4steps.json")
    with serving(folder, load=SLOW) as served:
        yield served


@pytest.fixture
def runs(app, monkeypatch):
    """The settings that the server was asked to compare."""
    engine, found = app[1], []
    compare = engine.compare

    def counted(session, backbone, settings, *arguments):
        found.append(settings)
        return compare(session, backbone, settings, *arguments)

    monkeypatch.setattr(engine, "compare", counted)
    return found


def pick(visitor, name, text):
    visitor.page.click(f"#{name} input")
    visitor.page.locator(f"#{name} [role=option][aria-label='{text}']").click()


def belongs_together(visitor, bits):
    """Wait until sliders, image, scores, record and address are those of the server, at this bit-width."""
    visitor.until(
        lambda: visitor.comparison.settings.quantization.bits == bits.lower(),
        f"the server should be at {bits}",
    )
    c_x, c_eps = (values.tolist() for values in visitor.comparison.coefficients.expand(4))
    visitor.stands_at(c_x[0], c_eps[0])
    state = visitor.page.locator("#state [data-version]")
    visitor.until(lambda: int(state.get_attribute("data-version")) == visitor.held.version, "an old state")
    jaq = f"{visitor.comparison.qsched.jaq():.3f}"
    visitor.until(lambda: jaq in visitor.page.locator("#scores").inner_text().replace("−", "-"), f"JAQ {jaq}")
    with visitor.page.expect_download() as download:
        visitor.page.click("#download-record")
    record = json.loads(open(download.value.path()).read())
    assert record["settings"]["quantization"]["bits"] == bits.lower()
    assert np.allclose(np.ravel(record["coefficients"]["c_x"])[0], c_x[0])
    query = dict(part.split("=") for part in visitor.page.url.split("?")[1].split("&"))
    assert query["bits"] == bits.lower() and float(query["c_x"].split("%2C")[0]) == pytest.approx(c_x[0])


def test_one_pick_with_the_mouse_is_one_run(visit, runs):
    visitor = visit()
    runs.clear()
    order = ["W2A8", "W4A4", "W3A8", "W4A8", "W2A8", "W4A8"]
    for count, bits in enumerate(order, start=1):
        pick(visitor, "bits", bits)
        belongs_together(visitor, bits)
        assert visitor.comparison.coefficients == Coefficients.ramp(*BITS[bits])
        visitor.page.wait_for_timeout(150)
        assert [settings.quantization.bits.upper() for settings in runs] == order[:count]


def test_two_quick_picks_end_at_the_second(visit, runs):
    visitor = visit()
    runs.clear()
    SLOW.seconds = 0.05
    try:
        pick(visitor, "bits", "W2A8")
        pick(visitor, "bits", "W4A4")
        belongs_together(visitor, "W4A4")
    finally:
        SLOW.seconds = 0.0
    assert [settings.quantization.bits for settings in runs][-1] == "w4a4" and len(runs) <= 2
    assert visitor.comparison.coefficients == Coefficients.ramp(*BITS["W4A4"])


def test_keys_pick_once_and_leaving_a_list_picks_nothing(visit, runs):
    visitor = visit()
    runs.clear()
    for name in ("bits", "steps", "backbone", "bits"):
        visitor.page.click(f"#{name} input")
        visitor.page.keyboard.press("Escape")
        visitor.page.mouse.click(640, 5)
    visitor.page.wait_for_timeout(500)
    assert runs == []
    visitor.page.click("#steps input")
    visitor.page.get_by_role("option", name="2 steps").wait_for()
    for key in ("ArrowUp", "ArrowUp", "Enter"):
        visitor.page.keyboard.press(key)
    visitor.until(lambda: len(runs) == 1, "the pick")
    visitor.until(lambda: visitor.comparison.settings.steps == runs[0].steps != 4, "what was picked")
    visitor.page.wait_for_timeout(300)
    assert len(runs) == 1


def test_a_slider_dragged_while_generate_computes_keeps_its_own_image(visit, runs):
    visitor = visit()
    SLOW.seconds = 0.15
    try:
        visitor.page.fill("#prompt textarea", "a fox on a hill")
        visitor.page.click("#generate")
        visitor.drag("c_x", 0.2, 0.85, 0.7)
        visitor.until(lambda: visitor.comparison.settings.prompt == "a fox on a hill", "the new prompt")
        visitor.until(
            lambda: not visitor.page.evaluate("document.body.classList.contains('busy')"), "the end"
        )
        assert abs(visitor.number("c_x") - 1.2) < 0.05, "the answer leaves the sliders where the hand is"
        reached = lambda: abs(float(visitor.comparison.coefficients.expand(4)[0][0]) - visitor.number("c_x"))
        visitor.until(lambda: reached() < 1e-4, "the drag")
        belongs_together(visitor, "W4A8")
    finally:
        SLOW.seconds = 0.0
    for name, column in zip(("full-precision", "naive", "qsched"), visitor.comparison.columns, strict=True):
        assert visitor.shows(column, name)


def test_an_older_answer_that_comes_late_is_replaced_by_the_newest(visit):
    visitor = visit()
    visitor.page.evaluate(
        """() => { const state = document.querySelector('#state [data-version]');
        state.parentElement.innerHTML = state.outerHTML.replace(/data-version="\\d+"/, 'data-version="0"'); }"""  # noqa: E501
    )
    belongs_together(visitor, "W4A8")


def test_reload_and_back_keep_what_is_shown_and_copy_link_copies_it(visit):
    visitor = visit(query="?__theme=dark&bits=w4a8")
    pick(visitor, "bits", "W2A8")
    belongs_together(visitor, "W2A8")
    assert "__theme=dark" in visitor.page.url
    visitor.page.fill("#seed input", "7")
    visitor.page.press("#seed input", "Enter")
    visitor.until(lambda: visitor.comparison.settings.seed == 7, "the seed")
    belongs_together(visitor, "W2A8")
    visitor.page.fill("#prompt textarea", "typed, and not drawn yet")
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.page.click("#share")
    visitor.until(lambda: visitor.page.locator("#share").inner_text() == "Copied", "the copy")
    copied = visitor.page.evaluate("navigator.clipboard.readText()")
    assert "typed" not in copied and "seed=7" in copied and "bits=w2a8" in copied

    shown, before = visitor.comparison, set(visitor.engine.sessions)
    for again in (visitor.page.reload, lambda: (visitor.page.goto("about:blank"), visitor.page.go_back())):
        again()
        visitor.page.wait_for_selector("#image-qsched img")
        visitor.session = visitor.until(lambda: next(iter(set(visitor.engine.sessions) - before), None))
        before.add(visitor.session)
        belongs_together(visitor, "W2A8")
        assert (
            visitor.comparison.settings == shown.settings
            and visitor.comparison.coefficients == shown.coefficients
        )


@pytest.mark.parametrize(("typed", "said"), [("1.5", "not 1.5"), ("", "not left empty")])
def test_a_seed_that_is_none_is_said_and_changes_nothing(visit, typed, said):
    visitor = visit()
    before = visitor.held
    visitor.page.fill("#seed input", typed)
    visitor.page.press("#seed input", "Enter")
    assert said in visitor.toast()
    assert visitor.held is before and visitor.page.input_value("#seed input") == typed


def test_where_nothing_is_known_a_button_leads_to_the_search(visit):
    visitor = visit()
    assert not visitor.page.is_visible("#search-these")
    pick(visitor, "bits", "W4A16")
    visitor.until(lambda: visitor.comparison.settings.quantization.bits == "w4a16", "the pick")
    visitor.stands_at(1, 1)
    assert "start at 1" in visitor.page.inner_text("#notes")
    visitor.page.click("#search-these")
    visitor.until(lambda: visitor.page.is_visible("#search-start"), "the Search tab")
    visitor.until(
        lambda: visitor.page.input_value("#search-bits input") == "W4A16", "the settings of Compare"
    )


def test_who_waits_for_the_device_sees_how_many_are_before(visit):
    tabs = [visit(), visit(), visit(width=390, height=844)]
    place = lambda visitor: visitor.page.locator("#waiting p:visible")
    tall = lambda: tabs[2].page.evaluate("document.querySelector('.q-compare').offsetHeight")
    before = tall()
    SLOW.seconds = 0.3
    try:
        for number, visitor in enumerate(tabs):
            visitor.page.fill("#prompt textarea", f"fox {number}")
            visitor.page.click("#generate")
            visitor.page.wait_for_timeout(100)
        assert [place(visitor).inner_text() for visitor in tabs[1:]] == [
            "waiting: 1 before you",
            "waiting: 2 before you",
        ]
        assert place(tabs[2]).evaluate("text => text.checkVisibility({ opacityProperty: true })")
        assert not place(tabs[0]).count() and tall() == before
    finally:
        SLOW.seconds = 0.0
    for visitor in tabs:
        visitor.page.wait_for_function("!document.body.classList.contains('busy')")
        assert not place(visitor).count()


def test_a_map_follows_a_point_that_is_not_on_it_once_the_hand_rests(visit):
    visitor = visit()
    before = visitor.held.map
    visitor.drag("c_x", 0.97)  # to 1.47, outside the preset's axes
    visitor.until(lambda: visitor.held.map is not before)
    there = lambda: visitor.page.get_attribute("#surface .map", "data-elsewhere") == "false"
    visitor.until(there, "the point is on the map")
    assert visitor.held.map.holds(visitor.comparison.coefficients, 4)
    assert visitor.page.locator("#legend .elsewhere").is_hidden()
    made = visitor.held.map
    visitor.page.wait_for_timeout(2500)
    assert visitor.held.map is made, "one map for one point"


def test_what_is_typed_is_drawn_where_that_is_quick_and_else_by_enter(visit, runs, monkeypatch):
    monkeypatch.setattr("qsched.ui.compare.view.QUICK_S", 60)
    visitor = visit()
    prompt = visitor.page.locator("#prompt textarea")
    prompt.select_text()
    prompt.press_sequentially("a fox on a hill", delay=30)
    visitor.until(lambda: visitor.comparison.settings.prompt == "a fox on a hill", "what was typed")
    belongs_together(visitor, "W4A8")
    assert prompt.input_value() == "a fox on a hill"
    monkeypatch.setattr("qsched.ui.compare.view.QUICK_S", 0)
    visitor.page.locator("#examples button").nth(3).click()
    visitor.page.locator("[data-quick]").wait_for(state="detached")
    visitor.page.wait_for_function("!document.body.classList.contains('busy')")
    count = len(runs)
    prompt.press("End")
    prompt.press_sequentially(" at night", delay=30)
    visitor.page.wait_for_timeout(1500)
    assert len(runs) == count, "images that take their time are not asked for"
    prompt.press("Enter")
    visitor.until(lambda: visitor.comparison.settings.prompt.endswith(" at night"), "by Enter")


HUB = """<script>
  onmessage = ({ data }) => history.replaceState(null, "", "?" + data.queryString);
  document.write(`<iframe src="APP/${location.search}" width="1200" height="800"></iframe>`);
</script>"""


def test_in_the_hubs_frame_the_hubs_address_is_that_of_the_state(app, visit):
    page, space = visit().context.new_page(), "https://huggingface.co/spaces/owner/name"
    page.set_default_timeout(SLOW_MS)
    page.context.grant_permissions(["local-network-access"])  # for a page of the web with a frame from here
    page.route(
        f"{space}*", lambda route: route.fulfill(body=HUB.replace("APP", app[0]), content_type="text/html")
    )
    page.goto(f"{space}?bits=w3a8")
    frame = page.frame_locator("iframe")
    frame.locator("#image-qsched img").wait_for()
    page.wait_for_function("new URLSearchParams(location.search).get('c_x')?.startsWith('0.84')")
    frame.locator("#bits input").click()
    frame.locator("#bits [role=option][aria-label=W4A4]").click()
    page.wait_for_function("new URLSearchParams(location.search).get('c_x')?.startsWith('1.04')")
    page.reload()
    expect(frame.locator("#bits input")).to_have_value("W4A4", timeout=SLOW_MS)
    assert "bits=w4a4" in page.url
