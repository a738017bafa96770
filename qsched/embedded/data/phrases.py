"""How people ask for images: a thing and perhaps a style, somewhere among words that mean nothing to the
model, some of them made up.

The words of `words.UNSEEN_PHRASES` are not among them.
"""

from collections.abc import Sequence

import numpy as np

FILLERS = (
    "cute", "pretty", "nice", "lovely", "funny", "happy", "beautiful", "simple", "detailed", "colourful",
    "modern", "cool", "friendly", "very", "really",
    "just", "only", "my", "your", "our", "some", "this", "that", "another", "any", "single", "show",
    "show me", "make", "make me", "make it", "paint",
    "sketch", "create", "create me", "render", "give me", "generate", "i want", "i need", "i would like",
    "we like", "can you do", "could you make",
    "let us see", "here is", "it is", "there is", "this is", "image of", "photo of", "illustration of",
    "symbol for", "sticker of", "sticker", "logo",
    "clip art", "artwork", "art", "for", "with", "of", "and", "by", "at", "to", "as", "for my friend",
    "for a website", "for me", "now", "today", "again",
    "thanks", "thank you", "hello", "hi", "maybe", "something like", "looking", "standing", "alone",
    "centred", "isolated", "on screen", "as a sign",
    "what a", "who is", "best", "new", "old", "first", "next", "big day", "good day", "smiling", "sitting",
    "from above", "at home", "in the park",
)  # fmt: skip
SYLLABLES = tuple(a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "ar", "en", "ol"))
STYLES = ("{style}", "{style} style", "in {style} style", "{style} look", "in the {style} way", "as {style}")
JOINTS = (" ", " ", " ", ", ", ": ", " - ")


def pick(options: Sequence[str], rng: np.random.Generator) -> str:
    """One of the options."""
    return options[rng.integers(len(options))]


def filler(rng: np.random.Generator) -> str:
    """Words without a meaning for the model; one in four is made up."""
    if rng.random() < 0.25:
        return "".join(pick(SYLLABLES, rng) for _ in range(rng.integers(2, 4)))
    return pick(FILLERS, rng)


def perhaps(chance: float, rng: np.random.Generator) -> list[str]:
    """One filler, or none."""
    return [filler(rng)] if rng.random() < chance else []


def loose(names: Sequence[str], style: str | None, rng: np.random.Generator) -> str:
    """A caption of one thing, by one of its names, in any order and with any words around it:

    "show me fox, in flat style now".
    """
    parts = [pick(names, rng)]
    if style is not None:
        parts.append(pick(STYLES, rng).format(style=style))
        if rng.random() < 0.5:
            parts.reverse()
    pieces = perhaps(0.6, rng)
    for part in parts:
        pieces += [*perhaps(0.4, rng), part]
    pieces += perhaps(1.0 if len(pieces) == len(parts) else 0.4, rng)
    text = pieces[0]
    for piece in pieces[1:]:
        text += pick(JOINTS, rng) + piece
    return text


def around(caption: str, rng: np.random.Generator) -> str:
    """The caption with a filler before it, behind it, or both."""
    lot = rng.integers(3)
    before = f"{filler(rng)} " if lot != 1 else ""
    behind = f", {filler(rng)}" if lot != 0 else ""
    return before + caption + behind
