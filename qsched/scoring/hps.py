"""The judge that comes closest to the paper's second JAQ, for SDXL-Turbo and FLUX: CLIPScore and HPSv2.

There the paper takes AQ-Map + 2 * HPSv2 (arXiv 2509.01624). AQ-Map is not available, so CLIPScore stands in
its place: log(CLIPScore) + k * HPSv2 is an approximation, and its definition says so wherever the number is
shown.
"""

from collections.abc import Sequence

from torch import Tensor

from qsched.scoring import ImageScores
from qsched.scoring.photo import PhotoScorer


class HpsScorer(PhotoScorer):
    """CLIPScore = 100 * max(cos, 0) and, as quality, HPSv2 = max(cos, 0) of its own ViT-H-14 (Wu et al.
    2023).

    HPSv2 is a preference for an image given its prompt, so `quality` needs the prompts, unlike CLIP-IQA's.
    The second model is ViT-H-14 with HPSv2's weights.
    """

    quality_name = "HPSv2.1"

    def score(self, images: Tensor, prompts: Sequence[str]) -> ImageScores:
        """Alignment (batch,) in [0, 100] and quality (batch,) in [0, 1] of images (batch, 3, H,
        W) in [0, 1].
        """
        return ImageScores(self.alignment(images, prompts), self.quality(images, prompts))

    def quality(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """HPSv2 per image (batch,).

        Raises:
            ValueError: without prompts.
        """
        if prompts is None:
            raise ValueError("HPSv2 judges an image together with its prompt: give the prompts too.")
        return self.second.cosines(images, prompts)
