"""The sheet to look at: held-out prompts down, ways to draw them across: real art, DDIM, LCM, each bit-width
without and with Q-Sched. Nothing is chosen.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from qsched.embedded.data import dataset
from qsched.embedded.judges.damage import BITS
from qsched.embedded.report import TEACHER_STEPS, as_teacher, draw, pairs
from qsched.evaluation.held_out import quantization_of
from qsched.models.base import Backbone
from qsched.presets import find_preset
from qsched.quantization import Quantization

PROMPTS = 64
STEPS = 4
HALVES = 2
LABEL, HEAD, GAP = 150, 18, 2
BLANK = 0.9


def choose(emoji: dataset.Emoji, styles: Sequence[str], count: int = PROMPTS) -> tuple[Tensor, list[str]]:
    """Indices of the images to ask for and their labels: held-out pairs first, then unseen concepts, then
    seen ones; each spread evenly.
    """
    chosen: list[int] = []
    labels: list[str] = []
    found = pairs(emoji, styles)
    for kind, mark in (("held_out", ""), ("unseen", " (unseen)"), ("seen", " (seen)")):
        of = found.get(kind, torch.empty(0, dtype=torch.long))
        room = min(count - len(chosen), len(of) if kind != "held_out" else min(len(of), 3 * count // 4))
        picked = of[torch.linspace(0, len(of) - 1, room).long()].tolist() if room else []
        chosen += picked
        labels += [emoji.caption(i).removesuffix(" style") + mark for i in picked]
    return torch.tensor(chosen), labels


def columns(
    student: Backbone,
    emoji: dataset.Emoji,
    indices: Tensor,
    *,
    teacher: Backbone | None = None,
    seed: int = 0,
) -> dict[str, Tensor | None]:
    """Title -> images (prompts, 3, H, W), or None where no preset belongs to these weights."""
    prompts = [emoji.caption(int(i)) for i in indices]
    out: dict[str, Tensor | None] = {"real art": emoji.images_of(indices)}
    out[f"DDIM {TEACHER_STEPS}"] = draw(as_teacher(teacher or student), prompts, TEACHER_STEPS, seed)
    out[f"LCM {STEPS}"] = draw(student, prompts, STEPS, seed)
    for bits in BITS:
        out[bits] = draw(student, prompts, STEPS, seed, student.quantized(Quantization(bits)).module)
        preset = find_preset(student.spec.id, bits, STEPS)
        fits = preset is not None and preset.revision == student.revision
        out[f"{bits} +Q"] = (
            draw(
                student,
                prompts,
                STEPS,
                seed,
                student.quantized(quantization_of(preset)).module,
                preset.coefficients,
            )
            if fits
            else None
        )
    return out


def paint(table: dict[str, Tensor | None], labels: Sequence[str], path: Path) -> None:
    """Write the sheet, in two halves side by side, in the format that the name ends in; an empty column is
    grey.
    """
    side = next(t.shape[-1] for t in table.values() if t is not None)
    rows = -(-len(labels) // HALVES)
    width = LABEL + len(table) * (side + GAP)
    page = Image.new("RGB", (HALVES * width, HEAD + rows * (side + GAP)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=11)
    for half in range(HALVES):
        for column, title in enumerate(table):
            pen.text((half * width + LABEL + column * (side + GAP), 3), title, fill="black", font=font)
    for number, label in enumerate(labels):
        x, y = number // rows * width, HEAD + number % rows * (side + GAP)
        for line, part in enumerate(_wrapped(label)):
            pen.text((x + 4, y + 12 + 14 * line), part, fill="black", font=font)
        for column, images in enumerate(table.values()):
            image = torch.full((3, side, side), BLANK) if images is None else images[number]
            tile = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            page.paste(Image.fromarray(tile), (x + LABEL + column * (side + GAP), y))
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, optimize=True, quality=92)


def _wrapped(label: str, width: int = 24) -> list[str]:
    lines = [""]
    for word in label.split():
        if len(lines[-1]) + len(word) + 1 > width and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
