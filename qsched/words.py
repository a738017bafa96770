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


def many(count: int, noun: str) -> str:
    """A count with its noun: "1 prompt", "25 prompts"."""
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def images_in_words(prompts: int, seeds: int) -> str:
    """What images were made of: "25 prompts", "25 prompts × 3 seeds"."""
    return many(prompts, "prompt") + (f" × {many(seeds, 'seed')}" if seeds > 1 else "")


def steps_in_words(steps: int) -> str:
    """A step count in words."""
    return many(steps, "step")
