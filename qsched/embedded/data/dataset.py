"""The data set: permissively licensed emoji art, rendered at 64 px (128 px for the latent
model) with its transparency, one image per (concept, style).

Only single emoji are stored; images of several things on coloured grounds are composed from them while
training (qsched.embedded.data.scenes). The art comes from npm packages (`npm install` of PACKAGES, see
`python -m qsched.embedded dataset --help`); names, groups and search tags come from emojibase. The build is
deterministic: the same packages give the same file.
"""

import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

SIZE = 64
MARGIN = 2
"""Pixels around an image of SIZE; larger images have proportionally more."""
GROUPS = {3: "animals-nature", 4: "food-drink", 5: "travel-places", 6: "activities", 7: "objects"}
"""By emojibase's numbers, the groups of what can be named and drawn; faces, people and symbols differ too
little at 64 px.
"""
HELD_OUT_SHARE = 0.05
UNSEEN_SHARE = 0.03
DUPLICATE = 0.04
"""Root-mean-square difference below which two sets' images of a concept count as one, found by looking: a
copy in training would give a held-out pair away.
"""
SKIPPED = re.compile(
    r"^(man|woman|men|women)\b|^keycap|o.clock|-thirty|^Japanese .* button|^input |^family|^couple "
    r"with heart|^kiss:|^people holding hands|"
    r"^flag|button$|^regional indicator"
)


@dataclass(frozen=True)
class Style:
    """One art set: the word that captions use for it, its npm package, licence and author."""

    word: str
    package: str
    licence: str
    author: str


STYLES = (
    Style("classic", "@iconify-json/noto", "Apache-2.0", "Google (Noto Emoji)"),
    Style("flat", "@iconify-json/fluent-emoji-flat", "MIT", "Microsoft (Fluent Emoji)"),
    Style("glossy", "@iconify-json/fluent-emoji", "MIT", "Microsoft (Fluent Emoji)"),
    Style("retro", "@iconify-json/fxemoji", "Apache-2.0", "Mozilla (FxEmojis)"),
    Style("simple", "@iconify-json/twemoji", "CC-BY-4.0", "Twitter (Twemoji)"),
    Style("vintage", "@iconify-json/noto-v1", "Apache-2.0", "Google (Noto Emoji, first version)"),
    Style("bright", "@iconify-json/emojione", "CC-BY-4.0", "EmojiOne (version 2)"),
)
PACKAGES = (*(style.package for style in STYLES), "emojibase-data")


@dataclass
class Emoji:
    """The loaded data set.

    images: uint8 (count, 64, 64, 3) on white; concept, style: int64 (count,); held_out: bool (count,), pairs
        that no training step may see.
    concepts, groups: names and groups per concept; tags: search words per concept; styles: the words that
    captions use.
    alpha: uint8 (count, 64, 64), opacity. unseen: bool (concepts,), concepts that no training step of the
        denoiser may see (the CLIP knows them).
    """

    images: torch.Tensor
    concept: torch.Tensor
    style: torch.Tensor
    held_out: torch.Tensor
    concepts: list[str]
    groups: list[str]
    tags: list[list[str]]
    styles: list[str]
    alpha: torch.Tensor
    unseen: torch.Tensor

    def caption(self, index: int) -> str:
        """The plain caption of one image: "red apple, glossy style"."""
        return f"{self.concepts[self.concept[index]]}, {self.styles[self.style[index]]} style"

    def train_indices(self, styles: Sequence[str] | None = None, unseen: bool = True) -> torch.Tensor:
        """Indices of the images that training may use: of these styles (None = all), with or without the
        unseen concepts.
        """
        usable = ~self.held_out
        if styles is not None:
            usable = usable & torch.isin(self.style, torch.tensor([self.styles.index(s) for s in styles]))
        if not unseen:
            usable = usable & ~self.unseen[self.concept]
        return usable.nonzero().flatten()

    def images_of(self, indices: torch.Tensor) -> torch.Tensor:
        """Images as float32 (count, 3, 64, 64) in [0, 1]."""
        return self.images[indices].permute(0, 3, 1, 2).float() / 255

    def cutouts(self) -> torch.Tensor:
        """Every image as colour times opacity, and opacity: uint8 (count, 4, 64, 64)."""
        alpha = self.alpha.unsqueeze(-1)
        colour = torch.minimum((self.images.int() - (255 - alpha.int())).clamp(min=0), alpha.int())
        return torch.cat([colour.to(torch.uint8), alpha], -1).permute(0, 3, 1, 2).contiguous()


def slug(label: str) -> str:
    """ "piñata" -> "pinata", "red apple" -> "red-apple": the key of an icon set."""
    plain = (
        unicodedata.normalize("NFKD", label)
        .encode("ascii", "ignore")
        .decode()
        .lower()
        .replace("’", "")
        .replace("'", "")
    )
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def concepts_of(emojibase: list[dict]) -> list[dict]:
    """The emoji of GROUPS that are kept: {"label", "group", "tags"} without skin tones, flags, keycaps, clock
    faces, gendered twins and families.
    """
    kept = []
    for entry in emojibase:
        group = GROUPS.get(entry.get("group"))
        if group and not SKIPPED.search(entry["label"]):
            label = entry["label"].lower().replace("’", "'")
            tags = [tag for tag in entry.get("tags", []) if tag.isascii() and tag not in label]
            kept.append({"label": label, "group": group, "tags": tags})
    return kept


def lot(name: str) -> float:
    """A number in [0, 1) that a hash draws for a name: the same on every machine, so that splits
    never move.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32


def is_held_out(concept: str, style: str) -> bool:
    """A fixed ~5 % of (concept, style) pairs."""
    return lot(f"{concept}|{style}") < HELD_OUT_SHARE


def is_unseen(concept: str) -> bool:
    """A fixed ~3 % of whole concepts."""
    return lot(f"unseen|{concept}") < UNSEEN_SHARE


def render(icon: dict, width: int, height: int, side: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """One SVG icon on white, uint8 (side, side, 3), and its opacity, uint8 (side, side): rendered at twice
    the size, shrunk with Lanczos.
    """
    import resvg_py

    box = (
        f"{icon.get('left', 0)} {icon.get('top', 0)} {icon.get('width', width)} {icon.get('height', height)}"
    )
    inner = 2 * (side - 2 * MARGIN * side // SIZE)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="{inner}" height="{inner}">{icon["body"]}</svg>'
    )
    art = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    white, clear = (Image.new("RGBA", (2 * side, 2 * side), colour) for colour in ("white", (0, 0, 0, 0)))
    for canvas in (white, clear):
        canvas.alpha_composite(art, ((2 * side - art.width) // 2, (2 * side - art.height) // 2))
    shrunk = [
        c.resize((side, side), Image.Resampling.LANCZOS)
        for c in (white.convert("RGB"), clear.getchannel("A"))
    ]
    return np.asarray(shrunk[0]), np.asarray(shrunk[1])


def is_copy(image: np.ndarray, others: Sequence[np.ndarray]) -> bool:
    """Whether an image, uint8 (64, 64, 3), is all but equal to one of the others."""
    one = image.astype(np.float32) / 255
    return any(((one - other.astype(np.float32) / 255) ** 2).mean() ** 0.5 < DUPLICATE for other in others)


def build(
    node_modules: Path, out: Path, styles: tuple[str, ...] = tuple(s.word for s in STYLES), side: int = SIZE
) -> dict:
    """Render the art into one .npz file beside a manifest of counts and licences; returns the manifest.

    Args:
        side: width and height of the images in pixels.
    Raises:
        FileNotFoundError: if an npm package is missing; the message holds the command that installs them.
    """
    missing = [package for package in PACKAGES if not (node_modules / package).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{node_modules} lacks {', '.join(missing)}. Run: npm install --prefix "
            f"{node_modules.parent} {' '.join(PACKAGES)}"
        )
    entries = concepts_of(json.loads((node_modules / "emojibase-data/en/data.json").read_text()))
    chosen = [style for style in STYLES if style.word in styles]
    art = {
        style.word: json.loads((node_modules / style.package / "icons.json").read_text()) for style in chosen
    }
    squashed = {word: {key.replace("-", ""): key for key in icons["icons"]} for word, icons in art.items()}

    rows, kept = [], []
    for entry in tqdm(entries, desc="render", unit="emoji"):
        found = []
        for number, style in enumerate(chosen):
            icons = art[style.word]
            if key := squashed[style.word].get(slug(entry["label"]).replace("-", "")):
                box = icons.get("width", 16), icons.get("height", 16)
                image, alpha = render(icons["icons"][key], *box, side)
                if not is_copy(image, [other for _, other, _ in found]):
                    found.append((number, image, alpha))
        for number, image, alpha in found:
            held_out = len(found) > 1 and is_held_out(entry["label"], chosen[number].word)
            rows.append((image, alpha, len(kept), number, held_out))
        if found:
            kept.append(entry)
    images, alphas, concept, style_index, held_out = (np.array(column) for column in zip(*rows, strict=True))
    unseen = np.array([is_unseen(e["label"]) for e in kept])

    manifest = {
        "concepts": len(kept),
        "images": len(images),
        "held_out": int(held_out.sum()),
        "unseen_concepts": int(unseen.sum()),
        "sha256": hashlib.sha256(images.tobytes() + alphas.tobytes()).hexdigest(),
        "groups": {group: sum(e["group"] == group for e in kept) for group in GROUPS.values()},
        "styles": [
            {
                "word": s.word,
                "package": s.package,
                "version": json.loads((node_modules / s.package / "package.json").read_text())["version"],
                "licence": s.licence,
                "author": s.author,
                "images": int((style_index == number).sum()),
            }
            for number, s in enumerate(chosen)
        ],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out,
        images=images,
        alpha=alphas,
        concept=concept,
        style=style_index,
        held_out=held_out,
        unseen=unseen,
        meta=json.dumps(
            {
                "concepts": [e["label"] for e in kept],
                "groups": [e["group"] for e in kept],
                "tags": [e["tags"] for e in kept],
                "styles": [s.word for s in chosen],
            }
        ),
    )
    out.with_suffix(".json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def load(path: Path) -> Emoji:
    """Read a file written by `build`."""
    with np.load(path) as data:
        names = ("images", "concept", "style", "held_out", "alpha", "unseen")
        return Emoji(**{n: torch.from_numpy(data[n]) for n in names}, **json.loads(str(data["meta"])))
