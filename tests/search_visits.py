"""Shared by the tests of the Search tab: settings, visitors, a search in the background."""

import threading
import time
from types import SimpleNamespace

from browser_app import tiny_backbone, write_preset

from qsched.server.engine import Engine
from qsched.ui.page import build_app

NAMES = (
    "backbone bits steps strategy low high resolution shape seeds k source count text file group scale "
    "scope keep method tiny"
).split()
USUAL = dict(
    zip(NAMES, ["emoji-lcm", "w4a8", 2, "shared", 0.9, 1.1, 3, "ramp", 1, 2, "built-in", 3, "", None, 0,
        "token", "all", True, "plain", False],
        strict=True)
)  # fmt: skip


def settings(**changes):
    return list((USUAL | changes).values())


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
    for updates in tab.start(visitor(name), False, *settings(**changes)):
        merged |= updates
    return merged


def html(updates, widget):
    value = updates[widget]
    return value["value"] if isinstance(value, dict) else value


def in_background(tab, **changes):
    """A search in a thread that ends it when asked: (thread, list of updates)."""
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(tab.start(visitor(), False, *settings(**changes))))
    thread.start()
    return thread, seen


def until(check):
    end = time.monotonic() + 30
    while not check():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
