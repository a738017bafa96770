"""What a link to the page shows elsewhere: title, sentence and image in its head, in place of those that
gradio writes there.
"""

import re
from html import escape
from pathlib import Path

from gradio.route_utils import get_root_url
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HERE = Path(__file__).parent
FAVICON, IMAGE = HERE / "favicon.png", HERE / "preview.jpg"
ADDRESS = "/preview.jpg"
TITLE = "Q-Sched"
SENTENCE = (
    "Quantized few-step diffusion, repaired by rescaling its sampling trajectory: drag two "
    "coefficients and watch."
)
_THEIRS = re.compile(rb'\s*<meta\s+(?:property|name)="(?:og|twitter):[^>]*/>')


def tags(root: str) -> str:
    """The meta elements for a page whose address is `root`."""
    facts = {"title": TITLE, "description": SENTENCE, "image": root + ADDRESS}
    more = {"og:type": "website", "og:url": root, "og:image:alt": f"Three images on the {TITLE} page"}
    more["twitter:card"] = "summary_large_image"
    named = {f"{kind}:{name}": text for kind in ("og", "twitter") for name, text in facts.items()} | more
    lines = [f'<meta {_key(name)}="{name}" content="{escape(text)}" />' for name, text in named.items()]
    return "\n".join([*lines, '<link rel="icon" type="image/png" href="favicon.ico" />'])


def _key(name: str) -> str:
    return "property" if name.startswith("og:") else "name"


class LinkPreview:
    """ASGI middleware that answers for the image and rewrites the head of the page itself; all else passes
    through.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] not in ("/", ADDRESS):
            return await self.app(scope, receive, send)
        if scope["path"] == ADDRESS:
            return await FileResponse(IMAGE)(scope, receive, send)
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        await self.app(scope, receive, collect)
        start, body = messages[0], b"".join(message.get("body", b"") for message in messages[1:])
        if body:
            root = get_root_url(Request(scope), "/", scope.get("root_path"))
            before, *after = _THEIRS.split(body)
            body = b"".join([before, tags(root).encode(), *after])
            MutableHeaders(raw=start["headers"])["content-length"] = str(len(body))
        await send(start)
        await send({"type": "http.response.body", "body": body})
