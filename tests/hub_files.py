"""Shared by the tests of downloads: a repository like a pipeline's, and what every failure must look like."""

import os
import time

import pytest

from qsched.hub.fetch import fetch, is_ready
from qsched.hub.source import BackboneError, Source

REPO = "org/model"
WEIGHTS = "unet/diffusion_pytorch_model.fp16.safetensors"
FILES = {
    "model_index.json": b'{"_class_name": "None"}',
    "unet/config.json": b'{"in_channels": 4}',
    WEIGHTS: os.urandom(600_000),
    "unet/diffusion_pytorch_model.safetensors": os.urandom(1_200_000),
    "tokenizer/vocab.json": b"vocabulary" * 5000,
    "tokenizer_2/vocab.json": b"vocabulary" * 5000,
    "README.md": b"",
}
NEEDED = Source(REPO, ("*.json", "*.fp16.safetensors"))
SIZE = sum(
    len(FILES[name]) for name in ("model_index.json", "unet/config.json", WEIGHTS, "tokenizer/vocab.json")
)
SHORT = 2.0  # seconds of patience, where the test has to wait for their end


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fails(source=NEEDED, **options):
    """The sentence of a fetch that must fail, within 10 s and without a broken cache."""
    begin = time.monotonic()
    with pytest.raises(BackboneError) as caught:
        fetch(source, **options)
    assert time.monotonic() - begin < 10
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and not is_ready(source)
    return message
