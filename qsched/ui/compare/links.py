"""Deep links: settings out of the address, settings into it; and the page's few lines of JavaScript."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from qsched import settings as table
from qsched.comparison.given import checked, named_settings, settings_of
from qsched.comparison.result import Settings
from qsched.hub.fetch import check_names
from qsched.hub.source import BackboneError, Source, pinned
from qsched.models.registry import SPECS
from qsched.sampling.coefficients import Coefficients
from qsched.server.engine import Engine, named
from qsched.server.known import SOURCE as SEPARATOR
from qsched.server.sessions import Session
from qsched.ui import values
from qsched.words import steps_in_words

READ_DARK = "(dark, left, right) => [document.body.classList.contains('dark'), left, right]"
ROLL = "() => Math.floor(Math.random() * 2 ** 31)"
BUSY = "(...settings) => { window.qsched?.busy(); return settings }"
MARK = "(...point) => { window.qsched?.mark(...point) }"
REST = "() => { window.qsched?.rest() }"
COPY = "() => { window.qsched?.share() }"
PLAY = "() => { window.qsched?.play() }"
TO_SEARCH = "() => { document.querySelector('#tabs [role=tab]:nth-of-type(2)')?.click() }"
TOGGLE_DARK = "() => window.qsched.toggleDark()"


def copy_code(code: str, button: str) -> str:
    """JavaScript that copies the code in an element, and says so on a button; both are selectors."""
    return f"() => {{ window.qsched?.copy(document.querySelector('{code} code').textContent, '{button}') }}"


@dataclass(frozen=True)
class Link:
    """What a deep link asks for: values by the names of settings; notes: what of it was not understood."""

    given: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_link(
    query: Mapping[str, str], default: str = table.BACKBONE.default, *, sources: bool = True
) -> Link:
    """Query parameters to a Link; whatever is not understood is left out and named in `notes`.

    Args:
        default: id of the backbone where the link names none.
        sources: whether it may say where the backbone comes from.
    """
    given, notes = {}, []
    for setting in table.IN_EVERY_LINK + table.IN_SOME_LINKS:
        text = query.get(setting.in_link)
        if not text:
            continue
        if setting is table.SOURCE and not sources:
            notes.append(
                "The link's source is ignored: only somebody at the machine that runs this page "
                "may choose one."
            )
            continue
        try:
            given[setting.name] = _source(text) if setting is table.SOURCE else setting.read(text)
        except (ValueError, KeyError, BackboneError):
            notes.append(f"The link's {setting.in_link} was not understood and is ignored.")
    spec = SPECS[given.get("backbone", default)]
    if given.get("steps", spec.default_steps) not in spec.steps:
        notes.append(
            f"{spec.title} does not run in {given.pop('steps')} steps: the link's step count is ignored."
        )
    return Link(given, tuple(notes))


def _source(text: str) -> str:
    text = text.strip()
    if not Path(text).expanduser().is_dir():
        repo, revision = pinned(text)
        check_names(Source(repo, revision=revision))
    return text


def resolve(engine: Engine, link: Link) -> tuple[str, Settings, Coefficients, str, float]:
    """(backbone, settings, coefficients, shape, k) of a link; what it leaves open is what a first visitor
    sees, or the best known.
    """
    given = dict(link.given)
    backbone = named(given.get("backbone", engine.default), given.get("source"))
    opening, _ = engine.opening(backbone)
    if not given.get("prompt", "").strip():
        given["prompt"] = opening.prompt
    if given.get("steps") not in engine.spec(backbone).steps:
        given["steps"] = opening.steps
    settings, k = settings_of(named_settings(opening) | given), checked(table.K, given)
    coefficients = _linked(given, settings.steps) or engine.start(backbone, settings, k)
    shape = given.get("shape", coefficients.shape) if "c_x" in given else coefficients.shape
    return backbone, settings, coefficients, shape, k


def _linked(given: Mapping[str, Any], steps: int) -> Coefficients | None:
    if "c_x" not in given and "c_eps" not in given:
        return None
    rows = [list(given.get(name, (1.0,))) for name in ("c_x", "c_eps")]
    shape = given.get("shape") or {1: "constant", 2: "ends"}.get(max(map(len, rows)), "per-step")
    return values.coefficients_from(
        shape, *[row + [row[-1]] * (table.MOST_STEPS - len(row)) for row in rows], steps
    )


def followed(engine: Engine, held: Session | None, backbone: str, settings: Settings) -> Coefficients | None:
    """Where the coefficients begin for other settings (bit-width, method, steps, backbone), for someone who
    stood where they began for the old ones; None for everybody else."""
    if held is None:
        return None
    old = held.comparison.settings
    if (held.backbone, old.quantization, old.steps) == (backbone, settings.quantization, settings.steps):
        return None
    if engine.start(held.backbone, old, held.k) != held.comparison.coefficients:
        return None
    return engine.start(backbone, settings, held.k)


def nothing_known(settings: Settings) -> str:
    """What the page says where there are no best known coefficients."""
    q, steps = settings.quantization, steps_in_words(settings.steps)
    how = q.bits.upper() + (
        "" if q.method == table.METHOD.default else f" by {table.METHOD.choices[q.method]}"
    )
    return f"No best coefficients are known for {how} at {steps} with these settings: they start at 1."


def address(held: Session) -> str:
    """The query of a link to what a session shows; what only an expert changes stands in it only where it was
    changed.
    """
    comparison, (backbone, _, source) = held.comparison, held.backbone.partition(SEPARATOR)
    steps, shape = comparison.settings.steps, comparison.coefficients.shape
    used = sum(values.visible_sliders(shape, steps))
    c_x, c_eps = (row[:used] for row in values.sliders_from(comparison.coefficients, steps, shape))
    now = named_settings(comparison.settings) | {"backbone": backbone, "source": source, "shape": shape}
    now |= {"c_x": c_x, "c_eps": c_eps, "k": held.k}
    changed = [setting for setting in table.IN_SOME_LINKS if now[setting.name] != setting.default]
    return urlencode({s.in_link: s.write(now[s.name]) for s in [*table.IN_EVERY_LINK, *changed]})


def stamp(held: Session, final: bool = False) -> str:
    """What every answer carries: which state of the session it shows, and the link to it.

    final: the page takes it as the newest, whatever it has seen.
    """
    mark = " data-final" if final else ""
    return (
        f'<i hidden data-version="{held.version}" data-link="{escape(address(held), quote=True)}"{mark}></i>'
    )
