"""Images as files for the browser: enlarged by a whole factor, and written whole or not at all.

gradio writes an image straight to a path named by its content. When two events show the same image, the
second would empty the file that the first browser request is still reading; here it is written beside and
renamed, once.
"""

import io
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
from gradio.processing_utils import hash_bytes
from gradio.utils import get_upload_folder
from PIL import Image

SHOWN = 512  # pixels; small images are enlarged by a whole factor, so that every pixel stays a crisp square


def image_box(
    elem_id: str, label: str, look: str | None = None, visible: bool = True, buttons: Sequence[str] = ()
) -> gr.Image:
    """The widget of an image that the page makes;

    `label` is read to who cannot see it, `look` is its style class.
    """
    return gr.Image(
        format="png", type="filepath", interactive=False, show_label=False, container=False,
        buttons=list(buttons),
        elem_id=elem_id, label=label, alt_text=label, elem_classes=look, visible=visible,
    )  # fmt: skip


def shown(image: Image.Image) -> str:
    """Path of a PNG of the image as the page shows it."""
    data = io.BytesIO()
    enlarged(image).save(data, "PNG", compress_level=1)
    return stored(data.getvalue(), "image.png")


def drawn(image: Image.Image) -> str:
    """Path of a PNG of a drawing, as it is."""
    data = io.BytesIO()
    image.save(data, "PNG", compress_level=1)
    return stored(data.getvalue(), "drawing.png")


def enlarged(image: Image.Image) -> Image.Image:
    """A small image enlarged by a whole factor with hard pixel edges; a large one as it is."""
    factor = SHOWN // max(image.size)
    if factor < 2:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def stored(data: bytes, name: str) -> str:
    """Path of a file with this content where gradio itself would put it, so that gradio serves it and cleans
    it away later.
    """
    folder = Path(get_upload_folder()) / hash_bytes(data)
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".{uuid.uuid4().hex}"
        beside.write_bytes(data)
        os.replace(beside, path)
    return str(path.resolve())
