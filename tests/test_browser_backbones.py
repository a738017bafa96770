"""Real backbones in a real browser: download, sources, decoders, methods, links and their searches, against a
Hub on this machine.
"""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from browser_app import NEEDS_BROWSER, Visitor, serving, tiny_backbone, write_preset
from fake_hub import connected
from tiny_models import folder_of, tiny_vae_of
from tiny_scorers import serve_scorers, write_scorers

from qsched.models.download import download_progress, sources_to_fetch
from qsched.models.registry import SPECS
from qsched.quantizers.methods import METHODS
from qsched.server.engine import load_downloaded

pytestmark = NEEDS_BROWSER
LCM = "lcm-dreamshaper-v7"
TUNED = "me/tuned"
NOTES = """() => {
  window.told = new Set();
  const look = () => document.querySelectorAll("#download-note progress").forEach((bar) => told.add(bar.value));
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, attributes: true });
}"""  # noqa: E501


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub with a tiny LCM Dreamshaper, a fine-tune of it and all scorers; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch, connected(patch, folder / "cache") as hub:
        patch.setitem(SPECS, LCM, replace(SPECS[LCM], size=64))
        patch.setattr("qsched.models.memory.free_bytes", lambda device: 12_000_000_000)
        hub.add(SPECS[LCM].source, files_of(folder_of(LCM)))
        hub.add(TUNED, files_of(folder_of(LCM)))
        hub.add(SPECS[LCM].tiny_vae.repo, files_of(Path(tiny_vae_of("sd").repo)))
        serve_scorers(hub, patch, folder / "torch", write_scorers(folder / "scorers"))
        yield hub


@pytest.fixture(scope="module")
def app(hub, tmp_path_factory):
    presets = tmp_path_factory.mktemp("presets")
    write_preset(presets)
    with serving(
        presets, lambda id, **o: tiny_backbone(id) if id == "emoji-lcm" else load_downloaded(id, **o)
    ) as served:
        yield served


@pytest.fixture
def here(hub):
    """LCM Dreamshaper is downloaded."""
    list(download_progress(SPECS[LCM]))


def choose(visitor, name, option):
    visitor.page.locator(f"#{name} input").click()
    visitor.page.get_by_role("option", name=option).first.click()


def advanced(visitor):
    if not visitor.page.locator("#method input").is_visible():
        visitor.page.locator("#advanced button").first.click()
        visitor.page.locator("#method input").wait_for()


def looks_at(visitor, backbone, **quantization):
    """Wait until the server and the page show this backbone, quantized like this."""
    there = lambda: visitor.engine.session(visitor.session)
    how = lambda: vars(there().comparison.settings.quantization)
    visitor.until(lambda: there().backbone == backbone and quantization.items() <= how().items(), backbone)
    visitor.settle()
    visitor.page.wait_for_function("!document.body.classList.contains('busy')")


def load_source(visitor, source):
    advanced(visitor)
    visitor.page.locator("#source textarea, #source input").first.fill(source)
    visitor.page.click("#load-source")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_backbone_is_downloaded_with_its_progress_and_then_drawn(visit, hub, width, dark):
    visitor, name = visit(width=width, dark=dark), LCM if width > 400 else f"{LCM}@{TUNED}"
    page, before = visitor.page, visitor.image()
    choose(visitor, "backbone", SPECS[LCM].title)
    if width < 400:
        looks_at(visitor, LCM)
        load_source(visitor, TUNED)
        before = visitor.image()
    page.locator("#download").wait_for()
    assert sources_to_fetch(visitor.engine.spec(name)), "nothing comes unasked"
    assert page.locator("#download").inner_text() == (
        "Download (6.6 GB)" if width > 400 else "Download (about 4.3 GB)"
    )
    note = page.locator("#download-note").inner_text()
    assert "is not downloaded" in note and "GB of main memory, of which 12.0 GB are free." in note
    assert (visitor.image() == before).all() and (width < 400 or page.locator(".toast-body").count() == 0)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    page.evaluate(NOTES)
    hub.speed = 8e6 if width > 400 else 3e5
    page.click("#download")
    looks_at(visitor, name)
    hub.speed = None
    shares = page.evaluate("[...told]")
    assert len(shares) >= 2, "the bar grows"
    page.locator("#download").wait_for(state="hidden")
    assert (
        "LPIPS" in page.locator("#scores").inner_text()
        and "clip-l14" in page.locator("#definition").inner_text()
    )
    assert visitor.comparison.qsched.lpips is not None


def test_a_wrong_source_is_one_sentence_and_the_app_goes_on(visit, here):
    visitor = visit()
    choose(visitor, "backbone", SPECS[LCM].title)
    looks_at(visitor, LCM)
    before = visitor.image()
    for source, says in (
        ("/no/such", "neither a folder nor"),
        (str(folder_of("sdxl-turbo")), "cannot be loaded"),
    ):
        load_source(visitor, source)
        visitor.page.locator(".toast-body", has_text=says).wait_for()
        assert (visitor.image() == before).all() and visitor.engine.session(visitor.session).backbone == LCM
    folder = str(folder_of(LCM))
    load_source(visitor, folder)
    looks_at(visitor, f"{LCM}@{folder}")
    visitor.page.get_by_role("tab", name="Search").click()
    box = visitor.page.locator("#search-backbone input")
    visitor.until(lambda: folder in box.input_value(), "the Search tab has the source of Compare")
    visitor.page.locator("#search-plan b", has_text="points").wait_for()


def test_a_drag_is_drafted_by_the_tiny_decoder_and_drawn_in_full_when_the_hand_rests(
    visit, here, monkeypatch
):
    visitor = visit(query=f"?backbone={LCM}&steps=2&shape=constant&c_x=1&c_eps=1")
    looks_at(visitor, LCM)
    page, sketched, sketch = visitor.page, [], visitor.engine.sketch
    monkeypatch.setattr(
        visitor.engine, "sketch", lambda *move: sketched.append(sketch(*move)) or sketched[-1]
    )
    advanced(visitor)
    assert page.locator("#drafts input").is_checked()
    visitor.drag("c_x", 0.6, 0.7, 0.8)
    visitor.until(lambda: any(sketched), "drafts are drawn")
    page.locator("[data-draft]").wait_for(state="detached")
    visitor.stands_at(1.3, 1.0)
    page.locator("#drafts input").uncheck()
    drawn = len(sketched)
    visitor.drag("c_x", 0.5, 0.4)
    visitor.stands_at(0.9, 1.0)
    assert len(sketched) == drawn, "nothing is drafted where that is not wanted"


def test_methods_and_decoders_are_chosen_and_shared_by_link(visit, here):
    visitor = visit(query=f"?backbone={LCM}&steps=1&method=svdquant&decoder=tiny&keep=0")
    looks_at(visitor, LCM, method="svdquant", keep_high_precision=False)
    page = visitor.page
    assert (
        visitor.comparison.settings.tiny_decoder
        and page.locator("#decoder label.selected").inner_text() == "tiny"
    )
    assert "SVDQuant" in page.locator("#method input").input_value(), (
        "the advanced settings are open and say so"
    )
    page.locator("#decoder label", has_text="full").click()
    visitor.until(lambda: not visitor.comparison.settings.tiny_decoder)
    pytest.importorskip("torchao", reason="the optional package torchao is not installed")
    choose(visitor, "method", "torchao")
    looks_at(visitor, LCM, method="torchao")
    choose(visitor, "bits", "W4A4")
    assert "torchao quantizes to w8a8 and w4a8" in visitor.toast()
    page.wait_for_timeout(300)
    assert page.get_by_text("torchao quantizes to").count() == 1, "said once"
    choose(visitor, "bits", "W8A8")
    looks_at(visitor, LCM, method="torchao", bits="w8a8")
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#share")
    visitor.until(lambda: "method=torchao" in page.evaluate("navigator.clipboard.readText()"))
    link = page.evaluate("navigator.clipboard.readText()")
    assert "keep=0" in link and "decoder" not in link and "scope" not in link
    other = visit(query=link[link.index("?") :])
    assert other.comparison.settings == visitor.comparison.settings


def test_a_method_that_cannot_run_is_greyed_out_and_says_why(browser, tmp_path, monkeypatch):
    # this app takes its images with it when it ends
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "images"))
    monkeypatch.setitem(
        METHODS, "torchao", replace(METHODS["torchao"], unavailable=lambda: "torchao is not there.")
    )
    write_preset(tmp_path)
    with serving(tmp_path) as app:
        visitor = Visitor(browser, *app)
        advanced(visitor)
        visitor.page.locator("#method input").click()
        grey = visitor.page.get_by_role("option", name="torchao")
        assert grey.evaluate("option => getComputedStyle(option).pointerEvents") == "none"
        assert "torchao is not there." in visitor.page.locator("#advanced").inner_text()
        visitor.close()


def test_mixdq_is_chosen(visit):
    visitor = visit()
    advanced(visitor)
    choose(visitor, "method", "MixDQ")
    looks_at(visitor, "emoji-lcm", method="mixdq")


def test_a_link_to_what_is_not_here_offers_the_download(visit):
    visitor = visit(query="?backbone=sdxl-turbo&method=mixdq&scale=nonsense&source=../x")
    told = visitor.page.locator("#notes").inner_text()
    assert "link's scale" in told and "link's source" in told and "SDXL-Turbo is not downloaded" in told
    assert visitor.engine.session(visitor.session).backbone == "emoji-lcm"
    assert visitor.page.locator("#backbone input").input_value() == "SDXL-Turbo"
    assert "MixDQ" in visitor.page.locator("#method input").input_value(), (
        "it opens with what the link asks for"
    )
    assert "Download (" in visitor.page.locator("#download").inner_text()


def test_the_search_tab_says_what_a_search_costs_where_it_cannot_run_and_has_the_tiny_decoder(visit, here):
    visitor = visit()
    page = visitor.page
    page.get_by_role("tab", name="Search").click()
    plan = page.locator("#search-plan")
    plan.get_by_text("denoiser calls").wait_for()
    assert "python -m qsched" not in plan.inner_text() and not page.locator("#search-decoder").is_visible()
    choose(visitor, "search-backbone", "SDXL-Turbo")
    plan.get_by_text("SDXL-Turbo is not downloaded").wait_for()
    text = plan.inner_text()
    assert "points" in text and "375 images" in text and "time not measured yet" in text
    assert "search --backbone sdxl-turbo" in text and not page.locator("#search-decoder").is_visible()
    page.click("#search-cost")
    assert "SDXL-Turbo is not downloaded" in visitor.toast()
    plan.get_by_text("375 images").wait_for()
    choose(visitor, "search-backbone", SPECS[LCM].title)
    page.locator("#search-decoder").wait_for()
    page.locator("#search-decoder input").check()
    for name, value in {"resolution": 2, "prompt-count": 1}.items():
        page.fill(f"#search-{name} input", str(value))
    choose(visitor, "search-steps", "1 step")
    page.locator("#search-strategy label", has_text="Shared").click()
    plan.get_by_text("4 points").wait_for()
    page.click("#search-start")
    visitor.until(
        lambda: page.locator("#search-progress .progress").get_attribute("data-state") == "done", "it ends"
    )
    page.click("#search-use")
    looks_at(visitor, LCM)
    assert visitor.comparison.settings.tiny_decoder, "Compare draws what the search scored"


@pytest.mark.parametrize(("name", "option"), [("bits", "W3A8"), ("steps", "2 steps")])
def test_what_is_picked_while_another_backbone_loads_is_kept(visit, here, monkeypatch, name, option):
    visitor = visit()
    load, begun = visitor.engine._load, []

    def slowly(*what, **how):
        begun.append(what)
        time.sleep(2)
        return load(*what, **how)

    visitor.engine.reload(LCM)
    monkeypatch.setattr(visitor.engine, "_load", slowly)
    choose(visitor, "backbone", SPECS[LCM].title)
    visitor.until(lambda: begun, "the backbone loads")
    choose(visitor, name, option)
    bits, steps = ("w3a8", 4) if name == "bits" else ("w4a8", 2)
    looks_at(visitor, LCM, bits=bits)
    visitor.until(lambda: visitor.comparison.settings.steps == steps, option)
    assert visitor.page.locator(f"#{name} input").input_value() == option


def test_a_decoder_picked_while_generate_computes_is_kept(visit, here, monkeypatch):
    visitor = visit(query=f"?backbone={LCM}&steps=1")
    looks_at(visitor, LCM)
    advanced(visitor)
    compare, begun = visitor.engine.compare, []

    def slowly(*what):
        begun.append(what)
        time.sleep(2)
        return compare(*what)

    monkeypatch.setattr(visitor.engine, "compare", slowly)
    visitor.page.click("#generate")
    visitor.until(lambda: begun, "Generate computes")
    visitor.page.locator("#decoder label", has_text="tiny").click()
    visitor.until(lambda: visitor.comparison.settings.tiny_decoder, "the tiny decoder")
    assert visitor.page.locator("#decoder label.selected").inner_text() == "tiny"
