"""Deep links: settings out of the address, settings into it; and the page's few lines of JavaScript."""

from html import escape
from urllib.parse import urlencode

from qsched.comparison.comparison import Settings
from qsched.quantization import Quantization
from qsched.quantizers.methods import METHODS
from qsched.sampling.coefficients import Coefficients
from qsched.scoring import K_DEFAULT
from qsched.server.engine import SOURCE, Engine, Session, named
from qsched.ui import values

READ_DARK = "(dark, left, right) => [document.body.classList.contains('dark'), left, right]"
ROLL = "() => Math.floor(Math.random() * 2 ** 31)"
BUSY = "(...settings) => { document.body.classList.add('busy'); return settings }"
MARK = "(...point) => { window.qsched?.mark(...point) }"
COPY = "() => { window.qsched?.share() }"
TO_SEARCH = "() => { document.querySelector('#tabs [role=tab]:nth-of-type(2)')?.click() }"
COPY_SNIPPET = (
    "() => { window.qsched?.copy(document.querySelector('#snippet code').textContent, '#copy-snippet') }"
)
TOGGLE_DARK = "() => window.qsched.toggleDark()"


def resolve(engine: Engine, link: values.Link) -> tuple[str, Settings, Coefficients, str, float]:
    """(backbone, settings, coefficients, shape, k) of a link; what it leaves open is what a first visitor
    sees, or the best known.
    """
    backbone = named(link.backbone or engine.default, link.source)
    opening, _ = engine.opening(backbone)
    settings = Settings(
        link.prompt if link.prompt and link.prompt.strip() else opening.prompt,
        opening.seed if link.seed is None else link.seed,
        link.steps if link.steps in engine.spec(backbone).steps else opening.steps,
        link.quantization(opening.quantization.bits),
        link.decoder == values.DECODERS[1],
    )
    k = K_DEFAULT if link.k is None else link.k
    coefficients = _linked(link, settings.steps) or engine.start(backbone, settings, k)
    return backbone, settings, coefficients, link.shape if link.c_x and link.shape else coefficients.shape, k


def _linked(link: values.Link, steps: int) -> Coefficients | None:
    if not link.c_x and not link.c_eps:
        return None
    rows = [list(row or (1.0,)) for row in (link.c_x, link.c_eps)]
    shape = link.shape or {1: "constant", 2: "ends"}.get(max(map(len, rows)), "per-step")
    return values.coefficients_from(
        shape, *[row + [row[-1]] * (values.MOST_STEPS - len(row)) for row in rows], steps
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
    q, steps = settings.quantization, settings.steps
    how = q.bits.upper() + ("" if q.method == "plain" else f" by {METHODS[q.method].title}")
    count = "1 step" if steps == 1 else f"{steps} steps"
    return f"No best coefficients are known for {how} at {count} with these settings: they start at 1."


def address(held: Session) -> str:
    """The query of a link to what a session shows; what only an expert changes stands in it only where it was
    changed.
    """
    comparison, (backbone, _, source) = held.comparison, held.backbone.partition(SOURCE)
    settings, shape = comparison.settings, comparison.coefficients.shape
    q, usual = settings.quantization, Quantization(settings.quantization.bits)
    used = sum(values.visible_sliders(shape, settings.steps))
    rows = values.sliders_from(comparison.coefficients, settings.steps, shape)
    c_x, c_eps = (",".join(map(values.written, row[:used])) for row in rows)
    query = {"backbone": backbone, "bits": q.bits, "prompt": settings.prompt, "seed": settings.seed}
    query |= {"steps": settings.steps, "shape": shape, "c_x": c_x, "c_eps": c_eps, "k": f"{held.k:g}"}
    advanced = {
        "method": (q.method, usual.method),
        "group": (q.group_size or 0, 0),
        "scale": (q.activation_scale, usual.activation_scale),
        "scope": (q.scope, usual.scope),
        "keep": (int(q.keep_high_precision), 1),
        "source": (source, ""),
        "decoder": (values.DECODERS[settings.tiny_decoder], values.DECODERS[0]),
    }
    query |= {name: value for name, (value, default) in advanced.items() if value != default}
    return urlencode(query)


def stamp(held: Session, final: bool = False) -> str:
    """What every answer carries: which state of the session it shows, and the link to it.

    final: the page takes it as the newest, whatever it has seen.
    """
    mark = " data-final" if final else ""
    return (
        f'<i hidden data-version="{held.version}" data-link="{escape(address(held), quote=True)}"{mark}></i>'
    )
