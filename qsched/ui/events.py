"""How events of any tab are declared: what is hidden, what runs alone, how being busy ends."""

import gradio as gr

from qsched.server.engine import Engine

HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}
QUIET = HIDDEN | {"trigger_mode": "always_last"}
WAITING = 16
"""So many visitors can wait for a lent GPU at once."""
RECORD_LINK = (
    "() => { document.querySelector('#{0}')?.querySelector('a,button')?.click() ?? "
    "document.querySelector('#{0}')?.click() }"
)


def on_device(engine: Engine, waiting: gr.HTML | None = None) -> dict:
    """How an event that computes is declared: one at a time, but where a GPU is lent nobody waits for
    another's, and the engine puts in order what it computes itself.

    waiting: where gradio says the place in the queue; page.js puts it in words.
    """
    device = {"concurrency_id": "device", "concurrency_limit": WAITING if engine.lent else 1}
    return device | ({"show_progress": "minimal", "show_progress_on": waiting} if waiting else {})


def settle(event: gr.events.Dependency, name: str) -> None:
    """End the look of being busy;

    `then` runs no browser-only step after an error, so an error needs its own.
    """
    idle = {"fn": None, "inputs": None, "outputs": None, "js": "() => { window.qsched?.idle() }", **HIDDEN}
    event.success(api_name=f"idle{name}", **idle)
    event.failure(api_name=f"idle{name}_error", **idle)
