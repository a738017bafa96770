"""The Search tab's pieces of HTML: progress, cost, coefficients, facts of a saved search.

Text from outside is escaped.
"""

import shlex
from html import escape

from qsched.presets import Preset
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.search.options import SearchOptions
from qsched.search.run import Plan
from qsched.search.saved import SavedSearch
from qsched.server.engine import named
from qsched.server.known import SOURCE
from qsched.server.search_runner import Frame
from qsched.settings import METHOD
from qsched.ui.errors import without_paths
from qsched.ui.fragments import signed
from qsched.words import images_in_words, steps_in_words

IDLE = (
    '<div class="progress" data-state="idle"><p><b>No search running.</b><span>Choose what to search '
    "and press Start.</span></p></div>"
)
NOTHING = (
    '<div class="no-surface"><p>A search fills this surface point by point, and a saved one shows it '
    "at once.</p></div>"
)
STATES = {
    "loading": "Getting ready",
    "running": "Searching",
    "stopping": "Stopping",
    "stopped": "Stopped, Start goes on",
    "done": "Finished",
    "failed": "Failed, what is done is kept",
}


def progress(frame: Frame, state: str) -> str:
    """A bar, points done, images, rate and time left."""
    told = [f"{frame.done:,} of {frame.total:,} points"]
    if frame.images:
        told.append(f"{frame.images:,} images")
    if frame.rate:
        told.append(f"{frame.rate:.1f} images/s")
    if state in ("loading", "running", "stopping"):
        told.append(f"{clock(frame.seconds)} so far")
    elif frame.images:
        told.append(f"in {clock(frame.seconds)}")
    if state == "running":
        told.append(
            "time left not known yet" if frame.remaining is None else f"{clock(frame.remaining)} left"
        )
    spans = "".join(f"<span>{text}</span>" for text in told[1:])
    return (
        f'<div class="progress" data-state="{state}" data-done="{frame.done}" data-total="{frame.total}">'
        f'<p><b>{STATES[state]}</b><b class="points">{told[0]}</b>{spans}</p>'
        f'<div role="progressbar" aria-label="Points" aria-valuemin="0" '
        f'aria-valuemax="{frame.total}" aria-valuenow="{frame.done}">'
        f'<i style="width:{100 * frame.fraction:.2f}%"></i></div></div>'
    )


def clock(seconds: float) -> str:
    """Seconds, minutes and seconds, or hours."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    seconds_rounded = round(seconds)
    hours, minutes = seconds_rounded // 3600, seconds_rounded % 3600 // 60
    return (
        f"{hours}:{minutes:02}:{seconds_rounded % 60:02}" if hours else f"{minutes}:{seconds_rounded % 60:02}"
    )


def plan(found: Plan, options: SearchOptions) -> str:
    """What a search costs."""
    stored = f" ({found.stored:,} of them stored)" if found.stored else ""
    per = images_in_words(len(options.prompts), options.seeds)
    time = (
        f"about {clock(found.seconds)} at the measured {found.images_per_second:.1f} images/s"
        if found.images_per_second
        else "time not measured yet"
    )
    return (
        f'<p class="plan"><b>{found.points:,} points</b>{stored} on {per}: <b>{found.images:,} images</b>, '
        f"{found.calls:,} denoiser calls, <b>{time}</b>.</p>"
    )


def wrong(sentence: str) -> str:
    """Why these settings cannot be run."""
    return f'<p class="note" role="status">{escape(sentence)}</p>'


def coefficients(chosen: Coefficients) -> str:
    """Both coefficients as the page writes them."""
    return ", ".join(
        f"c<sub>{symbol}</sub> {_steps(getattr(chosen, name))}"
        for symbol, name in (("x", "c_x"), ("ε", "c_eps"))
    )


def best(chosen: Coefficients, jaq: float | None, plain: float | None, title: str) -> str:
    """The coefficients to take, with their JAQ and how far the plain scheduler's lies below."""
    if jaq is None:
        told = "no score"
    else:
        told = f"JAQ <b>{jaq:.3f}</b>" + (f", {signed(jaq - plain)} to plain" if plain is not None else "")
    return f'<h3>{title}</h3><p class="found"><b>{coefficients(chosen)}</b></p><p class="fine">{told}</p>'


def label(search: SavedSearch) -> str:
    """A saved search in one line of plain text."""
    options = search.options
    score = "no score" if search.best is None else f"JAQ {search.best[1]:.3f}"
    steps = steps_in_words(options.steps)
    return " · ".join(
        [f"{search.begun[:10]} {search.begun[11:16]}", without_paths(named(search.backbone, search.source)),
            options.quantization.bits.upper(), steps, options.strategy,
         f"{search.done}/{search.total} points", score]
    )  # fmt: skip


def facts(search: SavedSearch, preset: Preset, k: float) -> str:
    """What a saved search was, and what its numbers mean."""
    options, found = search.options, preset.provenance
    plain = preset.surface.summary(options.k)["plain"]
    prompts = images_in_words(len(options.prompts), options.seeds)
    low, high = options.c_range
    scorer = found["scorer"]
    other = "" if k == options.k else f" It was searched at k = {options.k:g}; the colours are at k = {k:g}."
    return (
        f"{best(preset.coefficients, found['best']['jaq'], plain, escape(label(search)))}"
        f'<p class="fine">{prompts}, {low:g} to {high:g} in {options.resolution} values, '
        f"{options.shape}{', tiny decoder' * options.tiny_decoder}. "
        f"{escape(preset.formula.replace(' * ', ' · '))} with k = {options.k:g}, scored by "
        f"<b>{escape(scorer['name'])}</b>: "
        f"{escape(scorer['definition'])}.{other}</p>"
    )


def command(backbone: str, options: SearchOptions) -> str:
    """The command line that runs this search elsewhere."""
    low, high = options.c_range
    backbone, _, source = backbone.partition(SOURCE)
    method = options.quantization.method
    return (
        f"python -m qsched search --backbone {backbone} --bits {options.quantization.bits} --steps "
        f"{options.steps} "
        f"{f'--source {shlex.quote(source)} ' if source else ''}"
        f"{'' if method == 'plain' else f'--method {method} '}{'--tiny-decoder ' if options.tiny_decoder else ''}"  # noqa: E501
        f"--strategy {options.strategy} --grid {options.resolution} --range {low:g} {high:g} --out "
        f"preset.json"
    )


def elsewhere(why: str, backbone: str, options: SearchOptions) -> str:
    """Why no search can run here, and the command that runs it somewhere else."""
    return (
        f'<div class="no-surface"><p>{escape(why)}</p><code>{escape(command(backbone, options))}</code></div>'
    )


def quantizer(chosen: Quantization) -> str:
    """The quantizer's options where they are not the usual ones: they are set in Compare."""
    words = {
        "method": METHOD.choices[chosen.method],
        "group_size": f"one scale per {chosen.group_size} weights",
        "activation_scale": "one activation scale per tensor",
        "scope": "linear layers only",
        "keep_high_precision": "no layer kept in high precision",
    }
    usual = Quantization(chosen.bits)
    other = [text for name, text in words.items() if getattr(chosen, name) != getattr(usual, name)]
    return f'<p class="fine">As in Compare: {escape(", ".join(other))}.</p>' if other else ""


def side_by_side(count: int, comparable: bool) -> str:
    """The heading above saved searches, and whether their colours mean the same."""
    if count == 1:
        return "<h3>Saved search</h3>"
    told = (
        "Both surfaces have the same colours for the same JAQ."
        if comparable
        else (
            "They were scored by different scorers: each has colours of its own, and their JAQ cannot "
            "be compared."
        )
    )
    return f'<h3>Side by side</h3><p class="fine">{told}</p>'


def to_delete(found: list[SavedSearch]) -> str:
    """The question before saved searches are removed."""
    points = sum(search.done for search in found)
    what = "this search" if len(found) == 1 else f"these {len(found)} searches"
    names = "".join(f'<p class="fine">{escape(label(search))}</p>' for search in found)
    return f'{names}<p role="status">Delete {what} with {points:,} finished points?</p>'


def replacing(name: str, date: str) -> str:
    """The question before a preset is replaced."""
    when = f" (searched on {escape(date)})" if date else ""
    return f'<p role="status">Compare has a preset {escape(name)} already{when}. Replace it?</p>'


def good(sentence: str) -> str:
    """Something that was done."""
    return f'<p class="fine" role="status">{escape(sentence)}</p>'


def pushed(url: str, files: tuple[str, ...], dry_run: bool) -> str:
    """Where a scheduler is, or would be, on the Hub."""
    verb = "would be" if dry_run else "are"
    names = ", ".join(f"<code>{escape(name)}</code>" for name in files)
    return f'<p class="fine" role="status">{names} {verb} published at <b>{escape(url)}</b>.</p>'


def _steps(value: float | tuple[float, ...]) -> str:
    if isinstance(value, tuple) and len(value) == 2:
        return f"{value[0]:.4g} → {value[1]:.4g}"
    return " ".join(f"{number:.4g}" for number in value) if isinstance(value, tuple) else f"{value:.4g}"
