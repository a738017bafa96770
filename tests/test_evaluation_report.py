"""What people read of an evaluation: every number has its place, nothing is wider than a terminal."""

import numpy as np
import pytest
from embedded_model import make_preset

from qsched.commands.evaluation_report import WIDTH, as_markdown, as_text
from qsched.evaluation.result import COLUMNS, METRICS, Evaluation

DEFINITION = (
    "CLIPScore = 100·max(cos, 0), CLIP-IQA = one pair of words against another, both by a CLIP with a "
    "long name"
)


def evaluation(seeds: int = 3, lpips: bool = False, notes: tuple[str, ...] = (), **changes) -> Evaluation:
    """Random scores of twelve prompts; Q-Sched has more quality and no more alignment than naive."""
    rng = np.random.default_rng(0)
    scores = {}
    for column in COLUMNS:
        values = rng.uniform(0, 1, (5, seeds, 12)) * np.array([100, 0.5, 1, 50, 1])[:, None, None]
        scores[column] = dict(zip(("alignment", "quality", "ssim", "psnr", "lpips"), values, strict=True))
        if not lpips:
            del scores[column]["lpips"]
    scores["Q-Sched"] = scores["naive"] | {"quality": scores["naive"]["quality"] + 0.25}
    fields = dict(
        preset=make_preset(), prompts=[f"p{i}" for i in range(12)], seeds=list(range(seeds)), k=2.0,
        scores=scores,
        failed=dict.fromkeys(COLUMNS, 0), scorer={"name": "judge", "definition": DEFINITION,
            "quality": "CLIP-IQA"},
        device="cpu", revision="0", categories={"animals": list(range(8)), "food": [8, 9]}, notes=list(notes),
    )  # fmt: skip
    return Evaluation(**(fields | changes))


def cells(text: str, row: str) -> list[str]:
    """The cells of the first table line that starts so, of two spaces and more between them."""
    line = next(line for line in text.splitlines() if line.startswith(row))
    return [cell for cell in line.removeprefix(row).split("  ") if cell.strip()]


def test_the_text_has_a_line_per_metric_and_says_what_the_numbers_are():
    text = as_text(evaluation(lpips=True, notes=("something weakens it.",)))
    first = text.split("\n\n")[1]
    assert len(first.splitlines()) == 1 + len(METRICS)
    for name in METRICS.values():
        assert len(cells(first, name)) == len(COLUMNS)
    assert cells(first, "SSIM")[0].strip() == "-" != cells(first, "SSIM")[1].strip()
    for said in (
        *COLUMNS,
        "12 prompts x 3 seeds",
        "k = 2",
        "judge",
        "bootstrap",
        "less is better",
        "Note: something",
    ):
        assert said in text


def test_only_differences_without_zero_are_starred():
    differences = as_text(evaluation()).split("\n\n")[2]
    assert cells(differences, "CLIP-IQA")[0].strip() == "+0.250 [+0.250, +0.250]*"
    assert cells(differences, "CLIPScore")[0].strip() == "+0.00 [+0.00, +0.00]"
    assert cells(differences, "SSIM")[1].strip() == "-", "nothing is compared with full precision twice"


def test_categories_have_a_table_of_their_own():
    text = as_text(evaluation())
    assert [cell.strip() for cell in cells(text, "animals")][::3] == ["8", "+0.500 [+0.500, +0.500]*"]
    assert [cell.strip() for cell in cells(text, "food")][::3] == ["2", "+0.500"]
    assert "by category" not in as_text(evaluation(categories={})) + as_markdown(evaluation(categories={}))


@pytest.mark.parametrize("factor", [1, -1])
@pytest.mark.parametrize("seeds", [1, 3])
def test_no_line_is_wider_than_the_terminal(seeds, factor):
    wide = evaluation(seeds, lpips=True, notes=("a long note, " * 20,))
    for column in COLUMNS:
        wide.scores[column] = {metric: factor * values for metric, values in wide.scores[column].items()}
    lines = as_text(wide).splitlines()
    assert max(map(len, lines)) <= WIDTH and "None" not in as_text(wide) and "nan" not in as_text(wide)
    assert not any(line != line.rstrip() for line in lines)


def test_markdown_has_a_line_per_column():
    text = as_markdown(evaluation(1, categories={}))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(COLUMNS) + 1 and len({row.count("|") for row in rows}) == 1
    for name in (*COLUMNS, *METRICS.values(), "Q-Sched - naive", "k = 2", "judge", "bootstrap"):
        assert (name in text) == (name != "LPIPS")
    tables = [block for block in as_markdown(evaluation()).split("\n\n") if block.startswith("|")]
    assert len(tables) == 2 and "| animals | 8 |" in tables[1]
