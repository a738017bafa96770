"""The words of a prompt, and those of them that a model was never taught."""

import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

FILE = "words.txt"
"""In the folder of the text encoder: a word a line."""


def words_of(text: str) -> list[str]:
    """The words of a text as the embedded tokenizer reads them: lower case, without accents, letters only."""
    plain = unicodedata.normalize("NFKD", text.lower())
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return re.findall(r"[^\W\d_]+", plain)


def read_words(folder: Path) -> frozenset[str]:
    """The words that a folder's file names; none where there is no file."""
    file = folder / FILE
    return frozenset(file.read_text("utf-8").split()) if file.is_file() else frozenset()


def unknown(prompt: str, known: Collection[str]) -> list[str]:
    """The words of a prompt that are not known, each once, in the prompt's order."""
    return list(dict.fromkeys(word for word in words_of(prompt) if len(word) > 1 and word not in known))
