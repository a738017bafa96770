"""The stream of a session's answers, and what is asked for while it ends."""

import time

import pytest
from browser_app import serving, write_preset
from http_events import CLIENT, messages

from qsched.ui import streams

WAIT_S = 60


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    write_preset(folder)
    with serving(folder) as (url, _):
        yield f"{url}/gradio_api"


def joined(url, session):
    """The id of a quick event that a session sends."""
    config = CLIENT.get(f"{url.removesuffix('/gradio_api')}/config").json()
    number = next(d["id"] for d in config["dependencies"] if d["api_name"] == "searches")
    body = {"fn_index": number, "data": [], "session_hash": session}
    return CLIENT.post(f"{url}/queue/join", json=body, timeout=WAIT_S).json()["event_id"]


def told(url, session):
    """The kinds of messages on a session's stream, to its end."""
    where = {"params": {"session_hash": session}, "timeout": WAIT_S}
    with CLIENT.stream("GET", f"{url}/queue/data", **where) as stream:
        return [message["msg"] for message in messages(stream)]


def test_an_event_is_confirmed_after_the_end_of_the_stream_before_it(url, monkeypatch):
    monkeypatch.setattr(streams, "AFTER_S", 1.5)
    for _ in range(2):
        joined(url, "a")
        assert told(url, "a")[-2:] == ["process_completed", "close_stream"]
        ended = time.monotonic()
        joined(url, "a")
        assert time.monotonic() - ended > 1.4, "the browser has heard of the end by then"
        assert "process_completed" in told(url, "a")
