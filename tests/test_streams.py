"""The stream of a session's answers: what is asked for while it ends is answered on it."""

import json
import time

import pytest
from browser_app import serving, write_preset
from http_events import CLIENT, lines

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


def messages(stream):
    return (json.loads(line.removeprefix("data: ")) for line in lines(stream) if line.startswith("data: "))


def test_what_is_asked_for_while_a_stream_ends_is_answered_on_it(url, monkeypatch):
    monkeypatch.setattr(streams, "GRACE_S", WAIT_S)
    asked, answered = [joined(url, "a")], []
    where = {"params": {"session_hash": "a"}, "timeout": WAIT_S}
    with CLIENT.stream("GET", f"{url}/queue/data", **where) as stream:
        for message in messages(stream):
            assert message["msg"] != "close_stream", f"{len(answered)} of {len(asked)} answers came"
            if message["msg"] != "process_completed":
                continue
            answered.append(message["event_id"])
            if len(asked) == 4:
                break
            time.sleep(0.3)  # gradio closes the stream meanwhile
            asked.append(joined(url, "a"))
    assert answered == asked


def test_a_stream_ends_where_nothing_more_is_asked_for(url, monkeypatch):
    monkeypatch.setattr(streams, "GRACE_S", 0.2)
    event = joined(url, "b")
    with CLIENT.stream("GET", f"{url}/queue/data", params={"session_hash": "b"}, timeout=WAIT_S) as stream:
        told = [(message["msg"], message.get("event_id")) for message in messages(stream)]
    assert told[-2:] == [("process_completed", event), ("close_stream", None)]


def test_a_stream_that_nobody_reads_any_more_takes_no_answers(url, monkeypatch):
    monkeypatch.setattr(streams, "GRACE_S", WAIT_S)
    for _ in range(3):  # as scripts do it: a stream for each event, left as soon as the answer is there
        event = joined(url, "c")
        with CLIENT.stream("GET", f"{url}/queue/data", params={"session_hash": "c"}, timeout=10) as stream:
            assert event in (m["event_id"] for m in messages(stream) if m["msg"] == "process_completed")
