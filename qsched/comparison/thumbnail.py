"""Small images for a page or a file, also as text."""

import base64
import functools
import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from qsched.models.base import Backbone

SIDE = 160
"""Pixels of a small image at most."""


def drawn(images: Tensor) -> Image.Image:
    """The first of images (batch, 3, height, width) in [0, 1]."""
    return to_pil_image((images[0] * 255).round().to(torch.uint8))


def path_images(backbone: Backbone, estimates: list[Tensor]) -> tuple[Image.Image, ...]:
    """Each step's estimate of x_0 (1, C, H, W) as an image of at most SIDE pixels, drawn by the fastest
    decoder; none where that is slow, or has no room.
    """
    images = backbone.preview(torch.cat(estimates))
    if images is None:
        return ()
    return tuple(shrunk(drawn(image[None])) for image in images.cpu().nan_to_num(0.0, 0.0, 0.0))


def shrunk(image: Image.Image) -> Image.Image:
    """A copy of at most SIDE pixels."""
    image = image.copy()
    image.thumbnail((SIDE, SIDE))
    return image


def data_uri(image: Image.Image) -> str:
    """An address that holds the image itself, at most SIDE pixels wide and high."""
    small = shrunk(image)
    return _thumbnail(small.mode, small.size, small.tobytes())


def drawing_uri(image: Image.Image) -> str:
    """An address that holds a drawing as it is."""
    return _encoded(image, lossless=True, method=0)


@functools.lru_cache(maxsize=256)  # a drag shows two rows of the path's three again
def _thumbnail(mode: str, size: tuple[int, int], pixels: bytes) -> str:
    return _encoded(Image.frombytes(mode, size, pixels), quality=90)


def _encoded(image: Image.Image, **options: Any) -> str:
    data = io.BytesIO()
    image.save(data, "WEBP", **options)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
