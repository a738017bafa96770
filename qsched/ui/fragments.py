"""Small pieces of HTML: captions, the score table, badges, sentences. Text from outside is always escaped."""

import math
import shlex
from html import escape
from typing import Any

from qsched.comparison.facts import Facts, ScorerFacts
from qsched.comparison.result import FULL_PRECISION, NAIVE, QSCHED, Column, Comparison, outcome_of
from qsched.presets import Preset, preset_name
from qsched.sampling.coefficients import Coefficients
from qsched.scoring import K_DEFAULT, QUALITY
from qsched.scoring.signatures import Badge
from qsched.search.options import DESCENTS
from qsched.surfaces.stability import too_few
from qsched.words import size, steps_in_words

KEYS = {FULL_PRECISION: "full-precision", NAIVE: "naive", QSCHED: "qsched"}
TITLES = {FULL_PRECISION: "Full precision", NAIVE: "Naive", QSCHED: "Q-Sched"}
SUBTITLES = {
    FULL_PRECISION: "the model as trained",
    NAIVE: "quantized, plain scheduler",
    QSCHED: "quantized, rescaled trajectory",
}
METRICS = (
    ("CLIPScore", "Alignment of image and prompt, 0 to 100; higher is better."),
    ("CLIP-IQA", "Quality of the image by itself, 0 to 1; higher is better."),
    ("JAQ", "Both joined, with k = {k}; higher is better. The coefficients are searched for this number."),
    ("Δ JAQ", "Difference of JAQ to full precision; 0 is no loss."),
    ("SSIM", "Structural similarity to full precision; 1 is the same image."),
    ("PSNR", "Pixel similarity to full precision in decibels; higher is closer."),
    ("LPIPS", "Perceptual distance to full precision; 0 is the same image."),
    ("Failures", "Signatures of a broken image, each with its measured value."),
)
NONE = '<em aria-label="none">–</em>'
PREFERENCE = "How well people would like the image for its prompt, 0 to 1; higher is better."
ABOUT_SCORES = "These judge one image. The surface below judges its preset's prompts together."


LATENCY = (
    "All steps and the decode, measured on this device. A first run also prepares kernels and memory; "
    "another prompt or seed is measured without."
)


def column_title(name: str) -> str:
    """The heading above an image."""
    return (
        f'<div class="column-title '
        f'{KEYS[name]}"><i></i><b>{TITLES[name]}</b><span>{SUBTITLES[name]}</span></div>'
    )


def caption(column: Column) -> str:
    """Stored size, ratio and latency under an image."""
    first = " first run" if column.first_run else ""
    ratio = "fp16 size" if column.name == FULL_PRECISION else f"{column.ratio:.1f}× smaller"
    return (
        f'<div class="caption"><b title="The denoiser\'s weights as stored">{size(column.stored_bytes)}</b>'
        f'<span>{ratio}</span><span class="latency" '
        f'title="{LATENCY}">{latency(column.latency_s)}{first}</span></div>'
    )


DRAFT = (
    '<div class="caption" data-draft><span>Draft by the tiny decoder: stop to see the image and its '
    "scores.</span></div>"
)


def not_asked(coefficients: Coefficients) -> str:
    """Under the last image while a hand moves: these coefficients would ask for a lent GPU. The page asks
    when the hand lets go.
    """
    at = f"c_x {coefficients.c_x}, c_eps {coefficients.c_eps}"
    return (
        f'<div class="caption" data-draft="lent" title="{at}"><span>Let go to ask for the GPU.</span></div>'
    )


def latency(seconds: float) -> str:
    """Seconds as a short text with a unit."""
    return f"{1000 * seconds:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"


TONES = {"better": "good", "no difference": "fair", "worse": "bad"}
"""Style classes by outcome."""


def verdict(comparison: Comparison, k: float, preset: Preset | None) -> str:
    """Whether Q-Sched is better than naive quantization, on this image and on prompts that the search of the
    preset never saw, in words.
    """
    column, naive = comparison.qsched, comparison.naive
    difference = column.jaq_difference(naive, k)
    if difference is None:
        return ""
    text = (
        f"{_judged(outcome_of(difference), 'naive')} on this prompt: "
        f"<b>{signed(difference)} JAQ</b> at the same {size(column.stored_bytes)}, without training."
    )
    if comparison.coefficients.is_identity:
        text = "c<sub>x</sub> = c<sub>ε</sub> = 1 is the plain scheduler: the same image as naive."
    held = preset.held_out if preset else None
    if held and held["k"] == k:
        found, columns = held["differences"]["Q-Sched - naive"]["jaq"], held["columns"]
        lost = columns["full precision"]["jaq"]["mean"] - columns["naive"]["jaq"]["mean"]
        sure = "better" if found["low"] > 0 else "worse" if found["high"] < 0 else "no difference"
        whose = "" if comparison.coefficients == preset.best(k) else ", the best known coefficients"
        share = f", {100 * found['mean'] / lost:.0f} % of the damage" if lost > 0 and sure == "better" else ""
        text += (
            f" {_judged(sure)} on {len(held['prompts'])} held-out prompts{whose}: "
            f"<b>{signed(found['mean'])}</b> [{signed(found['low'])}, {signed(found['high'])}]{share}."
        )
    return f'<p class="verdict" role="status">{text}</p>'


def judged_tone(difference: float) -> str:
    """Style class of a difference of one image's JAQ to naive."""
    return TONES[outcome_of(difference)]


def _judged(outcome: str, other: str = "") -> str:
    link = "from" if outcome == "no difference" else "than"
    return f'<b class="{TONES[outcome]}">{outcome.capitalize()}</b>' + (f" {link} {other}" if other else "")


def scores(comparison: Comparison, k: float = K_DEFAULT) -> str:
    """The score table: a row per image on a wide page, a column per image on a phone.

    LPIPS only where there is one.
    """
    lpips = any(column.lpips is not None for column in comparison.columns)
    metrics = {name: why for name, why in METRICS if lpips or name != "LPIPS"}
    quality = comparison.facts.scorer.quality
    if quality != QUALITY:
        metrics = {quality if name == QUALITY else name: why for name, why in metrics.items()}
        metrics[quality] = PREFERENCE
    head = "".join(
        f'<span role="columnheader" title="{escape(why.format(k=f"{k:g}"))}">{escape(name)}</span>'
        for name, why in metrics.items()
    )
    rows = "".join(_row(column, comparison.full_precision, k, lpips) for column in comparison.columns)
    style = "scores with-lpips" if lpips else "scores"
    return (
        f'<div class="{style}" role="table" aria-label="Scores"><div role="row" class="head"><span '
        f'role="columnheader"></span>{head}</div>{rows}</div>'
    )


def _row(column: Column, reference: Column, k: float, lpips: bool) -> str:
    same = column.name == FULL_PRECISION
    difference = column.jaq_difference(reference, k)
    psnr = "∞" if math.isinf(column.psnr) or column.psnr >= 99.5 else f"{column.psnr:.1f} dB"
    shown = lambda value, form: NONE if value is None else form.format(value)
    cells = [
        shown(column.alignment, "{:.2f}"),
        shown(column.quality, "{:.3f}"),
        shown(column.jaq(k), "<b>{:.3f}</b>"),
        NONE if same or difference is None else f'<b class="{_tone(difference)}">{signed(difference)}</b>',
        NONE if same else f"{column.ssim:.3f}",
        NONE if same else psnr,
        *([NONE if same else shown(column.lpips, "{:.3f}")] if lpips else ()),
        "".join(map(badge, column.badges)) or '<em class="clean">none seen</em>',
    ]
    name = f'<span role="rowheader" class="name {KEYS[column.name]}"><i></i>{TITLES[column.name]}</span>'
    return (
        f'<div role="row" data-column="{KEYS[column.name]}">{name}'
        + "".join(f'<span role="cell">{cell}</span>' for cell in cells)
        + "</div>"
    )


def signed(value: float) -> str:
    """A number with its sign, three decimals and a true minus."""
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text.replace("-", "−")


def _tone(difference: float) -> str:
    return "good" if difference >= -0.02 else "bad" if difference < -0.1 else "fair"


def badge(found: Badge) -> str:
    """A coloured chip; its explanation shows on hover and on keyboard focus."""
    why = f"{found.explanation} Measured {found.value:.3g}, limit {found.threshold:.3g}."
    return f'<span class="chip" tabindex="0" data-why="{escape(why)}" aria-label="{escape(f"{found.name}: {why}")}">{escape(found.name)}</span>'  # noqa: E501


def lent(image_s: int, drag_s: int, points: int) -> str:
    """What a call of a GPU that is lent costs."""
    return (
        f"This Space lends a GPU for each call: an image asks for {image_s} s of your minutes of the day, "
        f"new coefficients for {drag_s} s, which compute the {points} nearest points at once."
    )


def definition(scorer: ScorerFacts, k: float = K_DEFAULT) -> str:
    """What JAQ is and who scored, to stand beside the numbers."""
    formula = escape(scorer.jaq.replace(" * ", " · "))
    if scorer.name is None:
        return f'<p class="fine"><b>{formula}</b> with k = {k:g}; nobody has scored these images.</p>'
    return (
        f'<p class="fine"><b>{formula}</b> with k = {k:g}, scored by <b>{escape(scorer.name)}</b>: '
        f"{escape(scorer.definition)}. {ABOUT_SCORES}</p>"
    )


def stability(found: dict[str, Any], different: str = "") -> str:
    """How sure the surface's optimum is, from Surface.stability: one line, its method on hover."""
    k, gain = f"{found['k']:g}", found["gain"]
    if found["wins"] is None:
        return f'<p class="fine">k = {k}. {too_few(found)}</p>'
    c_x, c_eps = (_range(*found["region"][name]) for name in ("c_x", "c_eps"))
    text = (
        f"At k = {k} the <b>best cell wins in {100 * found['wins']:.0f} % of resamples</b>; 95 % region: "
        f"c<sub>x</sub> {c_x}, c<sub>ε</sub> {c_eps}."
    )
    if gain is not None:
        verdict = "different from plain" if gain["different"] else "<b>not</b> different from plain"
        text += (
            f" Its gain over plain is {signed(gain['mean'])} [{signed(gain['low'])}, "
            f"{signed(gain['high'])}], {verdict}; "
            f"{signed(found['gain_out_of_bag'])} is left on prompts that did not choose it."
        )
    why = f"{found['method']}. {different}".strip()
    return f'<p class="fine" title="{escape(why)}">{text}</p>'


def beyond(preset: Preset, k: float) -> str:
    """How the coefficients of a search beyond pairs compare with the surface that it started from;

    "" for other presets.
    """
    if preset.provenance.get("strategy") not in DESCENTS or preset.best(k).shape == preset.shape:
        return ""
    several = "two ends of a line" if preset.best(k).shape == "ends" else "one pair per step"
    own, best = preset.provenance["best"]["jaq"], preset.surface.best(k)[2]
    return (
        f'<p class="fine"><b>Best known</b> is no point of this map but {several}: JAQ {own:.3f} on the same '
        f"images, {signed(own - best)} to the best cell.</p>"
    )


def _range(low: float, high: float) -> str:
    return f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"


def device_note(facts: Facts, quick_s: float | None) -> str:
    """What the device is, and what is real or simulated on it; quick_s: what is typed is drawn at once, as
    long as an answer takes no more seconds."""
    arithmetic = facts.arithmetic[:1].upper() + facts.arithmetic[1:]
    quick = f' data-quick="{1000 * quick_s:.0f}"' if quick_s is not None else ""
    return f'<p class="fine device"{quick}><b>{escape(facts.device_name)}</b><br>{escape(arithmetic)}.</p>'


def notes(lines: tuple[str, ...]) -> str:
    """Remarks about the images, such as a prompt that was cut."""
    return "".join(f'<p class="note" role="status">{escape(line)}</p>' for line in lines)


def no_surface(backbone: str, bits: str, steps: int, reason: str = "", method: str = "plain") -> str:
    """How to make the preset that is missing."""
    why = reason or (
        f"There is no preset for {bits.upper()} at {steps_in_words(steps)} "
        f"with these settings yet, so no surface and no best known coefficients."
    )
    return (
        f'<div class="no-surface"><p>{escape(why)}</p><p>Make one '
        f"with</p><code>{escape(search_command(backbone, bits, steps, method))}</code></div>"
    )


def published(preset: Preset) -> str:
    """What the best known coefficients are where they were not measured here, and how to measure."""
    rows = ", ".join(
        f"{name} {' → '.join(f'{number:g}' for number in (value if isinstance(value, list) else [value]))}"
        for name, value in preset.coefficients.to_dict().items()
    )
    command = search_command(preset.backbone, preset.bits, preset.steps, preset.method)
    return (
        f'<div class="no-surface published"><p>Best known for {preset.bits.upper()} at '
        f"{steps_in_words(preset.steps)}: {escape(rows)}. "
        f"<b>{escape(preset.mark or '')}</b></p><p>No surface: run a "
        f"search.</p><code>{escape(command)}</code></div>"
    )


def search_command(backbone: str, bits: str, steps: int, method: str = "plain") -> str:
    """The command that makes a preset."""
    backbone, _, source = backbone.partition("@")
    by = "" if method == "plain" else f" --method {method}"
    by += f" --source {shlex.quote(source)}" if source else ""
    out = f"presets/{backbone}/{preset_name(bits, steps, method)}"
    return f"python -m qsched search --backbone {backbone} --bits {bits}{by} --steps {steps} --out {out}"
