"""Who may do what: one rule for everything that writes on this machine, deletes, downloads, publishes or
looks into folders.

Whoever sits at the machine that serves the page may do all of it; everybody else may look, compare and
search, and stop or delete the searches that they began themselves. Handlers ask `require_local`; widgets of
the class "local-only" are not shown to anybody else.
"""

import os
from ipaddress import ip_address
from urllib.parse import urlsplit

import gradio as gr

from qsched.ui.errors import toast

CHOOSE_SOURCE = "choose where a backbone comes from"
DOWNLOAD = "start a download"
DELETE = "delete a search that somebody else began"
KEEP = "change the best known coefficients"
PUSH = "publish on the Hub"
PROXY_HEADERS = {"forwarded", "via", "x-real-ip"}
GUEST = (
    "<style>.local-only { display: none !important }</style>"
    '<p class="fine">Downloads, sources, best known coefficients, publishing and other visitors\' '
    "searches are for somebody at "
    "the machine that runs this page, while it is not shared.</p>"
)
"""What the page holds for everybody who is not known to be local."""


def is_local(request: gr.Request | None) -> bool:
    """Whether a visitor is known to sit at the machine that serves the page.

    Nobody is on a Space, while the page is shared, or behind a proxy: its requests come from this machine,
    whoever sent them. A page in the same browser that belongs to another site is not local either. A proxy
    that names itself in no header cannot be recognized; behind one, set GRADIO_ROOT_PATH to the address at
    which visitors reach it.
    """
    page = request.app.get_blocks() if hasattr(request, "app") else None
    if page is None or page.share or page.root_path or os.environ.get("SPACE_ID") or request.client is None:
        return False
    headers = {name.lower(): value for name, value in dict(request.headers).items()}
    if any(name in PROXY_HEADERS or name.startswith("x-forwarded") for name in headers):
        return False
    places = [f"//{headers.get('host', '')}", headers.get("origin", "//localhost")]
    return is_loopback(request.client.host) and all(
        is_loopback(urlsplit(place).hostname or "") for place in places
    )


def require_local(request: gr.Request | None, what: str) -> None:
    """Stop an event with a sentence unless the visitor is local;

    what: a verb and its object, such as DOWNLOAD.
    """
    if not is_local(request):
        toast(f"Only somebody at the machine that runs this page may {what}, and not while it is shared.")


def furnish(request: gr.Request) -> str:
    """What hides the widgets that a visitor may not use."""
    return "" if is_local(request) else GUEST


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine itself."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
