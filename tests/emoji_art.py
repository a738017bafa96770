"""Shared by the tests of the embedded model's making: npm packages of square emoji, and the data set that is
built from them.
"""

import json
from pathlib import Path

from qsched.embedded.data import dataset

SVG = '<rect x="4" y="4" width="24" height="24" fill="{}"/>'
CONCEPTS = {"red apple": 4, "green pear": 4, "fox": 3, "owl": 3, "ant": 3, "bee": 3, "cow": 3, "pig": 3}
LEFT_OUT = [
    {"label": "man rowing boat", "group": 1, "tags": []},
    {"label": "flag: Chad", "group": 9, "tags": []},
    {"label": "keycap: 1", "group": 8, "tags": []},
    {"label": "three o’clock", "group": 5, "tags": []},
    {"label": "regional indicator A", "tags": []},
]


def write_packages(root: Path) -> Path:
    """A node_modules folder with the layout of the art's npm packages."""
    for number, style in enumerate(dataset.STYLES):
        folder = root / style.package
        folder.mkdir(parents=True)
        join = "" if style.word == "retro" else "-"
        icons = {
            name.replace(" ", join): {"body": SVG.format(f"rgb({30 * i},{40 * number},200)")}
            for i, name in enumerate([*CONCEPTS, "man rowing boat", "flag chad"])
        }
        (folder / "icons.json").write_text(json.dumps({"icons": icons, "width": 32, "height": 32}))
        (folder / "package.json").write_text(json.dumps({"version": f"1.0.{number}"}))
    entries = [{"label": n, "group": group, "tags": ["thing", f"my {n}"]} for n, group in CONCEPTS.items()]
    (root / "emojibase-data/en").mkdir(parents=True)
    (root / "emojibase-data/en/data.json").write_text(json.dumps([*entries, *LEFT_OUT]))
    return root


def build(folder: Path, side: int = dataset.SIZE) -> Path:
    """The data set of these packages."""
    dataset.build(write_packages(folder / "node_modules"), folder / "emoji.npz", side=side)
    return folder / "emoji.npz"
