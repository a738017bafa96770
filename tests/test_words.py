"""One unit for sizes wherever they are shown."""

import re
from pathlib import Path

import pytest

from qsched.words import size

ROOT = Path(__file__).resolve().parents[1]
SHOWN = [
    *(ROOT / "qsched").rglob("*.py"),
    *(ROOT / "tests" / "bench").glob("*.py"),
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "assets").rglob("*.md"),
    ROOT / "app.py",
]
BINARY = re.compile(r"\b[KMG]iB\b")
OWN = re.compile(r"/ ?(1e[69]|10\*\*[69]|2\*\*[23]0)[:)\}]")
"""A size that is divided where it is written."""


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0.0 MB"),
        (8_800_000, "8.8 MB"),
        (999.9e6, "999.9 MB"),
        (999.96e6, "1.0 GB"),
        (23_782_000_000, "23.8 GB"),
    ],
)
def test_sizes_are_decimal(count, text):
    assert size(count) == text


def test_nothing_shows_a_size_in_another_unit():
    assert len(SHOWN) > 100
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SHOWN
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if BINARY.search(line) or (path.name != "words.py" and OWN.search(line))
    ]
    assert not found
