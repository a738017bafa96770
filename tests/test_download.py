"""Backbones from other sources, and those that have to be downloaded first: sentences, progress, the page."""

from pathlib import Path

import gradio as gr
import pytest
from browser_app import tiny_backbone
from fake_hub import connected
from search_visits import visitor
from tiny_models import FakeScorer, folder_of, tiny_vae_of
from tiny_scorers import serve_scorers

from qsched.comparison.result import Settings
from qsched.hub.source import BackboneError
from qsched.models.download import (
    download_progress,
    download_size,
    lacks_optional,
    not_downloaded,
    sources_to_fetch,
)
from qsched.models.registry import SPECS
from qsched.sampling.coefficients import Coefficients
from qsched.scoring.lpips import alexnet_place
from qsched.server.engine import Engine, load_downloaded, named
from qsched.ui.compare.tab import CompareTab
from qsched.ui.fragments import search_command

REPO = "me/turbo"
TURBO = SPECS["sdxl-turbo"]
VISITOR = visitor()


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with connected(monkeypatch, tmp_path / "cache") as hub:
        hub.add(REPO, files_of(folder_of("sdxl-turbo")))
        hub.add(TURBO.tiny_vae.repo, files_of(Path(tiny_vae_of("sdxl").repo)))
        serve_scorers(hub, monkeypatch, tmp_path / "torch")
        monkeypatch.setattr("qsched.models.pipeline.PipelineBackbone._make_scorer", lambda self: FakeScorer())
        yield hub


def tab_of(engine):
    with gr.Blocks():
        return CompareTab(engine, gr.Checkbox())


def test_what_is_missing_is_one_sentence_with_size_licence_and_memory(hub):
    sentence = not_downloaded(TURBO, "cpu")
    for part in (
        "SDXL-Turbo is not downloaded: 9.3 GB with the weights of its scores",
        TURBO.licence,
        "GB of main memory",
    ):
        assert part in sentence
    assert (
        sentence.count(". ") == 0
        and sentence.endswith(".")
        and "offline" not in sentence
        and "gated" not in sentence
    )
    assert "gated: log in" in not_downloaded(SPECS["flux1-schnell"], "cpu")
    assert (
        not_downloaded(SPECS["emoji-lcm"], "cpu") is None
        and not_downloaded(TURBO.at(folder_of("sdxl-turbo")), "cpu") is None
    )
    assert not hub.requests


def test_the_page_loads_the_revision_that_a_source_is_pinned_to():
    asked = []
    engine = Engine(
        load=lambda id, **options: asked.append(options["source"]) or tiny_backbone(id), source="/here"
    )
    for name in ("emoji-lcm", "sdxl-turbo@me/tuned@v2", "sdxl-turbo"):
        engine.backbone(name)
    assert asked == ["/here", "me/tuned@v2", None] and engine.spec("sdxl-turbo@me/tuned@v2").revision == "v2"


def test_offline_is_said(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "offline, so that it cannot be fetched now" in not_downloaded(TURBO, "cpu")
    engine = Engine(load=tiny_backbone)
    c = (tab := tab_of(engine)).controls
    shown = tab.download_state(VISITOR, "sdxl-turbo", "")
    assert "offline" in shown[c.download_note]["value"] and not shown[c.download]["interactive"]


def test_nothing_large_is_fetched_unasked(hub):
    with pytest.raises(BackboneError, match=r"SDXL-Turbo is not downloaded: about .*from me/turbo"):
        load_downloaded("sdxl-turbo", "cpu", REPO)
    assert not hub.requests


@pytest.mark.parametrize("source", ["/no/such/folder", "a b", "../../x"])
def test_a_source_that_cannot_be_one_is_said(source):
    with pytest.raises(BackboneError, match="neither a folder nor the name of a repository"):
        load_downloaded("sdxl-turbo", "cpu", source)


@pytest.mark.slow
def test_progress_grows_to_the_total_and_all_is_here_then(hub):
    spec, hub.speed = TURBO.at(REPO), 3e6
    seen = list(download_progress(spec, 0.02))
    assert seen[-1][0] == seen[-1][1] > 0 and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert not sources_to_fetch(spec) and not_downloaded(spec, "cpu") is None and lacks_optional(spec) is None
    assert download_size(spec) == "0.0 MB" and alexnet_place().is_file()


@pytest.mark.slow
def test_the_page_downloads_and_then_draws(hub):
    engine = Engine(
        load=lambda id, **o: tiny_backbone(id) if id == "emoji-lcm" else load_downloaded(id, **o),
        device="cpu",
    )
    tab = tab_of(engine)
    c, name = tab.controls, named("sdxl-turbo", REPO)
    before = tab.download_state(VISITOR, "sdxl-turbo", REPO)
    assert before[c.download]["visible"] and "Download (about 9.3 GB)" == before[c.download]["value"]
    updates = list(tab.download(VISITOR, "sdxl-turbo", REPO))
    assert (
        all("Downloading SDXL-Turbo" in update[c.download_note]["value"] for update in updates[:-1])
        and len(updates) > 1
    )
    assert not updates[-1][c.download_note]["visible"] and not updates[-1][c.download]["visible"]
    seen = engine.compare("a", name, Settings("a fox", 0, 1), Coefficients.identity())
    assert seen.full_precision.image.size == (64, 64) and engine.spec(name).source == REPO


def test_a_failed_download_is_said_and_the_button_stays(hub):
    hub.fault = 500
    tab = tab_of(Engine(load=tiny_backbone))
    seen = []
    with pytest.raises(gr.Error, match="problem of its own") as error:
        for update in tab.download(VISITOR, "sdxl-turbo", REPO):
            seen.append(update)
    c, last = tab.controls, seen[-1]
    assert last[c.download]["visible"] and last[c.download]["interactive"]
    assert str(error.value.message) in last[c.download_note]["value"]


def test_another_source_is_another_backbone_and_the_old_one_stays(hub):
    engine = Engine(
        load=lambda id, **o: tiny_backbone(id) if id == "emoji-lcm" else load_downloaded(id, **o),
        device="cpu",
    )
    first = engine.compare("a", "emoji-lcm", *engine.opening())
    for source, reason in (
        ("/no/such", "neither"),
        (str(folder_of("lcm-dreamshaper-v7")), "cannot be loaded"),
    ):
        with pytest.raises(BackboneError, match=reason):
            engine.compare("a", named("sdxl-turbo", source), Settings("a fox", 0, 1), Coefficients.identity())
        assert engine.session("a").comparison is first
    name = named("sdxl-turbo", str(folder_of("sdxl-turbo")))
    engine.compare("a", name, Settings("a fox", 0, 1), Coefficients.identity())
    assert engine.session("a").backbone == name and engine.rescale("a", Coefficients.constant(1.1, 1.0))
    tab = tab_of(engine)
    assert tab.name(VISITOR, "emoji-lcm", name.partition("@")[2]) == "emoji-lcm", "its source is left behind"
    assert (
        tab.name(VISITOR, "sdxl-turbo", "") == "sdxl-turbo"
        and tab.name(VISITOR, "sdxl-turbo", "x/y") == "sdxl-turbo@x/y"
    )
    shown = tab.settings_shown(name, Settings("a fox", 0, 1))
    assert shown[tab.controls.backbone] == "sdxl-turbo" and shown[tab.controls.source] == str(
        folder_of("sdxl-turbo")
    )
    assert search_command(name, "w4a8", 4).count(str(folder_of("sdxl-turbo"))) == 1


def test_the_source_of_the_command_line_is_the_default_backbones():
    folder = str(folder_of("sdxl-turbo"))
    engine = Engine("sdxl-turbo", folder, "cpu")
    assert engine.spec("sdxl-turbo").source == folder and engine.spec("emoji-lcm") is SPECS["emoji-lcm"]
    assert engine.backbone("sdxl-turbo").spec.source == folder
