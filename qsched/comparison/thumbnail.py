"""Small images as text, for a page or a file."""

import base64
import io

from PIL import Image


def data_uri(image: Image.Image, side: int = 160) -> str:
    """An address that holds the image itself, at most `side` pixels wide and high."""
    image, data = image.copy(), io.BytesIO()
    image.thumbnail((side, side))
    image.save(data, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
