"""Shared by the tests of the Search tab: settings, visitors, a search in the background."""

import threading
import time
from types import SimpleNamespace

from browser_app import tiny_backbone, write_preset

from qsched.server.engine import Engine
from qsched.ui.page import build_app

USUAL = {
    "backbone": "emoji-lcm", "bits": "w4a8", "steps": 2, "strategy": "shared", "low": 0.9, "high": 1.1,
    "resolution": 3, "shape": "ramp", "seeds": 1, "k": 2, "source": "built-in", "count": 3, "text": "",
    "file": None, "decoder": False,
    "group_size": 0, "activation_scale": "token", "scope": "all", "keep": True, "method": "plain",
}  # fmt: skip


def settings(tab, dark=False, **changes):
    """What the page sends: the widgets of the Search tab with their values."""
    values = USUAL | changes
    return {widget: values[name] for name, widget in tab.asked.items()} | {tab.compare.dark: dark}


def visitor(name="a", host="127.0.0.1:7860", client="127.0.0.1", page=None, **headers):
    """A request as gradio gives it to a handler, by default of somebody at the machine.

    page: its share and root_path.
    """
    page = page or SimpleNamespace(share=False, root_path="")
    headers = {"host": host} | {key.replace("_", "-"): value for key, value in headers.items()}
    return SimpleNamespace(
        session_hash=name, headers=headers, client=SimpleNamespace(host=client), query_params={},
        app=SimpleNamespace(get_blocks=lambda: page),
    )  # fmt: skip


def click(x, y):
    return SimpleNamespace(index=[x, y])


def search_tab(tmp_path):
    """The Search tab of a page on the tiny backbone, with files under `tmp_path`."""
    write_preset(tmp_path / "presets")
    engine = Engine(load=tiny_backbone, presets=tmp_path / "presets")
    return build_app(engine=engine, searches=str(tmp_path / "data" / "s.sqlite3")).search


def run(tab, name="a", **changes):
    """All updates of a search, in one."""
    merged = {}
    for updates in tab.start(visitor(name), settings(tab, **changes)):
        merged |= updates
    return merged


def html(updates, widget):
    value = updates[widget]
    return value["value"] if isinstance(value, dict) else value


def in_background(tab, **changes):
    """A search in a thread that ends it when asked: (thread, list of updates)."""
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(tab.start(visitor(), settings(tab, **changes))))
    thread.start()
    return thread, seen


def until(check):
    end = time.monotonic() + 30
    while not check():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
