"""An evaluation for people: tables that fit a terminal of 120 columns, or Markdown for a README."""

import textwrap
from collections.abc import Callable, Iterator

from qsched.commands.output import table
from qsched.comparison.result import FULL_PRECISION, NAIVE, QSCHED
from qsched.evaluation.result import COLUMNS, DIFFERENCES, FEWEST_PROMPTS, TO_FULL_PRECISION, Evaluation
from qsched.surfaces.intervals import BOOTSTRAP, OVER_SEEDS, Estimate
from qsched.words import many

WIDTH = 120
GAIN = next(iter(DIFFERENCES))


def as_text(evaluation: Evaluation) -> str:
    """A line per metric; differences that are significant are starred; then the categories and what the
    numbers are.
    """
    metrics = evaluation.metrics
    means = [["", *COLUMNS]]
    means += [
        [name, *(_mean(evaluation, column, metric) for column in COLUMNS)] for metric, name in metrics.items()
    ]
    differences = [["", *(f"{label} " for label in DIFFERENCES)]]
    differences += [
        [name, *(_difference(evaluation, metric, *pair) for pair in DIFFERENCES.values())]
        for metric, name in metrics.items()
    ]
    blocks = [_title(evaluation), _table(means), "Paired differences; * marks an interval without 0:"]
    blocks[-1] += "\n" + _table(differences)
    if evaluation.categories:
        blocks.append("JAQ by category:\n" + _table(_categories(evaluation, "", _starred)))
    return "\n\n".join([*blocks, "\n".join(textwrap.fill(line, WIDTH) for line in _footnotes(evaluation))])


def as_markdown(evaluation: Evaluation) -> str:
    """A table with a line per column, the paired difference below; another for the categories."""
    metrics = evaluation.metrics
    rows = [["", *metrics.values()]]
    rows += [[column, *(_mean(evaluation, column, metric) for metric in metrics)] for column in COLUMNS]
    rows.append([GAIN, *(shown(evaluation.difference(metric), metric, "+") for metric in metrics)])
    blocks = [_title(evaluation), markdown_table(rows)]
    if evaluation.categories:
        signed = lambda estimate, metric: shown(estimate, metric, "+")
        blocks.append(markdown_table(_categories(evaluation, "JAQ by category", signed)))
    return "\n\n".join([*blocks, "\n".join(_footnotes(evaluation))])


def _title(evaluation: Evaluation) -> str:
    preset = evaluation.preset
    return (
        f"{preset.backbone}, {preset.bits}, {many(preset.steps, 'step')}, "
        f"{many(len(evaluation.prompts), 'prompt')} x "
        f"{many(len(evaluation.seeds), 'seed')}; mean [95 % interval]."
    )


def _footnotes(evaluation: Evaluation) -> Iterator[str]:
    scorer = evaluation.scorer
    yield (
        f"{evaluation.formula}, k = {evaluation.k:g}, per seed from the means over the prompts "
        f"({scorer['name']}: {scorer['definition']})."
    )
    similar = [name for metric, name in evaluation.metrics.items() if metric in TO_FULL_PRECISION]
    lower = "; of LPIPS, less is better" if "LPIPS" in similar else ""
    yield (
        f"Intervals: JAQ {OVER_SEEDS}; the others {BOOTSTRAP}; the differences paired likewise. "
        f"{', '.join(name.removesuffix(' (dB)') for name in similar)} compare with full precision{lower}."
    )
    if evaluation.categories:
        yield (
            "Every category is one more chance for an interval to miss 0 by accident; categories "
            "of fewer than "
            f"{FEWEST_PROMPTS} prompts have none."
        )
    yield from (f"Note: {note}" for note in evaluation.notes)


def _categories(
    evaluation: Evaluation, corner: str, shown: Callable[[Estimate, str], str]
) -> list[list[str]]:
    rows = [[corner, "prompts", NAIVE, QSCHED, GAIN]]
    for name, index in evaluation.categories.items():
        part = evaluation.part(name)
        means = [f"{part.jaq_per_seed(column).mean():.3f}" for column in (NAIVE, QSCHED)]
        rows.append([name, str(len(index)), *means, shown(evaluation.difference_in(name), "jaq")])
    return rows


def _mean(evaluation: Evaluation, column: str, metric: str) -> str:
    if column == FULL_PRECISION and metric in TO_FULL_PRECISION:
        return "-"  # compared with itself
    return shown(evaluation.estimate(column, metric), metric)


def _difference(evaluation: Evaluation, metric: str, column: str, against: str) -> str:
    if against == FULL_PRECISION and metric in TO_FULL_PRECISION:
        return "- "  # says no more than the column's own mean
    return _starred(evaluation.difference(metric, column, against), metric)


def _starred(estimate: Estimate, metric: str) -> str:
    significant = estimate.low is not None and (estimate.low > 0 or estimate.high < 0)
    return shown(estimate, metric, "+") + ("*" if significant else " ")


def shown(estimate: Estimate, metric: str, sign: str = "") -> str:
    """Mean and interval, with the digits that suit the metric; sign "+" for differences."""
    digits = 2 if metric in ("alignment", "psnr") else 3
    number = lambda value: f"{value:{sign}.{digits}f}"
    if estimate.low is None:
        return number(estimate.mean)
    return f"{number(estimate.mean)} [{number(estimate.low)}, {number(estimate.high)}]"


def _table(rows: list[list[str]]) -> str:
    return "\n".join(line.rstrip() for line in table(rows).splitlines())


def markdown_table(rows: list[list[str]]) -> str:
    """The first row is the head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
