"""What can be taken away: the three images as a zip, and everything that reproduces them as JSON."""

import json
import zipfile
from io import BytesIO

from PIL.PngImagePlugin import PngInfo

from qsched.comparison.record import record
from qsched.comparison.result import FULL_PRECISION, QSCHED, Comparison
from qsched.sampling.coefficients import Coefficients
from qsched.server.sessions import Session
from qsched.ui.fragments import KEYS
from qsched.ui.images import stored

NAMES = {key: key.replace("-", "_") for key in KEYS.values()}


def record_file(held: Session) -> str:
    """Path of result.json for a session."""
    return stored(_record(held).encode(), "result.json")


def images_file(held: Session) -> str:
    """Path of a zip with full_precision.png, naive.png and qsched.png, which say what made them, and
    result.json.
    """
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for column in held.comparison.columns:
            image = BytesIO()
            column.image.save(image, "PNG", pnginfo=png_texts(held, column.name))
            archive.writestr(f"{NAMES[KEYS[column.name]]}.png", image.getvalue())
        archive.writestr("result.json", _record(held))
    return stored(packed.getvalue(), f"qsched-{_slug(held.comparison)}.zip")


def png_texts(held: Session, name: str) -> PngInfo:
    """What a PNG of one of the images carries: what made it."""
    settings, texts = held.comparison.settings, PngInfo()
    made = {
        "prompt": settings.prompt,
        "seed": settings.seed,
        "steps": settings.steps,
        "backbone": held.comparison.backbone,
        "bits": "fp16" if name == FULL_PRECISION else settings.quantization.bits,
    }
    coefficients = held.comparison.coefficients if name == QSCHED else Coefficients.identity()
    for key, value in (made | coefficients.to_dict()).items():
        texts.add_itxt(key, str(value))
    return texts


def _record(held: Session) -> str:
    return json.dumps(record(held.comparison, held.k), indent=2, ensure_ascii=False)


def _slug(comparison: Comparison) -> str:
    words = "".join(
        c if c.isascii() and c.isalnum() else "-" for c in comparison.settings.prompt.lower()
    ).split("-")
    return "-".join(
        [
            comparison.settings.quantization.bits,
            *[word for word in words if word][:4],
            str(comparison.settings.seed),
        ]
    )
