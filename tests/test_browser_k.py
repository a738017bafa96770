"""The k slider, the noise of the surface and the k sweep in a real browser."""

import io
import json
import re
from urllib.request import urlopen

import numpy as np
import pytest
from browser_app import AXIS, NEEDS_BROWSER, serving
from PIL import Image
from test_ui_k import two_optima

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    two_optima(folder)
    with serving(folder) as served:
        yield served


def surface_data(visitor):
    return json.loads(visitor.page.locator("[data-surface]").get_attribute("data-surface"))


def set_k(visitor, value):
    box = visitor.page.locator("#k input[type=number]")
    box.fill(str(value))
    visitor.until(lambda: surface_data(visitor)["k"] == value, f"the surface at k = {value}")


def image(visitor, name="surface"):
    source = visitor.page.locator(f"#{name} img").get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(urlopen(source).read())).convert("RGB"))


def test_the_slider_recolours_the_surface_and_makes_no_image(visit):
    visitor = visit()
    backbone = visitor.engine.backbone("emoji-lcm")
    calls, before, third = backbone.calls, image(visitor), visitor.image()
    visitor.page.locator("#k input[type=range]").press("End")
    visitor.until(lambda: surface_data(visitor)["k"] == 5, "k did not arrive")
    visitor.until(lambda: (image(visitor) != before).any(), "the surface stayed")
    assert backbone.calls == calls and (visitor.image() == third).all()
    for name in ("definition", "stability"):
        visitor.until(lambda n=name: "k = 5" in visitor.page.locator(f"#{n}").inner_text(), name)
    jaq = visitor.comparison.qsched.jaq(5.0)
    assert f"{jaq:.3f}" in visitor.page.locator("#scores [data-column=qsched]").inner_text()
    best = visitor.engine.preset("emoji-lcm", visitor.comparison.settings.quantization, 4).surface.best(5.0)
    visitor.page.click("#best")
    visitor.stands_at(*best[:2])


def test_a_link_and_the_record_carry_k(visit, tmp_path):
    visitor = visit(query="?k=3.5")
    assert visitor.number("k") == 3.5 and surface_data(visitor)["k"] == 3.5
    set_k(visitor, 1.2)
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.page.click("#share")
    visitor.until(lambda: "k=1.2" in visitor.page.evaluate("navigator.clipboard.readText()"))
    with visitor.page.expect_download() as started:
        visitor.page.click("#download-record")
    started.value.save_as(tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text())["scorer"]["k"] == 1.2


def test_a_k_out_of_range_gives_a_toast_and_the_surface_stays(visit):
    visitor = visit()
    before = image(visitor)
    visitor.page.locator("#k input[type=number]").fill("9")
    assert "must be a number from 0 to 5" in visitor.toast()
    assert surface_data(visitor)["k"] == 2 and (image(visitor) == before).all()


def test_the_pointer_shows_a_cells_numbers(visit):
    visitor = visit()
    image, data = visitor.page.locator("#surface img"), surface_data(visitor)
    image.scroll_into_view_if_needed()
    frame, (left, top, width, height) = image.bounding_box(), data["box"]
    unit, i, j = frame["width"] / data["size"][0], 2, 8
    at = lambda x, y: visitor.page.mouse.move(frame["x"] + x * unit, frame["y"] + y * unit)
    at(left + (j + 0.5) * width / 11, top + height - (i + 0.5) * height / 11)
    tip = visitor.page.locator("#cell")
    tip.wait_for()
    text, cell = tip.inner_text(), i * 11 + j
    assert f"c_x {AXIS[j]}" in text and f"{data['jaq'][cell]:.3f}" in text and "k = 2" in text
    assert ("not different" in text) == (not data["different"][cell])
    inks = "tip => [getComputedStyle(tip.firstChild).color, getComputedStyle(tip).backgroundColor]"
    ink, ground = (np.mean([int(n) for n in re.findall(r"\d+", rgb)[:3]]) for rgb in tip.evaluate(inks))
    assert abs(ink - ground) > 128, "it can be read"
    at(5, 5)
    visitor.until(lambda: not tip.is_visible(), "it stayed")


def test_the_sweep_opens_and_follows_k(visit):
    visitor = visit()
    visitor.page.locator("#k-sweep button").first.click()
    visitor.page.wait_for_selector("#k-sweep-image img")
    before = image(visitor, "k-sweep-image")
    set_k(visitor, 4)
    visitor.until(lambda: (image(visitor, "k-sweep-image") != before).any(), "the sweep's line stayed")
