"""The Search tab in a real browser: start, watch, stop, resume, use, compare, delete."""

import io
import json
import math
import threading
import time
import zipfile
from urllib.request import urlopen

import numpy as np
import pytest
from browser_app import NEEDS_BROWSER, TinyBackbone, serving, tiny_backbone, write_preset
from PIL import Image

from qsched.presets import load_preset

pytestmark = NEEDS_BROWSER
WATCH = """() => {
  window.seen = { progress: new Set(), surface: new Set() };
  const look = () => {
    seen.progress.add(document.querySelector("#search-progress").innerHTML);
    const image = document.querySelector("#search-surface img");
    if (image) seen.surface.add(image.src);
  };
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
}"""  # noqa: E501


class PacedBackbone(TinyBackbone):
    """Takes its time for every denoiser call, so that there is something to watch and to stop."""

    pace, free, gate = 0.0, math.inf, threading.Event()

    def _forward(self, *arguments):
        time.sleep(PacedBackbone.pace)
        PacedBackbone.free -= 1
        if PacedBackbone.free < 0:  # no further before the test says so
            PacedBackbone.gate.wait()
        return super()._forward(*arguments)


def paced(id="emoji-lcm", device="auto", source=None):
    backbone = tiny_backbone(id, device, source)
    return PacedBackbone(
        **{
            name: getattr(backbone, name)
            for name in ("spec", "device", "dtype", "denoiser", "scheduler", "revision", "methods")
        }
    )


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    write_preset(folder)
    with serving(folder, paced) as served:
        yield served


@pytest.fixture
def visit(visit):
    """Opens the Search tab with a small search."""

    def open_tab(**options):
        PacedBackbone.pace = 0.0
        visitor = visit(**options)
        visitor.page.get_by_role("tab", name="Search").click()
        visitor.page.wait_for_selector("#search-start")
        return visitor

    yield open_tab
    PacedBackbone.pace, PacedBackbone.free = 0.0, math.inf
    PacedBackbone.gate.set()


def small(visitor, **changes):
    """Choose a 3 x 3 search with 3 prompts at 2 steps."""
    page = visitor.page
    page.locator("#search-steps input").click()
    page.get_by_role("option", name="2 steps").click()
    page.locator("#search-strategy label", has_text="Shared").click()
    numbers = {"resolution": 3, "prompt-count": 3, "range-low": 0.9, "range-high": 1.1} | changes
    for name, value in numbers.items():
        page.fill(f"#search-{name} input", str(value))
    points = numbers["resolution"] ** 2
    visitor.until(
        lambda: f"{points} points on {numbers['prompt-count']} prompts" in text(visitor, "plan"),
        "the cost is shown",
    )


def text(visitor, name):
    return visitor.page.locator(f"#search-{name}").inner_text()


def state(visitor):
    return visitor.page.locator("#search-progress .progress").get_attribute("data-state")


def done(visitor):
    return int(visitor.page.locator("#search-progress .progress").get_attribute("data-done") or 0)


def ended(visitor, how="done"):
    visitor.until(lambda: state(visitor) == how, f"the search is {how}")


def surface(visitor):
    source = visitor.page.locator("#search-surface img").get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(urlopen(source).read())).convert("RGB"))


def test_a_search_is_watched_stopped_resumed_and_used(visit):
    visitor = visit()
    page = visitor.page
    small(visitor)
    page.evaluate(WATCH)
    # the first prediction in two batches, then two points in each
    PacedBackbone.pace, PacedBackbone.free = 0.6, 5
    PacedBackbone.gate.clear()
    begin = time.monotonic()
    page.click("#search-start")
    visitor.until(lambda: done(visitor) >= 2, "the first points")
    first = surface(visitor)
    visitor.until(lambda: done(visitor) >= 4, "more points")
    assert (surface(visitor) != first).any(), "the heatmap fills"
    seconds = time.monotonic() - begin
    page.click("#search-stop")
    visitor.until(lambda: state(visitor) == "stopping", "the search is told to stop")
    PacedBackbone.gate.set()
    ended(visitor, "stopped")
    stopped = done(visitor)
    assert 4 <= stopped < 9
    assert page.evaluate("seen.surface.size") >= 2
    assert page.evaluate("seen.progress.size") >= seconds, (
        "at the very least once a second, however busy the machine"
    )

    PacedBackbone.pace = 0.0
    page.click("#search-start")
    ended(visitor)
    assert done(visitor) == 9
    best = text(visitor, "best")
    assert "JAQ" in best and page.locator("#search-best-image img").is_visible()

    page.click("#search-use")
    page.wait_for_selector("#image-qsched img", state="visible")
    shown = visitor.until(lambda: visitor.comparison.settings.steps == 2 and visitor.comparison.coefficients)
    c_x, c_eps = shown.c_x[0], shown.c_eps[0]
    assert f"{c_x:.4g} → 1" in best and f"{c_eps:.4g} → 1" in best
    visitor.stands_at(c_x, c_eps)
    assert page.locator("#steps input").input_value() == "2 steps"


def test_a_clicked_cell_is_chosen_and_used(visit):
    visitor = visit()
    small(visitor)
    visitor.page.click("#search-start")
    ended(visitor)
    image = visitor.page.locator("#search-surface img")
    best = text(visitor, "best")
    # of two opposite corners one that is not the best: a click on that one changes nothing
    (x, y), c_x = ((0.78, 0.34), 1.1) if "0.9 → 1" in best else ((0.22, 0.72), 0.9)
    box = image.bounding_box()
    image.click(position={"x": x * box["width"], "y": y * box["height"]})
    visitor.until(lambda: text(visitor, "best").startswith("Chosen cell"), "another cell is chosen")
    visitor.page.click("#search-use")
    visitor.until(lambda: visitor.comparison.coefficients.c_x[0] == c_x, "Compare stands there")


def test_files_and_a_dry_run(visit, tmp_path):
    visitor = visit()
    small(visitor)
    page = visitor.page
    page.click("#search-start")
    ended(visitor)
    for button, suffix in (("#search-save", ".json"), ("#search-export", ".zip")):
        with page.expect_download() as download:
            page.click(button)
        download.value.save_as(tmp_path / f"taken{suffix}")
        assert download.value.suggested_filename.endswith(f"w4a8-2steps{suffix}")
    preset = load_preset(tmp_path / "taken.json")
    with zipfile.ZipFile(tmp_path / "taken.zip") as archive:
        config = next(name for name in archive.namelist() if name.endswith("scheduler_config.json"))
        assert json.loads(archive.read(config))["c_x"] == list(preset.coefficients.c_x)
    page.click("#search-push-box button >> nth=0")
    page.fill("#search-repo textarea, #search-repo input", "me/emoji")
    page.click("#search-dry-run")
    visitor.until(lambda: "would be published" in text(visitor, "pushed"), "the dry run lists files")


def test_two_saved_searches_side_by_side_and_one_deleted(visit):
    visitor = visit()
    page = visitor.page
    for bits in ("W3A8", "W8A8"):
        page.locator("#search-bits input").click()
        page.get_by_role("option", name=bits, exact=True).click()
        small(visitor)
        page.click("#search-start")
        visitor.until(lambda bits=bits: bits in text(visitor, "saved"), "it is listed")
        ended(visitor)
    rows = page.locator("#search-saved label")
    for row in range(rows.count()):
        rows.nth(row).locator("input").uncheck()
    for bits in ("W3A8", "W8A8"):
        rows.filter(has_text=bits).locator("input").check()
    page.wait_for_selector("#search-compare", state="visible")
    assert "W3A8" in text(visitor, "left-facts") and "W8A8" in text(visitor, "right-facts")
    rows.filter(has_text="W3A8").locator("input").uncheck()
    page.click("#search-delete")
    page.click("#search-delete-confirm")
    visitor.until(lambda: "W8A8" not in text(visitor, "saved"), "it is gone")
    assert "W3A8" in text(visitor, "saved")


def test_what_cannot_run_is_a_sentence(visit):
    visitor = visit()
    page = visitor.page
    page.locator("#search-steps input").click()
    page.get_by_role("option", name="1 step", exact=True).click()
    page.locator("#search-strategy label", has_text="Per step").click()
    page.click("#search-start")
    assert "With a single step" in visitor.toast()
    assert state(visitor) == "idle" and page.locator("#search-start").is_enabled()


def test_a_closed_tab_stops_its_search(visit, app):
    visitor, other = visit(), visit()
    small(visitor, resolution=11)
    small(other)
    PacedBackbone.pace = 0.5  # half a minute for the whole, more than the rest of this test takes
    visitor.page.click("#search-start")
    visitor.until(lambda: state(visitor) == "running", "it runs")
    other.page.click("#search-start")
    assert "A search is running already" in other.toast()
    visitor.page.close()

    def free():
        if other.page.locator("#search-start").is_enabled():
            other.page.click("#search-start")
        other.page.wait_for_timeout(700)
        return done(other) > 0

    begin = time.monotonic()
    other.until(free, "the device is free again")
    assert time.monotonic() - begin < 20, "not because the first search came to its end"
    PacedBackbone.pace = 0.0
    ended(other)


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True), (1920, False)])
def test_nothing_scrolls_sideways_and_the_keyboard_is_enough(visit, width, dark):
    visitor = visit(width=width, dark=dark)
    page = visitor.page
    small(visitor)
    page.focus("#search-start")
    page.keyboard.press("Enter")
    ended(visitor)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    background = surface(visitor)[2, 2]
    assert (background.max() < 40) == dark
    page.focus("#search-use")
    page.keyboard.press("Enter")
    page.wait_for_selector("#image-qsched img", state="visible")
