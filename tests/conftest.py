"""Fixtures that several test files use; and with `pytest -n`, a core and a folder of images for
each process.
"""

import os
from types import SimpleNamespace

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # before torch starts its threads: processes that use all cores each slow one another down
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from app import keep_images_apart

    keep_images_apart()


@pytest.fixture(scope="module")
def browser():
    """A headless chromium."""
    from browser_app import CHROMIUM, FLAGS
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The page on a tiny backbone with one preset: (url, engine); a file with another page has its own."""
    from browser_app import serving, write_preset

    folder = tmp_path_factory.mktemp("presets")
    write_preset(folder)
    with serving(folder) as served:
        yield served


@pytest.fixture(scope="module")
def hall(tmp_path_factory):
    """The same in a lecture hall."""
    from browser_app import serving, write_preset

    folder = tmp_path_factory.mktemp("presets")
    write_preset(folder)
    with serving(folder, talk=True) as served:
        yield served


@pytest.fixture
def engine(tmp_path):
    """An engine of tiny backbones with one preset; a file with others has its own."""
    from browser_app import tiny_backbone, write_preset

    from qsched.server.engine import Engine

    write_preset(tmp_path)
    return Engine(load=tiny_backbone, presets=tmp_path)


@pytest.fixture
def tab(engine):
    """The Compare tab of its page, opened by the session "a"."""
    from qsched.ui.page import build_app

    tab = build_app(engine=engine, searches=str(engine.presets / "s.sqlite3")).compare
    tab.open(SimpleNamespace(session_hash="a", query_params={}, client=None), False, "naive", "Q-Sched")
    return tab


@pytest.fixture
def visit(app, browser):
    """Opens tabs; afterwards nothing may have complained."""
    from browser_app import Visitor

    visitors = []

    def open_tab(**options):
        visitors.append(Visitor(browser, *app, **options))
        return visitors[-1]

    yield open_tab
    complaints = [line for visitor in visitors for line in visitor.complaints]
    for visitor in visitors:
        visitor.close()
    assert not complaints


@pytest.fixture(scope="session")
def emoji_data(tmp_path_factory):
    """A small data set of emoji, built from drawn packages."""
    from emoji_art import build

    return build(tmp_path_factory.mktemp("emoji"))


@pytest.fixture(scope="session")
def emoji(emoji_data):
    """The same, loaded."""
    from qsched.embedded.data import dataset

    return dataset.load(emoji_data)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on this machine that holds the repository of `hub_files`, and an empty cache."""
    from fake_hub import connected
    from hub_files import FILES, REPO

    with connected(monkeypatch, tmp_path / "cache") as hub:
        hub.add(REPO, FILES)
        yield hub


@pytest.fixture
def line(capsys, monkeypatch):
    """Runs commands in this process."""
    from command_line import CommandLine

    return CommandLine(capsys, monkeypatch)


@pytest.fixture
def preset_file(tmp_path_factory):
    """A preset of the embedded model, W4A8 in 4 steps."""
    from embedded_model import make_preset

    from qsched.presets import save_preset

    path = tmp_path_factory.mktemp("preset") / "w4a8.json"
    save_preset(make_preset(), path)
    return path
