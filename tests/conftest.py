"""Fixtures that several test files use."""

import pytest


@pytest.fixture(scope="module")
def browser():
    """A headless chromium."""
    from browser_app import CHROMIUM, FLAGS
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on this machine that holds the repository of `hub_files`, and an empty cache."""
    from fake_hub import connected
    from hub_files import FILES, REPO

    with connected(monkeypatch, tmp_path / "cache") as hub:
        hub.add(REPO, FILES)
        yield hub
