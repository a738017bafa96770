"""Sizes, step counts and choices as people read them."""

from collections.abc import Iterable
from typing import Any


def size(count: float) -> str:
    """Bytes as "8.8 MB" (10^6 bytes) or, from a thousand of them on, "23.8 GB" (10^9 bytes)."""
    return f"{count / 1e6:.1f} MB" if count < 999.95e6 else f"{count / 1e9:.1f} GB"


def one_of(values: Iterable[Any]) -> str:
    """Values as a sentence names them: "a, b or c"."""
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last


def quoted(words: Iterable[str]) -> str:
    """Words as a sentence names them: “a”, “b” and “c”."""
    *most, last = (f"“{word}”" for word in words)
    return f"{', '.join(most)} and {last}" if most else last


def prompts_in_words(count: int) -> str:
    """A count of prompts in words."""
    return "1 prompt" if count == 1 else f"{count} prompts"


def steps_in_words(steps: int) -> str:
    """A step count in words."""
    return "1 step" if steps == 1 else f"{steps} steps"
