"""The page in a real browser: drags, keys, clicks, sessions, links, downloads, bad input."""

import json
import zipfile

import numpy as np
import pytest
from browser_app import AXIS, BEST, QUICK_BROWSER, serving, write_preset

from qsched.models.registry import EMOJI_LCM
from qsched.sampling.coefficients import Coefficients

pytestmark = QUICK_BROWSER
STEPS = 4


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    for bits in ("w4a8", "w2a8"):
        write_preset(folder, bits)
    with serving(folder) as served:
        yield served


def calls(visitor):
    return visitor.engine.backbone("emoji-lcm").calls


def test_a_first_visitor_sees_three_images_scores_and_the_surface(visit):
    visitor = visit()
    for name, column in zip(("full-precision", "naive", "qsched"), visitor.comparison.columns, strict=True):
        assert visitor.shows(column, name)
    assert visitor.page.locator("#surface img").evaluate("image => image.naturalWidth") > 400
    assert visitor.page.locator("#scores [role=row]").count() == 4
    assert visitor.page.locator("#wipe img").count() == 2
    assert "k = 2" in visitor.page.locator("#definition").inner_text()
    visitor.stands_at(*BEST)
    ids = (
        "backbone bits prompt seed steps shape c_x c_eps generate best reset image-full-precision "
        "image-naive image-qsched wipe scores surface"
    )
    for name in ids.split():
        assert visitor.page.locator(f"#{name}").count() == 1, name


@pytest.mark.slow
def test_the_last_position_of_a_drag_wins(visit):
    visitor = visit()
    visitor.drag("c_x", 0.9, 0.2, 0.75)
    visitor.until(lambda: abs(visitor.number("c_x") - 1.25) < 0.03)
    visitor.stands_at(visitor.number("c_x"), BEST[1])
    visitor.drag("c_eps", 0.1, 0.35)
    visitor.stands_at(visitor.number("c_x"), visitor.number("c_eps"))
    assert visitor.number("c_eps") < 0.9


def test_a_drag_costs_steps_minus_one_calls_per_position_and_a_known_one_none(visit):
    visitor = visit()
    before, known = calls(visitor), len(visitor.held.history)
    full, naive = visitor.comparison.full_precision, visitor.comparison.naive
    visitor.drag("c_x", 0.8, 0.3)
    visitor.stands_at(visitor.number("c_x"), BEST[1])
    positions = len(visitor.held.history) - known
    assert positions >= 1 and calls(visitor) - before == positions * (STEPS - 1)
    assert visitor.comparison.full_precision is full and visitor.comparison.naive is naive

    before = calls(visitor)
    at = visitor.number("c_x"), visitor.number("c_eps")
    visitor.page.locator("#c_x input[type=range]").press("ArrowRight")
    visitor.stands_at(round(at[0] + 0.005, 4), at[1])
    assert calls(visitor) - before == STEPS - 1
    visitor.page.locator("#c_x input[type=range]").press("ArrowLeft")
    visitor.stands_at(*at)
    visitor.page.click("#reset")
    visitor.stands_at(1, 1)
    visitor.page.click("#best")
    visitor.stands_at(*BEST)
    assert calls(visitor) - before == STEPS - 1


@pytest.mark.slow
def test_the_plain_scheduler_shows_the_naive_image(visit):
    visitor = visit()
    visitor.page.click("#reset")
    visitor.stands_at(1, 1)
    assert (visitor.image("qsched") == visitor.image("naive")).all()
    assert visitor.comparison.coefficients.is_identity


@pytest.mark.slow
def test_typed_values_count(visit):
    visitor = visit()
    box = visitor.page.locator("#c_eps input[type=number]")
    box.click()
    box.press("Control+a")
    box.press_sequentially("1.135", delay=30)
    visitor.stands_at(BEST[0], 1.135)
    # "1" and "1." on the way are nothing to complain about
    assert visitor.page.locator(".toast-body").count() == 0


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_a_click_on_a_cell_sets_both_sliders(visit, width):
    visitor = visit(width=width)
    assert visitor.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        "the page scrolls sideways"
    )
    surface = visitor.page.locator("#surface img")
    for i, j in ((0, 0), (10, 10), (2, 8), (7, 3)):
        surface.scroll_into_view_if_needed()
        x, y = cell_on_page(visitor, i, j)
        visitor.page.mouse.click(x, y)
        visitor.stands_at(AXIS[j], AXIS[i])
        assert visitor.comparison.coefficients == Coefficients.ramp(AXIS[j], AXIS[i])
        ring = visitor.page.locator("#crosshair i").bounding_box()
        assert np.allclose((ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] / 2), (x, y), atol=2)
    surface.click(position={"x": 3, "y": 3})  # the margin is no cell
    visitor.page.wait_for_timeout(300)
    visitor.stands_at(AXIS[3], AXIS[7])


def cell_on_page(visitor, i, j):
    """The middle of a cell in the browser's pixels; asked again because the page scrolls."""
    data = json.loads(visitor.page.locator("[data-surface]").first.get_attribute("data-surface"))
    image = visitor.page.locator("#surface img").bounding_box()
    left, top, width, height = data["box"]
    unit = image["width"] / data["size"][0]
    cells = len(AXIS)
    return (
        image["x"] + unit * (left + (j + 0.5) * width / cells),
        image["y"] + unit * (top + height - (i + 0.5) * height / cells),
    )


@pytest.mark.slow
def test_two_sessions_keep_their_own_state(visit):
    one, two = visit(), visit(dark=True)
    one.drag("c_x", 0.7)
    two.drag("c_x", 0.2)
    for visitor in (one, two):
        visitor.stands_at(visitor.number("c_x"), BEST[1])
    assert abs(one.number("c_x") - two.number("c_x")) > 0.3
    one.page.locator("#prompt textarea").fill("sunflower, flat style")
    one.page.click("#generate")
    one.until(lambda: one.comparison.settings.prompt.startswith("sunflower"))
    one.settle()
    assert two.comparison.settings.prompt != one.comparison.settings.prompt
    two.settle()
    two.close()
    one.until(lambda: two.engine.session(two.session) is None, "the closed tab's state is still held")


@pytest.mark.slow
def test_shapes_show_their_own_sliders_and_keep_the_path(visit):
    visitor = visit()
    visible = lambda: [
        s for s in range(1, 9) if visitor.page.locator(f"#c_x{f'-{s}' if s > 1 else ''}").is_visible()
    ]
    assert visible() == [1]
    straight = np.linspace(BEST[0], 1, STEPS)
    for title, shown, c_x in (
        ("Per step", [1, 2, 3, 4], straight),
        ("Two ends", [1, 2], straight),
        ("Constant", [1], np.full(STEPS, BEST[0])),
    ):
        visitor.page.get_by_label(title).check(force=True)
        visitor.until(lambda shown=shown: visible() == shown, title)
        visitor.until(
            lambda c_x=c_x: np.allclose(visitor.comparison.coefficients.expand(STEPS)[0], c_x, atol=1e-3)
        )
    visitor.settle()


def test_another_bit_width_keeps_the_full_image_and_follows_the_best_known(visit):
    visitor = visit()
    full, naive = visitor.comparison.full_precision, visitor.image("naive")
    choose(visitor, "bits", "W2A8")
    visitor.until(lambda: visitor.comparison.settings.quantization.bits == "w2a8")
    visitor.until(lambda: (visitor.image("naive") != naive).any(), "the naive image stayed")
    assert visitor.comparison.full_precision is full
    visitor.stands_at(*BEST)
    choose(visitor, "bits", "W3A16")
    visitor.page.locator("#no-surface code").wait_for()
    assert (
        "python -m qsched search --backbone emoji-lcm --bits w3a16"
        in visitor.page.locator("#no-surface").inner_text()
    )
    assert not visitor.page.locator("#surface").is_visible()
    assert visitor.page.locator("#best").is_disabled()


def choose(visitor, name, option):
    visitor.page.locator(f"#{name} input").click()
    visitor.page.get_by_role("option", name=option, exact=True).click()


@pytest.mark.slow
def test_examples_dice_and_keyboard(visit):
    visitor = visit()
    seed = visitor.comparison.settings.seed
    visitor.page.click("#dice")
    visitor.until(lambda: visitor.comparison.settings.seed != seed)
    visitor.until(
        lambda: visitor.page.locator("body.busy").count() == 0, "the page still says that it is busy"
    )
    visitor.page.locator("#examples button").nth(1).click()
    visitor.until(lambda: visitor.comparison.settings.prompt == EMOJI_LCM.examples[1])
    prompt = visitor.page.locator("#prompt textarea")
    prompt.fill("penguin, classic style")
    prompt.press("Enter")
    visitor.until(lambda: visitor.comparison.settings.prompt.startswith("penguin"))
    visitor.settle()
    visitor.until(
        lambda: visitor.page.locator("body.busy").count() == 0, "the page still says that it is busy"
    )
    visitor.page.locator("#reset").focus()
    visitor.page.keyboard.press("Enter")
    visitor.stands_at(1, 1)


@pytest.mark.slow
def test_the_wipe_follows_its_pickers_and_the_sliders(visit):
    visitor = visit()
    sources = lambda: [image.get_attribute("src") for image in visitor.page.locator("#wipe img").all()]
    first = sources()
    choose(visitor, "wipe-left", "Full precision")
    visitor.until(lambda: sources() != first)
    second = sources()
    visitor.drag("c_x", 0.9)
    visitor.stands_at(visitor.number("c_x"), BEST[1])
    visitor.until(lambda: sources() != second and len(sources()) == 2)


def test_a_link_restores_what_it_names(visit):
    query = "?bits=w8a8&prompt=octopus&seed=7&steps=2&shape=ends&c_x=1.05,0.98&c_eps=0.95,1.01"
    visitor = visit(query=query)
    settings = visitor.comparison.settings
    assert (settings.prompt, settings.seed, settings.steps) == ("octopus", 7, 2)
    assert settings.quantization.bits == "w8a8"
    assert visitor.comparison.coefficients == Coefficients.ends((1.05, 0.98), (0.95, 1.01))
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.page.click("#share")
    visitor.until(lambda: "prompt=octopus" in visitor.page.evaluate("navigator.clipboard.readText()"))
    link = visitor.page.evaluate("navigator.clipboard.readText()")
    other = visit(query=link[link.index("?") :])
    assert (
        other.comparison.settings == settings
        and other.comparison.coefficients == visitor.comparison.coefficients
    )


@pytest.mark.slow
def test_a_broken_link_is_answered_with_sentences_and_images(visit):
    visitor = visit(query="?bits=w9a9&steps=99&seed=x&c_x=nan&backbone=none&prompt=%3Cb%3Efox")
    text = visitor.page.locator("#notes").inner_text()
    for name in ("bits", "seed", "c_x", "backbone", "99 steps"):
        assert name in text
    assert visitor.comparison.settings.prompt == "<b>fox"


@pytest.mark.slow
@pytest.mark.parametrize(("prompt", "says"), [("   ", "type a prompt"), ("", "type a prompt")])
def test_an_empty_prompt_gives_a_toast_and_the_images_stay(visit, prompt, says):
    visitor = visit()
    before = {name: visitor.image(name) for name in ("full-precision", "naive", "qsched")}
    visitor.page.locator("#prompt textarea").fill(prompt)
    visitor.page.click("#generate")
    assert says in visitor.toast()
    visitor.page.wait_for_function(
        "!document.body.classList.contains('busy')", timeout=3000
    )  # the images are not left faded
    assert "Traceback" not in visitor.page.content()
    for name, image in before.items():
        assert (visitor.image(name) == image).all()


@pytest.mark.slow
def test_a_coefficient_out_of_range_gives_a_toast_and_the_images_stay(visit):
    visitor = visit()
    before = visitor.image()
    visitor.page.locator("#c_x input[type=number]").fill("7")
    assert "must be a number from 0.5 to 1.5" in visitor.toast()
    assert (visitor.image() == before).all()
    visitor.page.locator("#c_eps input[type=number]").fill("")
    visitor.page.locator("#c_x input[type=number]").fill("1.2")
    visitor.page.locator("#c_eps input[type=number]").fill("0.9")
    visitor.stands_at(1.2, 0.9)


@pytest.mark.slow
def test_a_long_prompt_is_cut_and_said_so(visit):
    visitor = visit()
    visitor.page.locator("#prompt textarea").fill("fox " * 400)
    visitor.page.click("#generate")
    visitor.page.get_by_text("its end was ignored").wait_for()
    visitor.settle()


@pytest.mark.slow
def test_downloads_hold_the_images_and_the_record(visit, tmp_path):
    visitor = visit()
    with visitor.page.expect_download() as started:
        visitor.page.click("#download-images")
    started.value.save_as(tmp_path / "images.zip")
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        assert set(archive.namelist()) == {"full_precision.png", "naive.png", "qsched.png", "result.json"}
        record = json.loads(archive.read("result.json"))
    assert record["coefficients"] == {"c_x": [BEST[0], 1.0], "c_eps": [BEST[1], 1.0]}
    with visitor.page.expect_download() as started:
        visitor.page.click("#download-record")
    started.value.save_as(tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text())["settings"] == record["settings"]


@pytest.mark.slow
def test_dark_and_light_redraw_the_surface(visit):
    visitor = visit(dark=True)
    corner = lambda: visitor.page.evaluate(
        "() => { const i = document.querySelector('#surface img'), c = document.createElement('canvas');"
        "c.width = c.height = 1; const x = c.getContext('2d'); x.drawImage(i, 0, 0, 1, 1, 0, 0, 1, 1);"
        "return x.getImageData(0, 0, 1, 1).data[0] }"
    )
    visitor.until(lambda: corner() < 40, "a light surface on a dark page")
    visitor.page.click("#theme-toggle")
    visitor.until(lambda: corner() > 200, "a dark surface on a light page")


@pytest.mark.slow
def test_about_fills_in_the_current_coefficients(visit):
    visitor = visit()
    visitor.page.get_by_role("tab", name="About").click()
    code = visitor.page.locator("#snippet code")
    code.wait_for()
    assert f"c_x=[{BEST[0]}, 1.0], c_eps=[{BEST[1]}, 1.0]" in code.inner_text()
    compile(code.inner_text(), "snippet", "exec")
