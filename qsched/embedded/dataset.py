"""The data set: permissively licensed emoji art, rendered at 64 px, one picture per (concept, style).

The art comes from npm packages (`npm install` of PACKAGES, see `python -m qsched.embedded dataset --help`); names, groups and search tags come from
emojibase. The build is deterministic: the same packages give the same file.
"""

import hashlib
import io
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

SIZE = 64
MARGIN = 2
GROUPS = (
    "smileys-emotion",
    "people-body",
    "animals-nature",
    "food-drink",
    "travel-places",
    "activities",
    "objects",
    "symbols",
)
GROUP_NUMBERS = {
    0: GROUPS[0],
    1: GROUPS[1],
    3: GROUPS[2],
    4: GROUPS[3],
    5: GROUPS[4],
    6: GROUPS[5],
    7: GROUPS[6],
    8: GROUPS[7],
}
HELD_OUT_SHARE = 0.05
SKIPPED = re.compile(
    r"^(man|woman|men|women)\b|^keycap|o.clock|-thirty|^Japanese .* button|^input |^family|^couple with heart|^kiss:|^people holding hands|"
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
)
PACKAGES = (*(style.package for style in STYLES), "emojibase-data")


@dataclass
class Emoji:
    """The loaded data set.

    images: uint8 (count, 64, 64, 3) on white; concept, style: int64 (count,); held_out: bool (count,), pairs that no training step may see.
    concepts, groups: names and groups per concept; tags: search words per concept; styles: the words that captions use.
    """

    images: torch.Tensor
    concept: torch.Tensor
    style: torch.Tensor
    held_out: torch.Tensor
    concepts: list[str]
    groups: list[str]
    tags: list[list[str]]
    styles: list[str]

    def caption(self, index: int) -> str:
        """The plain caption of one picture: "red apple, glossy style"."""
        return f"{self.concepts[self.concept[index]]}, {self.styles[self.style[index]]} style"

    def captions(self, indices: torch.Tensor, rng: np.random.Generator) -> list[str]:
        """Training captions: mostly the plain one, now and then without its style or with a search tag in place of the name."""
        out = []
        for index in indices.tolist():
            draw, tags = rng.random(), self.tags[self.concept[index]]
            if draw < 0.85 or (draw >= 0.93 and not tags):
                out.append(self.caption(index))
            elif draw < 0.93:
                out.append(self.concepts[self.concept[index]])
            else:
                out.append(f"{tags[rng.integers(len(tags))]} {self.caption(index)}")
        return out

    def train_indices(self) -> torch.Tensor:
        """Indices of the pictures that training may use."""
        return (~self.held_out).nonzero().flatten()

    def pictures(self, indices: torch.Tensor) -> torch.Tensor:
        """Pictures as float32 (count, 3, 64, 64) in [0, 1]."""
        return self.images[indices].permute(0, 3, 1, 2).float() / 255


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


def concepts_of(emojibase: list[dict], groups: tuple[str, ...]) -> list[dict]:
    """The emoji that are kept: {"label", "group", "tags"} without skin tones, flags, keycaps, clock faces, gendered twins and families."""
    kept = []
    for entry in emojibase:
        group = GROUP_NUMBERS.get(entry.get("group"))
        if group in groups and not SKIPPED.search(entry["label"]):
            label = entry["label"].lower().replace("’", "'")
            tags = [tag for tag in entry.get("tags", []) if tag.isascii() and tag not in label]
            kept.append({"label": label, "group": group, "tags": tags})
    return kept


def is_held_out(concept: str, style: str) -> bool:
    """A fixed ~5 % of (concept, style) pairs, chosen by a hash of their names so that the split never moves."""
    digest = hashlib.sha256(f"{concept}|{style}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < HELD_OUT_SHARE


def render(icon: dict, width: int, height: int) -> np.ndarray:
    """One SVG icon as uint8 (64, 64, 3) on white: rendered at twice the size, composited, shrunk with Lanczos."""
    import resvg_py

    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {icon.get('width', width)} {icon.get('height', height)}"
    inner = 2 * (SIZE - 2 * MARGIN)
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" width="{inner}" height="{inner}">{icon["body"]}</svg>'
    art = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    canvas = Image.new("RGBA", (2 * SIZE, 2 * SIZE), "white")
    canvas.alpha_composite(art, ((2 * SIZE - art.width) // 2, (2 * SIZE - art.height) // 2))
    return np.asarray(canvas.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def build(
    node_modules: Path,
    out: Path,
    groups: tuple[str, ...] = GROUPS,
    styles: tuple[str, ...] = tuple(s.word for s in STYLES),
) -> dict:
    """Render the art into one .npz file beside a manifest of counts and licences; returns the manifest.

    Raises:
        FileNotFoundError: if an npm package is missing; the message holds the command that installs them.
    """
    missing = [package for package in PACKAGES if not (node_modules / package).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{node_modules} lacks {', '.join(missing)}. Run: npm install --prefix {node_modules.parent} {' '.join(PACKAGES)}"
        )
    entries = concepts_of(json.loads((node_modules / "emojibase-data/en/data.json").read_text()), groups)
    chosen = [style for style in STYLES if style.word in styles]
    art = {style.word: json.loads((node_modules / style.package / "icons.json").read_text()) for style in chosen}
    squashed = {word: {key.replace("-", ""): key for key in icons["icons"]} for word, icons in art.items()}

    images, concept, style_index, held_out, kept, counts = [], [], [], [], [], dict.fromkeys(art, 0)
    for entry in tqdm(entries, desc="render", unit="emoji"):
        found = [(i, squashed[s.word].get(slug(entry["label"]).replace("-", ""))) for i, s in enumerate(chosen)]
        found = [(i, key) for i, key in found if key]
        if not found:
            continue
        for i, key in found:
            icons = art[chosen[i].word]
            images.append(render(icons["icons"][key], icons.get("width", 16), icons.get("height", 16)))
            concept.append(len(kept))
            style_index.append(i)
            held_out.append(len(found) > 1 and is_held_out(entry["label"], chosen[i].word))
            counts[chosen[i].word] += 1
        kept.append(entry)

    manifest = {
        "concepts": len(kept),
        "images": len(images),
        "held_out": int(sum(held_out)),
        "groups": {group: sum(e["group"] == group for e in kept) for group in groups},
        "styles": [
            {
                "word": s.word,
                "package": s.package,
                "version": json.loads((node_modules / s.package / "package.json").read_text())["version"],
                "licence": s.licence,
                "author": s.author,
                "images": counts[s.word],
            }
            for s in chosen
        ],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out,
        images=np.stack(images),
        concept=np.array(concept),
        style=np.array(style_index),
        held_out=np.array(held_out),
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
        meta = json.loads(str(data["meta"]))
        return Emoji(
            torch.from_numpy(data["images"]),
            torch.from_numpy(data["concept"]),
            torch.from_numpy(data["style"]),
            torch.from_numpy(data["held_out"]),
            **meta,
        )
