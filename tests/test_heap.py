"""Freed memory goes back to the system, where glibc would keep it."""

import ctypes
import subprocess
import sys

import pytest

from qsched.server import heap

FRAGMENTED = """
import psutil
from qsched.server.heap import give_back, limit_heaps
limit_heaps()
rss = lambda: psutil.Process().memory_info().rss / 1e6
blocks = [bytes(2000) for _ in range(50_000)]
kept = blocks[::100]
del blocks
before = rss()
give_back()
print(before - rss())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_freed_memory_between_what_is_held_goes_back():
    found = subprocess.run([sys.executable, "-c", FRAGMENTED], capture_output=True, text=True, check=True)
    assert float(found.stdout) > 50, "megabytes of a hundred"


def test_another_c_library_is_left_alone(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    heap.limit_heaps()
    heap.give_back()


def test_a_closed_tab_gives_memory_back(monkeypatch):
    from browser_app import tiny_backbone

    from qsched.server.engine import Engine

    given = []
    monkeypatch.setattr("qsched.server.engine.give_back", lambda: given.append(True))
    engine = Engine(load=tiny_backbone)
    engine.compare("a", "emoji-lcm", *engine.opening())
    engine.forget("a")
    assert given and engine.session("a") is None
