"""The prompts that ship with the app, by category, and what `--prompts` means."""

from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

from qsched.prompts.files import read_prompts, read_text

__all__ = ["SETS", "builtin_prompts", "categories", "categorised", "choose_prompts", "read_prompts"]

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "prompts"
SETS = {"emoji": "emoji", "sd": "photo", "sdxl": "photo", "flux": "photo"}
"""Which set of prompts a family of backbones is searched and judged with."""


def categories(family: str, use: str) -> dict[str, list[str]]:
    """The prompts that ship for a family of backbones, by category, both in the order of the file.

    Args:
        use: "calibration" (for searches) or "held-out" (for reports; shares no subject with the first).
    Raises:
        ValueError: one sentence, for a family without prompts.
    """
    if family not in SETS:
        raise ValueError(
            f"There are no built-in prompts for the family {family!r}; known are {', '.join(SETS)}."
        )
    found: dict[str, list[str]] = {}
    for line in read_text(FOLDER / f"{SETS[family]}-{use}.txt").splitlines():
        if line.startswith("## "):
            name = line.removeprefix("## ").strip()
        elif line.strip() and not line.startswith("#"):
            found.setdefault(name, []).append(" ".join(line.split()))
    return found


def builtin_prompts(family: str, use: str) -> list[str]:
    """All of `categories`, in the order of the file."""
    return list(chain.from_iterable(categories(family, use).values()))


def categorised(prompts: Sequence[str], family: str, use: str) -> dict[str, list[str]]:
    """These prompts by built-in category; nothing unless all of them are built-in ones."""
    known = categories(family, use) if family in SETS else {}
    found = {name: [prompt for prompt in prompts if prompt in members] for name, members in known.items()}
    complete = sum(map(len, found.values())) == len(prompts)
    return {name: members for name, members in found.items() if members} if complete else {}


def choose_prompts(choice: str | int | None, family: str, use: str) -> list[str]:
    """What `--prompts` means: a file's path, None (all built-in prompts), or a number N.

    N takes the first prompt of every category, then the second ones, and so on, so that a few cover all
    categories.

    Raises:
        ValueError: one sentence, if there are no such prompts.
    """
    if choice is not None and not str(choice).strip().isdecimal():
        return read_prompts(choice)
    if choice is None:
        return builtin_prompts(family, use)
    rounds = zip_longest(*categories(family, use).values())
    prompts = [prompt for prompt in chain.from_iterable(rounds) if prompt is not None]
    if not 1 <= int(choice) <= len(prompts):
        raise ValueError(
            f"There are 1 to {len(prompts)} built-in {use} prompts to choose from, not {int(choice)}."
        )
    return prompts[: int(choice)]
