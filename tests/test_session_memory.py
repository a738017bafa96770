"""What sessions hold in memory is limited in bytes, and what another process gets of one holds no older
images.
"""

import time

import httpx
import pytest
from browser_app import tiny_backbone
from http_events import send

from qsched.comparison.result import Settings
from qsched.sampling.coefficients import Coefficients
from qsched.server import sessions as limits
from qsched.server.engine import Engine
from qsched.server.sessions import ALL_SESSIONS_BYTES, SESSION_BYTES, SESSIONS
from qsched.ui.page import build_app

FOX = Settings("fox", 0, 2)


def at(index):
    return Coefficients.constant(0.9 + index / 1000, 1.0)


@pytest.fixture
def engine(tmp_path):
    return Engine(load=tiny_backbone, presets=tmp_path)


def calls(engine):
    return engine.backbone("emoji-lcm").calls


def test_a_position_seen_before_costs_no_call_until_other_images_are_looked_at(engine):
    engine.compare("a", "emoji-lcm", FOX, at(0))
    first = engine.rescale("a", at(1))
    engine.rescale("a", at(2))
    before = calls(engine)
    again = engine.rescale("a", at(1))
    assert calls(engine) == before and again.qsched is first.qsched and again.coefficients == at(1)
    engine.compare("a", "emoji-lcm", Settings("house", 0, 2), at(2))
    assert engine.rescale("a", at(1)).qsched.image != first.qsched.image and calls(engine) > before


def test_a_session_holds_a_limited_number_of_bytes(engine, monkeypatch):
    size = engine.compare("a", "emoji-lcm", FOX, at(0)).nbytes
    image = engine.session("a").comparison.qsched.nbytes
    assert image == (1 + FOX.steps) * 64 * 64 * 3, "the image and its path"
    monkeypatch.setattr(limits, "SESSION_BYTES", size + 5 * image + 1)
    for index in range(20):
        engine.rescale("a", at(index))
    held = engine.session("a")
    assert len(held.history) == 5 and held.nbytes == size + 5 * image <= limits.SESSION_BYTES
    before = calls(engine)
    for index in range(15, 20):
        engine.rescale("a", at(index))
    assert calls(engine) == before, "the latest are there"
    engine.rescale("a", at(3))
    assert calls(engine) > before, "the oldest are not"
    monkeypatch.setattr(limits, "SESSION_BYTES", 0)
    assert engine.rescale("a", at(30)) and len(engine.session("a").history) == 0


def test_all_sessions_together_hold_a_limited_number_of_bytes(engine, monkeypatch):
    assert SESSION_BYTES < ALL_SESSIONS_BYTES < SESSIONS * SESSION_BYTES, (
        "many small ones fit, a few full ones do too"
    )
    size = engine.compare("0", "emoji-lcm", FOX, at(0)).nbytes
    monkeypatch.setattr(limits, "ALL_SESSIONS_BYTES", 4 * engine.session("0").nbytes)
    for index in range(1, 9):
        engine.compare(str(index), "emoji-lcm", FOX, at(0))
    kept = [name for name in map(str, range(9)) if engine.session(name)]
    assert kept == ["5", "6", "7", "8"] and size < engine.session("8").nbytes
    monkeypatch.setattr(limits, "ALL_SESSIONS_BYTES", 1)
    assert engine.rescale("8", at(1)) and engine.session("8"), "the latest stays"
    assert not engine.session("7")


def test_a_closed_tab_leaves_nothing_behind(tmp_path):
    app = build_app(engine=Engine(load=tiny_backbone, presets=tmp_path), searches=str(tmp_path / "s.sqlite3"))
    _, url, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    kept = lambda: {*app.state_holder.session_data, *app.engine.sessions, *app.search._visits}
    try:
        with httpx.stream("GET", f"{url}gradio_api/heartbeat/a", trust_env=False):
            (fn,) = [fn for fn in app.fns.values() if fn.api_name == "open"]
            assert '"success": true' in send(url, fn, [False, "naive", "Q-Sched"])
            assert "a" in kept()
        until = time.monotonic() + 60
        while "a" in kept():
            assert time.monotonic() < until, "a closed tab is still held"
            time.sleep(0.1)
    finally:
        app.close(verbose=False)
