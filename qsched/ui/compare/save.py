"""What can be taken away: the three images as a zip, and everything that reproduces them as JSON."""

import json
import zipfile
from io import BytesIO

from qsched.comparison.comparison import Comparison
from qsched.comparison.record import record
from qsched.server.engine import Session
from qsched.ui.fragments import KEYS
from qsched.ui.images import stored

NAMES = {key: key.replace("-", "_") for key in KEYS.values()}


def record_file(held: Session) -> str:
    """Path of result.json for a session."""
    return stored(_record(held).encode(), "result.json")


def images_file(held: Session) -> str:
    """Path of a zip with full_precision.png, naive.png, qsched.png and result.json."""
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for column in held.comparison.columns:
            image = BytesIO()
            column.image.save(image, "PNG")
            archive.writestr(f"{NAMES[KEYS[column.name]]}.png", image.getvalue())
        archive.writestr("result.json", _record(held))
    return stored(packed.getvalue(), f"qsched-{_slug(held.comparison)}.zip")


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
