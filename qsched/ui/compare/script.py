"""The complete script that makes what a session shows, to copy."""

from html import escape

from qsched.export.usage import script
from qsched.server.engine import Engine
from qsched.server.known import SOURCE


def script_of(engine: Engine, session: str) -> str:
    """A Python script for a session's Q-Sched image; before the first one, for the opening image."""
    held = engine.session(session)
    backbone = held.backbone if held else engine.default
    shown = (held.comparison.settings, held.comparison.coefficients) if held else engine.opening()
    twin = f"QSched{type(engine.scheduler(backbone)).__name__}"
    id, _, source = backbone.partition(SOURCE)
    return script(id, *shown, twin, source or engine.spec(backbone).chosen)


def script_shown(engine: Engine, session: str) -> str:
    """The same for the page."""
    return f"<pre><code>{escape(script_of(engine, session))}</code></pre>"
