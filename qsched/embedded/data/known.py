"""The words of the training captions, so that the page can name those of a prompt that the model lacks."""

import re
from collections.abc import Iterator
from itertools import chain

from qsched.embedded.data import phrases, words
from qsched.embedded.data.dataset import Emoji
from qsched.embedded.data.scenes import GROUNDS
from qsched.models.words import words_of


def known_words(emoji: Emoji) -> list[str]:
    """Every word that a training caption can hold, in order; what stands in names of unseen concepts alone,
    which no caption has, is not among them.
    """
    return sorted(set(chain.from_iterable(map(words_of, _texts(emoji)))))


def _texts(emoji: Emoji) -> Iterator[str]:
    others = words.synonyms(emoji.concepts, emoji.tags)
    for name, synonyms, missing in zip(emoji.concepts, others, emoji.unseen, strict=True):
        if not missing:
            for each in (name, *synonyms):
                yield from (each, words.plural(each))
    templates = (
        words.WITH_STYLE, words.WITHOUT_STYLE, words.STYLED, words.GROUNDS, words.BESIDE, words.ABOVE,
        phrases.STYLES,
    )  # fmt: skip
    yield from (re.sub(r"\{\w+\}", " ", text) for text in chain(*templates))
    yield from chain(*words.SIZES.values(), *words.COUNTS.values(), phrases.FILLERS, GROUNDS, emoji.styles)
    yield "a an the background"
