"""CLIP-IQA as pyiqa computes it (metric "clipiqa"; Wang et al. 2023): RN50, five antonym pairs, images at
their own size.

pyiqa's own `create_metric("clipiqa")` is not called: it downloads RN50.pt at construction from OpenAI's
server into torch's cache without a timeout, needs the `clip` package, whose pkg_resources recent setuptools
no longer have, and encodes its ten prompts again for every batch. Its network, its prompts and its formula
are used instead, over the same weights from the Hub (`timm/resnet50_clip.openai`) or a local folder; a test
compares the two. Importing the network costs 0.03 to 0.2 s once torch is there, so it is imported only when a
scorer is made.
"""

from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file
from torch import Tensor

from qsched.scoring.clip import finite

PAIRS = (
    ("Good image", "bad image"),
    ("Sharp image", "blurry image"),
    ("sharp edges", "blurry edges"),
    ("High resolution image", "low resolution image"),
    ("Noise-free image", "noisy image"),
)
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
PIXELS = 1 << 22  # of one batch: 16 images at 512 px, 4 at 1024 px
SMALLEST = 32  # pixels on a side: the network halves them five times


class ClipIqa:
    """CLIP-IQA: the probability of the good prompt against the bad one, averaged over five pairs.

    The network has no positional embedding here (as in the paper), so images of any size are judged as they
    are.

    Args:
        state: OpenAI's RN50, named as open_clip and OpenAI name its tensors.
        device: where to compute, always in fp32.
    """

    def __init__(self, state: dict[str, Tensor], device: torch.device | str = "cpu"):
        from pyiqa.archs.clip_model import build_model

        self.device = torch.device(device)
        model = build_model(dict(state)).requires_grad_(False).float()
        with torch.inference_mode():
            tokens = open_clip.SimpleTokenizer(context_length=model.context_length)(
                [t for pair in PAIRS for t in pair]
            )
            texts = model.encode_text(tokens)
        model.transformer = model.token_embedding = None  # 64 M of the 102 M parameters are not needed again
        self.model, self._texts = model.to(self.device), texts.to(self.device)
        self._mean, self._std = (torch.tensor(x, device=self.device)[:, None, None] for x in (MEAN, STD))

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device | str) -> "ClipIqa":
        """From a folder that holds open_clip_model.safetensors of RN50."""
        return cls(load_file(folder / "open_clip_model.safetensors"), device)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """CLIP-IQA in [0, 1], float32 (batch,), of images (batch, 3, H, W) in [0, 1].

        Raises:
            ValueError: images of less than 32 pixels on a side.
        """
        height, width = images.shape[-2:]
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"CLIP-IQA needs images of at least {SMALLEST} pixels a side, not {height} x {width}."
            )
        return torch.cat([self._batch(part) for part in images.split(max(1, PIXELS // (height * width)))])

    def _batch(self, images: Tensor) -> Tensor:
        images = (finite(images.to(self.device)) - self._mean) / self._std
        logits, _ = self.model(images, None, pos_embedding=False, text_features=self._texts)
        return logits.float().unflatten(1, (-1, 2)).softmax(-1)[..., 0].mean(1)
