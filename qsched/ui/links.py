"""Deep links: settings out of the address, settings into it; and the page's few lines of JavaScript."""

from qsched.coefficients import Coefficients
from qsched.comparison import Settings
from qsched.scoring import K_DEFAULT
from qsched.ui import values
from qsched.ui.engine import Engine, Session, named

READ_DARK = "(dark, left, right) => [document.body.classList.contains('dark'), left, right]"
ROLL = "() => Math.floor(Math.random() * 2 ** 31)"
BUSY = "(...settings) => { document.body.classList.add('busy'); return settings }"
IDLE = """() => {
  document.body.classList.remove('busy');
  document.querySelectorAll('.toast-close.info').forEach((button) => button.click()); // the work it announced is done
}"""
MARK = "(...point) => { window.qsched?.mark(...point) }"
COPY = "(...settings) => { window.qsched?.share(...settings) }"
COPY_SNIPPET = "() => { window.qsched?.copy(document.querySelector('#snippet code').textContent, '#copy-snippet') }"
TOGGLE_DARK = "() => window.qsched.toggleDark()"


def resolve(engine: Engine, link: values.Link) -> tuple[str, Settings, Coefficients, str, float]:
    """(backbone, settings, coefficients, shape, k) of a link; what it leaves open is what a first visitor sees, or the best known."""
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
    coefficients = _linked(link, settings.steps) or engine.best_known(backbone, settings, k) or Coefficients.identity()
    return backbone, settings, coefficients, link.shape if link.c_x and link.shape else coefficients.shape, k


def _linked(link: values.Link, steps: int) -> Coefficients | None:
    if not link.c_x and not link.c_eps:
        return None
    rows = [list(row or (1.0,)) for row in (link.c_x, link.c_eps)]
    shape = link.shape or {1: "constant", 2: "ends"}.get(max(map(len, rows)), "per-step")
    return values.coefficients_from(shape, *[row + [row[-1]] * (values.MOST_STEPS - len(row)) for row in rows], steps)


def followed(engine: Engine, held: Session | None, backbone: str, settings: Settings) -> Coefficients | None:
    """The new best known coefficients, for someone who stood at the old ones and changed the bit-width, the steps or the backbone."""
    if held is None:
        return None
    old = held.comparison.settings
    if (held.backbone, old.quantization, old.steps) == (backbone, settings.quantization, settings.steps):
        return None
    if engine.best_known(held.backbone, old, held.k) != held.comparison.coefficients:
        return None
    return engine.best_known(backbone, settings, held.k)
