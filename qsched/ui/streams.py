"""Answers that come while a stream of them ends.

Gradio closes a session's stream as soon as nothing is asked for. A browser that hears of its next event's id
before it hears of that end takes the old stream for open, and waits in vain until it sends another event.
"""

import json
import time
from urllib.parse import parse_qs

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

AFTER_S = 0.15
CLOSE = b'"msg":"close_stream"'


class OrderedStreams:
    """ASGI middleware that confirms no event until AFTER_S after the end of its session's stream."""

    def __init__(self, app: ASGIApp):
        self.app = app
        self._ended: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or not scope["path"].endswith(("/queue/data", "/queue/join")):
            return await self.app(scope, receive, send)
        query, body = parse_qs(scope["query_string"].decode()), b""

        async def collect() -> Message:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            return message

        async def ends(message: Message) -> None:
            if CLOSE in message.get("body", b""):
                now = time.monotonic()
                self._ended = {s: then for s, then in self._ended.items() if then > now - AFTER_S}
                self._ended[query.get("session_hash", [""])[0]] = now
            await send(message)

        async def confirms(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                ended = self._ended.get(json.loads(body).get("session_hash"), 0.0)
                await anyio.sleep(max(0.0, ended + AFTER_S - time.monotonic()))
            await send(message)

        if scope["path"].endswith("/queue/data"):
            await self.app(scope, receive, ends)
        else:
            await self.app(scope, collect, confirms)
