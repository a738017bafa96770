"""The embedded judge: the tiny CLIP gives both CLIPScore and CLIP-IQA from one image encoding, offline."""

from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from qsched.scoring import ImageScores
from qsched.scoring.clip import finite, image_size, resized

ANTONYMS = ("good quality picture", "bad quality picture")


def quality_probability(model: open_clip.CLIP, image_features: Tensor, antonym_features: Tensor) -> Tensor:
    """CLIP-IQA (Wang et al. 2023): softmax over the antonym pair, probability of the good one, shape
    (batch,).
    """
    return (model.logit_scale.exp() * image_features @ antonym_features.T).softmax(-1)[:, 0]


def prepared(model: open_clip.CLIP, images: Tensor) -> Tensor:
    """Images (batch, 3, H, W) in [0, 1] as the image tower takes them: of its size, in [-1, 1] as the config
    says.
    """
    return resized(images, image_size(model)) * 2 - 1


class EmbeddedScorer:
    """CLIPScore = 100 * max(cos, 0) (Hessel et al. 2021 without its 2.5) and CLIP-IQA = softmax over one
    antonym pair (Wang et al. 2023).

    Args:
        folder: an open_clip folder (open_clip_config.json, weights, tokenizer).
    """

    name = "emoji-clip"
    definition = (
        f"CLIPScore = 100·max(cos, 0), CLIP-IQA = “{ANTONYMS[0]}” against “{ANTONYMS[1]}”, both by the "
        f"embedded tiny CLIP"
    )

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.model = (
            open_clip.create_model(f"local-dir:{folder}", device=self.device).eval().requires_grad_(False)
        )
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self._pair = self._texts(ANTONYMS)
        self._known: dict[str, Tensor] = {}

    @torch.inference_mode()
    def score(self, images: Tensor, prompts: Sequence[str]) -> ImageScores:
        """Alignment (batch,) in [0, 100] and quality (batch,) in [0, 1] of images (batch, 3, H,
        W) in [0, 1].
        """
        features = self._images(images)
        alignment = 100 * (features * self._prompts(prompts)).sum(-1).clamp(min=0)
        return ImageScores(alignment, self._quality(features))

    def alignment(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """CLIPScore per image (batch,)."""
        return self.score(images, prompts).alignment

    @torch.inference_mode()
    def quality(self, images: Tensor) -> Tensor:
        """CLIP-IQA per image (batch,)."""
        return self._quality(self._images(images))

    def _images(self, images: Tensor) -> Tensor:
        """Features of unit length (batch, width).

        Non-finite images score as black ones: badly, but finitely.
        """
        return self.model.encode_image(prepared(self.model, finite(images.to(self.device))), normalize=True)

    def _texts(self, texts: Sequence[str]) -> Tensor:
        with torch.inference_mode():
            return self.model.encode_text(self.tokenizer(list(texts)).to(self.device), normalize=True)

    def _prompts(self, prompts: Sequence[str]) -> Tensor:
        new = sorted(set(prompts) - self._known.keys())
        if new:
            if len(self._known) > 4096:
                self._known.clear()
                new = sorted(set(prompts))
            self._known.update(zip(new, self._texts(new), strict=True))
        return torch.stack([self._known[prompt] for prompt in prompts])

    def _quality(self, features: Tensor) -> Tensor:
        return quality_probability(self.model, features, self._pair)
