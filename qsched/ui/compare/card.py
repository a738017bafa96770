"""The share card: one PNG of 1200 x 630 pixels with the three images, what made them, and their numbers."""

from io import BytesIO
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from qsched.comparison.result import QSCHED, Column
from qsched.models.registry import SPECS
from qsched.server.sessions import Session
from qsched.ui.compare import links
from qsched.ui.fragments import TITLES, signed
from qsched.ui.images import stored
from qsched.words import size, steps_in_words

SIZE = 1200, 630
MARGIN, SIDE = 48, 344
INK, MUTED, GROUND = "#111827", "#5b6472", "#f7f7f4"
COLOURS = ("#2f6fed", "#7b818c", "#d9480f")
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def card_file(held: Session, origin: str = "") -> str:
    """Path of the card of what a session shows, which carries the link to it.

    origin: of the page's address, such as https://example.org.
    """
    data, texts = BytesIO(), PngInfo()
    texts.add_itxt("link", f"{origin}/?{links.address(held)}")
    card(held, origin).save(data, "PNG", pnginfo=texts)
    return stored(data.getvalue(), "qsched-card.png")


def card(held: Session, origin: str = "") -> Image.Image:
    """The card itself."""
    comparison, image = held.comparison, Image.new("RGB", SIZE, GROUND)
    draw, settings = ImageDraw.Draw(image), comparison.settings
    gap = (SIZE[0] - 2 * MARGIN - 3 * SIDE) // 2
    title = _font(30, bold=True)
    draw.text((MARGIN, 30), _cut(draw, f"“{settings.prompt}”", title), INK, title)
    what = f"{settings.quantization.bits.upper()}, {steps_in_words(settings.steps)}, seed {settings.seed}"
    draw.text((MARGIN, 76), f"{SPECS[comparison.facts.backbone].title}, {what}", MUTED, _font(20))
    for index, (column, colour) in enumerate(zip(comparison.columns, COLOURS, strict=True)):
        x = MARGIN + index * (SIDE + gap)
        image.paste(_square(column.image), (x, 116))
        draw.rectangle((x, 474, x + 14, 488), colour)
        draw.text((x + 24, 468), TITLES[column.name], INK, _font(22, bold=True))
        draw.text((x, 500), _numbers(column, comparison.naive, held.k), MUTED, _font(18))
    at = ", ".join(f"{name} {_short(value)}" for name, value in comparison.coefficients.to_dict().items())
    draw.text((MARGIN, 548), f"Q-Sched rescales the sampling path: {at}. No training.", INK, _font(20))
    host = origin.partition("://")[2]
    draw.text((MARGIN, 584), _cut(draw, host, _font(16)), MUTED, _font(16))
    return image


def _numbers(column: Column, naive: Column, k: float) -> str:
    text = size(column.stored_bytes)
    if column.scored:
        text += f"   JAQ {column.jaq(k):.3f}"
    difference = column.jaq_difference(naive, k)
    if column.name == QSCHED and difference is not None:
        text += f" ({signed(difference)})"
    return text


def _square(image: Image.Image) -> Image.Image:
    method = Image.Resampling.NEAREST if max(image.size) < SIDE else Image.Resampling.LANCZOS
    fitted = ImageOps.contain(image, (SIDE, SIDE), method)
    ground = Image.new("RGB", (SIDE, SIDE), "white")
    ground.paste(fitted, ((SIDE - fitted.width) // 2, (SIDE - fitted.height) // 2))
    return ground


def _short(value: float | list[float]) -> str:
    return " → ".join(f"{one:.3g}" for one in (value if isinstance(value, list) else [value]))


def _font(pixels: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONTS / f"DejaVuSans{'-Bold' * bold}.ttf", pixels)


def _cut(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont) -> str:
    """The text, its end cut off where it is wider than the card."""
    room = SIZE[0] - 2 * MARGIN
    if draw.textlength(text, font) <= room:
        return text
    while text and draw.textlength(text + "…", font) > room:
        text = text[:-1]
    return text + "…"
