"""One open_clip model as a scorer uses it: images and texts in, features of unit length out."""

from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.utils import to_2tuple
from torch import Tensor

REMEMBERED_PROMPTS = 4096
BATCH = 64


def image_size(model: torch.nn.Module) -> tuple[int, int]:
    """Height and width that an open_clip model's image tower takes: its residual networks keep one number for
    both.
    """
    return tuple(to_2tuple(model.visual.image_size))


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (batch, 3, H, W) in [0, 1] at another size (bicubic, antialiased), or as they are if they have
    it.
    """
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)


class ClipModel:
    """An open_clip model with its tokenizer and its own image preprocessing.

    Images are resized (bicubic, antialiased) and normalised in fp32. A prompt that is longer than the model
    reads loses its end, as in every CLIPScore.

    Args:
        model: from `open_clip.create_model`.
        tokenizer: its tokenizer: a list of texts to token ids (texts, context length).
        device: where the model is.
    """

    def __init__(self, model: torch.nn.Module, tokenizer, device: torch.device | str = "cpu"):
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.device = torch.device(device)
        self.size = image_size(model)
        settings = model.visual.preprocess_cfg
        self.squash = settings.get("resize_mode") == "squash"
        self.mean, self.std = (
            torch.tensor(settings[name], device=self.device)[:, None, None] for name in ("mean", "std")
        )
        self._known: dict[str, Tensor] = {}

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device | str) -> "ClipModel":
        """From a folder in open_clip's layout: open_clip_config.json, weights, a tokenizer unless it is
        OpenAI's own.
        """
        name = f"local-dir:{folder}"
        model = open_clip.create_model(name, device=device, require_pretrained=True)
        return cls(model, open_clip.get_tokenizer(name), device)

    @classmethod
    def from_checkpoint(cls, architecture: str, file: Path, device: torch.device | str) -> "ClipModel":
        """From a bare file of weights for one of open_clip's own architectures, such as "ViT-H-14"."""
        model = open_clip.create_model(architecture, str(file), device=device)
        return cls(model, open_clip.get_tokenizer(architecture), device)

    @torch.inference_mode()
    def images(self, images: Tensor) -> Tensor:
        """Features of unit length, float32 (batch, width), of images (batch, 3, H, W) in [0, 1]."""
        features = [self.model.encode_image(self._prepared(part)) for part in images.split(BATCH)]
        return F.normalize(torch.cat(features).float(), dim=-1)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Features of unit length, float32 (texts, width)."""
        tokens = self.tokenizer(list(texts)).to(self.device)
        features = [self.model.encode_text(part) for part in tokens.split(BATCH)]
        return F.normalize(torch.cat(features).float(), dim=-1)

    def prompts(self, prompts: Sequence[str]) -> Tensor:
        """As `texts`, each different prompt encoded once and remembered."""
        new = sorted(set(prompts) - self._known.keys())
        if new:
            if len(self._known) > REMEMBERED_PROMPTS:
                self._known.clear()
                new = sorted(set(prompts))
            self._known.update(zip(new, self.texts(new), strict=True))
        return torch.stack([self._known[prompt] for prompt in prompts])

    def cosines(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """max(cos, 0) of every image with its prompt, float32 (batch,)."""
        return (self.images(images) * self.prompts(prompts)).sum(-1).clamp(min=0)

    def _prepared(self, images: Tensor) -> Tensor:
        """Images as the model wants them: the shorter side at its size and the middle cut out, or squashed to
        it.
        """
        images = finite(images.to(self.device))
        if tuple(images.shape[-2:]) != self.size:
            height, width = self.size
            tall, wide = images.shape[-2:]
            scale = max(height / tall, width / wide)
            size = (
                self.size if self.squash else (max(height, int(tall * scale)), max(width, int(wide * scale)))
            )
            images = resized(images, size)
            top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
            images = images[..., top : top + height, left : left + width]
        return (images - self.mean) / self.std


def finite(images: Tensor) -> Tensor:
    """float32 images in [0, 1]; what is not finite becomes black: it scores badly, but finitely."""
    return images.float().nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
