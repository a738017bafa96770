"""Events sent to a served page over HTTP, the way the browser sends them."""

import json

import httpx

CLIENT = httpx.Client(verify=False, trust_env=False)
"""One for all: making one costs more than a request."""


def send(url, fn, data, session="a", headers=None, query=None, timeout=60):
    """The server's answer to one event, as text.

    fn: the app's own entry for the handler. data: a value per input.
    """
    body = {"fn_index": fn._id, "data": data, "session_hash": session}
    body |= {"event_data": {"index": [400, 300], "value": None, "selected": True}, "trigger_id": None}
    # by hand: httpx refuses NaN, which a browser cannot send and a script can
    options = {"headers": {"content-type": "application/json"} | (headers or {}), "params": query or {}}
    options |= {"content": json.dumps(body), "timeout": timeout}
    url = url.rstrip("/")
    if not fn.queue:
        return CLIENT.post(f"{url}/gradio_api/run/predict", **options).text
    joined = CLIENT.post(f"{url}/gradio_api/queue/join", **options)
    if "event_id" not in joined.text:
        return joined.text
    event = joined.json()["event_id"]
    where = f"{url}/gradio_api/queue/data"
    with CLIENT.stream(
        "GET", where, params={"session_hash": session}, headers=headers or {}, timeout=timeout
    ) as stream:
        said = ""
        for message in messages(stream):
            said += json.dumps(message) if message.get("event_id") == event else ""
            if message.get("msg") == "process_completed" and message.get("event_id") == event:
                return said
    raise AssertionError(f"{fn.api_name} gave no answer")


def messages(stream):
    """What a stream of events says, taken apart as a browser does it: a value may hold U+0085 or U+2028, at
    which httpx's iter_lines cuts too."""
    rest = ""
    for text in stream.iter_text():
        *lines, rest = (rest + text).split("\n")
        yield from (json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))
