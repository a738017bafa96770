"""Captions in natural words: names and their synonyms, articles, plurals, phrases for style, size, place and
ground, at times among other words.

A synonym is a search tag of emojibase that belongs to one concept alone, so that it can stand in its name's
place.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from qsched.embedded.data.phrases import around, loose, pick

PLAIN_SHARE, LOOSE_SHARE = 0.5, 0.15
DISTURBED_SHARE = 0.1
SYNONYM_SHARE = 0.15
COUNTS = {2: ("two",), 3: ("three",)}
SIZES = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
WITH_STYLE = (
    "{name}, {style} style",
    "{a_name}, {style} style",
    "{name} in {style} style",
    "a {style} {name}",
    "{style} {name}",
    "a {style} picture of {a_name}",
    "{name} emoji, {style} style",
    "{style} style {name}",
    "an icon of {a_name} in {style} style",
)
WITHOUT_STYLE = (
    "{name}",
    "{a_name}",
    "a picture of {a_name}",
    "{name} emoji",
    "an emoji of {a_name}",
    "a drawing of {a_name}",
    "the {name}",
)
UNSEEN_PHRASES = ("one {name} in the {style} style", "please draw {a_name}, {style}", "{style} icon: {name}")
"""No training caption is built like these: retrieval with them shows whether the text tower reads words or
sentences.
"""
STYLED = ("{scene}, {style} style", "{scene} in {style} style", "{style} style, {scene}")
GROUNDS = (
    " on a {ground} background",
    " on {ground}",
    " with a {ground} background",
    ", {ground} background",
    " in front of a {ground} background",
)
BESIDE = ("{one} and {other}", "{one} next to {other}", "{one} beside {other}", "{one} with {other}")
ABOVE = ("{one} above {other}", "{one} on top of {other}", "{one} over {other}", "{other} below {one}")
ONE_SIDED = re.compile(r"\b(left|right|increasing|decreasing|waxing|waning|quarter|arrival|departure)\b")
"""Names of things whose mirror image has another name."""
IRREGULAR = {
    "mouse": "mice", "wolf": "wolves", "leaf": "leaves", "knife": "knives", "fish": "fish", "sheep": "sheep",
    "ox": "oxen", "deer": "deer", "goose": "geese", "bison": "bison", "tooth": "teeth", "foot": "feet",
}  # fmt: skip


def is_plural(name: str) -> bool:
    """Whether a name is a plural already: "cherries", "french fries", but not "cactus" or "glass of milk"."""
    head = re.split(r" (?:of|with|in|on) ", name)[0]
    return bool(re.search(r"[^suio]s$", head))


def with_article(name: str) -> str:
    """ "an ant", "a cat", "cherries"."""
    return name if is_plural(name) else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def plural(name: str) -> str:
    """ "red apple" -> "red apples", "nest with eggs" -> "nests with eggs"."""
    head, joint, rest = re.match(r"(.*?)((?: (?:of|with|in|on) .*)?)()$", name).groups()
    if is_plural(name):
        return name
    words = head.split(" ")
    last = words[-1]
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif re.search(r"(s|x|z|ch|sh)$", last):
        last += "es"
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join([*words[:-1], last]) + joint + rest


def forms(name: str) -> tuple[str, ...]:
    """How a thing can be called, the bare name twice as often."""
    return name, name, with_article(name), f"the {name}"


def synonyms(concepts: Sequence[str], tags: Sequence[Sequence[str]]) -> list[list[str]]:
    """Per concept, the tags that no other concept has and that are no other concept's name."""
    owners = Counter(tag for own in tags for tag in set(own))
    names = set(concepts)
    fits = lambda tag: owners[tag] == 1 and tag not in names and re.fullmatch(r"[a-z][a-z' -]{2,}", tag)
    return [sorted({tag for tag in own if fits(tag)}) for own in tags]


class Words:
    """Draws captions for concepts by number."""

    def __init__(self, concepts: Sequence[str], tags: Sequence[Sequence[str]], styles: Sequence[str]):
        self.concepts, self.styles, self.synonyms = list(concepts), list(styles), synonyms(concepts, tags)

    def name(self, concept: int, rng: np.random.Generator) -> str:
        """The concept's name, or now and then a synonym."""
        other = self.synonyms[concept]
        return pick(other, rng) if other and rng.random() < SYNONYM_SHARE else self.concepts[concept]

    def single(self, concept: int, style: int, rng: np.random.Generator) -> str:
        """A caption of one emoji on white; half of them in the plain form "red apple, glossy style", some in
        any words (`phrases.loose`).
        """
        lot = rng.random()
        if lot < PLAIN_SHARE:
            return WITH_STYLE[0].format(name=self.concepts[concept], style=self.styles[style])
        name = self.name(concept, rng)
        if lot < PLAIN_SHARE + LOOSE_SHARE:
            return loose(forms(name), self.styles[style] if rng.random() < 0.6 else None, rng)
        phrase = pick(WITH_STYLE if rng.random() < 0.6 else WITHOUT_STYLE, rng)
        return phrase.format(name=name, a_name=with_article(name), style=self.styles[style])

    def scene(
        self,
        concepts: Sequence[int],
        style: int,
        layout: str,
        size: str,
        grounds: Sequence[str],
        rng: np.random.Generator,
    ) -> str:
        """A caption of a composition.

        Args:
            concepts: one to three; equal ones are counted ("two cats").
            layout: "beside", "stacked" (the first is above) or "one".
            size: "small", "big" or "".
            grounds: no, one or two names of colours.
        """
        names = [self.name(concept, rng) for concept in concepts]
        if len(set(concepts)) == 1 and len(concepts) > 1:
            scene = f"{pick(COUNTS[len(concepts)], rng)} {plural(names[0])}"
        elif len(concepts) == 1:
            scene = with_article(f"{pick(SIZES[size], rng)} {names[0]}" if size else names[0])
        else:
            things = [with_article(name) for name in names] if rng.random() < 0.7 else names
            if len(things) == 2:
                scene = pick(ABOVE if layout == "stacked" else BESIDE, rng).format(
                    one=things[0], other=things[1]
                )
            else:
                scene = f"{things[0]}, {things[1]} and {things[2]}"
        ground = (
            pick(GROUNDS, rng).format(ground=" and ".join(grounds)).replace(" a orange", " an orange")
            if grounds
            else ""
        )
        caption = scene + ground
        if rng.random() < 0.5:
            caption = pick(STYLED, rng).format(scene=caption, style=self.styles[style])
        return around(caption, rng) if rng.random() < DISTURBED_SHARE else caption
