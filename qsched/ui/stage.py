"""What a talk adds to the page: a code for the phones of the audience, and the coefficients that the tour
goes to.
"""

import json
import re
import socket
from collections.abc import Mapping
from html import escape
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import psutil
import segno

from qsched.server.engine import Engine
from qsched.ui import values
from qsched.ui.compare.tab import CompareTab
from qsched.ui.events import HIDDEN
from qsched.ui.visitors import is_loopback

ALONE = "A phone cannot reach this page: it listens on this machine only. Start it with --host 0.0.0.0."
HOST = re.compile(r"([\w.-]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?")
NO_NETWORK = "A phone cannot reach this page: this machine has no network address."


def build_stage(page: Any, engine: Engine, compare: CompareTab) -> None:
    """Add what tour.js needs: the code, and a hidden widget that is kept at the best known coefficients.

    Args:
        page: the Blocks that are being built.
    """
    code = gr.HTML("", elem_id="tour-code", elem_classes="plain")
    goal = gr.HTML("", elem_id="tour-goal", elem_classes="plain")
    changes = [compare.results.captions[1].change, compare.results.surface.change]

    def invite(request: gr.Request) -> str:
        asked = asked_address(dict(request.headers), page.root_path or "")
        return code_card(*reachable(asked, page.server_name, page.share_url, lan_address()))

    def known(request: gr.Request) -> str:
        return best_known(engine, request.session_hash)

    page.load(invite, None, code, api_name="tour_code", **HIDDEN)
    gr.on(changes, known, None, goal, api_name="tour_goal", **HIDDEN)


def best_known(engine: Engine, session: str | None) -> str:
    """The best known coefficients of what a session shows, as the numbers of the sliders; "" without any."""
    held = engine.session(session)
    best = held and engine.best_known(held.backbone, held.comparison.settings, held.k)
    if not best:
        return ""
    steps = held.comparison.settings.steps
    used = sum(values.visible_sliders(best.shape, steps))
    c_x, c_eps = (row[:used] for row in values.sliders_from(best, steps, best.shape))
    return f"<i hidden data-best='{json.dumps({'shape': best.shape, 'c_x': c_x, 'c_eps': c_eps})}'></i>"


def asked_address(headers: Mapping[str, str], root_path: str = "") -> str:
    """The address that a page was asked from, by the headers of a request; a full root_path is the address
    itself.
    """
    if root_path.startswith("http"):
        return root_path.rstrip("/")
    given = {name.lower(): value.split(",")[0].strip() for name, value in headers.items()}
    host = given.get("x-forwarded-host") or given.get("host", "")
    if not HOST.fullmatch(host):
        host = ""
    scheme = given.get("x-forwarded-proto") or urlsplit(given.get("referer", "")).scheme or "http"
    return f"{scheme}://{host}{root_path.rstrip('/')}"


def reachable(asked: str, listens: str, share: str | None, lan: str | None) -> tuple[str | None, str]:
    """(address, reason): the address at which a phone reaches the page, or None and why there is none.

    Args:
        asked: where the page was asked from. listens: the address that the app listens on.
        share: its public link, if it has one. lan: this machine's address in its network, if it has one.
    """
    parts = urlsplit(asked)
    host = parts.hostname or ""
    if host and host != "0.0.0.0" and not is_loopback(host):
        return asked, ""
    if share:
        return share, ""
    if is_loopback(listens):
        return None, ALONE
    if lan is None:
        return None, NO_NETWORK
    return parts._replace(netloc=f"{lan}:{parts.port}" if parts.port else lan).geturl(), ""


def lan_address() -> str | None:
    """This machine's IPv4 address in its network, None without one: that of the default route, else of an
    interface that is up.
    """
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, but chooses the interface
            found.append(probe.getsockname()[0])
        except OSError:
            pass
    up = {name for name, facts in psutil.net_if_stats().items() if facts.isup}
    for name, addresses in psutil.net_if_addrs().items():
        found += [one.address for one in addresses if name in up and one.family == socket.AF_INET]
    return next((text for text in found if _is_network(text)), None)


def _is_network(text: str) -> bool:
    address = ip_address(text)
    return not (address.is_loopback or address.is_link_local or address.is_unspecified)


def code_card(address: str | None, reason: str = "") -> str:
    """The address as a QR code, black on white in any colour scheme, and as text; or the reason against."""
    if address is None:
        return f'<div class="no-code"><p>{escape(reason)}</p></div>'
    drawn = segno.make(address, error="m", micro=False).svg_inline(
        omitsize=True, border=4, dark="#000", light="#fff"
    )
    label = escape(f"QR code of {address}", quote=True)
    return f'<div role="img" aria-label="{label}">{drawn}<p>{escape(address)}</p></div>'
