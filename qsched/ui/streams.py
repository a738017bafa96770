"""Streams of answers that stay open for a moment.

Gradio closes a session's stream as soon as nothing is asked for. A browser that sends an event in that moment
takes the stream for open, and waits in vain for the answer until it sends another event.
"""

import asyncio
from urllib.parse import parse_qs

from gradio.queueing import Queue
from starlette.types import ASGIApp, Message, Receive, Scope, Send

GRACE_S = 5.0
CLOSE = b'"msg":"close_stream"'


class PatientStreams:
    """ASGI middleware under which a stream goes on where its session asks for more within GRACE_S."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or not scope["path"].endswith("/queue/data"):
            return await self.app(scope, receive, send)
        session = parse_qs(scope["query_string"].decode()).get("session_hash", [""])[0]
        started, end = False, []

        async def forward(message: Message) -> None:
            nonlocal started
            if end or CLOSE in message.get("body", b""):
                end.append(message)
            elif message["type"] != "http.response.start" or not started:
                started = True
                await send(message)

        await self.app(scope, receive, forward)
        while end and await asks_again(scope["app"].get_blocks()._queue, session, receive):
            end.clear()
            await self.app(scope, receive, forward)
        for message in end:
            await send(message)


async def asks_again(queue: Queue, session: str, receive: Receive) -> bool:
    """Wait for GRACE_S at most until a session asks for something; says whether it does and still listens."""
    clock = asyncio.get_running_loop().time
    until, gone = clock() + GRACE_S, asyncio.ensure_future(_disconnected(receive))
    try:
        while not queue.pending_event_ids_session.get(session):
            messages = queue.pending_messages_per_session.get(session)
            if messages is None or queue.stopped:
                return False
            first = asyncio.ensure_future(messages.get())
            await asyncio.wait({first, gone}, timeout=until - clock(), return_when=asyncio.FIRST_COMPLETED)
            if not first.done():
                first.cancel()
                return False
            if queue.pending_event_ids_session.get(session):  # else a heartbeat that came late
                rest = [messages.get_nowait() for _ in range(messages.qsize())]
                for message in (first.result(), *rest):  # in their order, for the stream
                    messages.put_nowait(message)
        await asyncio.sleep(0)
        return not gone.done()
    finally:
        gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
