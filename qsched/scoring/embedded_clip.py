"""The embedded judge: the tiny CLIP gives both CLIPScore and CLIP-IQA from one image encoding, offline."""

from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from qsched.scoring import ImageScores
from qsched.scoring.clip import ClipModel, finite, image_size, resized

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
        self._clip = ClipModel.from_folder(folder, self.device)
        self.model, self.tokenizer = self._clip.model, self._clip.tokenizer
        self._pair = self._clip.texts(ANTONYMS)

    @torch.inference_mode()
    def score(self, images: Tensor, prompts: Sequence[str]) -> ImageScores:
        """Alignment (batch,) in [0, 100] and quality (batch,) in [0, 1] of images (batch, 3, H,
        W) in [0, 1].
        """
        features = self._images(images)
        alignment = 100 * (features * self._clip.prompts(prompts)).sum(-1).clamp(min=0)
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

    def _quality(self, features: Tensor) -> Tensor:
        return quality_probability(self.model, features, self._pair)
