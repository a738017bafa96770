"""The judge of real backbones: CLIPScore by open_clip and CLIP-IQA as pyiqa computes it."""

from collections.abc import Callable, Sequence

from torch import Tensor

from qsched.scoring import ImageScores
from qsched.scoring.clip import ClipModel
from qsched.scoring.clip_iqa import ClipIqa
from qsched.scoring.lpips import Lpips
from qsched.scoring.weights import ScorerError


class Perceptual:
    """LPIPS, loaded when it is first asked for; None for good where its weights cannot be had.

    Args:
        load: makes it, or raises ScorerError.
    """

    def __init__(self, load: Callable[[], Lpips] | None):
        self._load, self._lpips = load, None

    def __call__(self, images: Tensor, reference: Tensor) -> Tensor | None:
        """LPIPS of every picture to its reference, (batch,) on the CPU, or None."""
        if self._load is not None:
            try:
                self._lpips = self._load()
            except ScorerError:
                self._lpips = None
            self._load = None
        return None if self._lpips is None else self._lpips(images, reference).cpu()


class PhotoScorer:
    """CLIPScore = 100 * max(cos, 0) (Hessel et al. 2021, without its 2.5 and its prefix) and CLIP-IQA (Wang et al. 2023).

    Scores do not depend on the batch; pictures that are not finite score as black ones do.

    Args:
        clip: gives CLIPScore. iqa: gives CLIP-IQA.
        name, definition: see `Scorer`.
        lpips: loads LPIPS when it is first asked for.
    """

    quality_name = "CLIP-IQA"

    def __init__(
        self, clip: ClipModel, iqa: ClipIqa, name: str, definition: str, lpips: Callable[[], Lpips] | None = None
    ):
        self.clip, self.iqa, self.name, self.definition = clip, iqa, name, definition
        self.lpips = Perceptual(lpips)

    def score(self, images: Tensor, prompts: Sequence[str]) -> ImageScores:
        """Alignment (batch,) in [0, 100] and quality (batch,) in [0, 1] of pictures (batch, 3, H, W) in [0, 1]."""
        return ImageScores(self.alignment(images, prompts), self.quality(images))

    def alignment(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """CLIPScore per picture (batch,)."""
        return 100 * self.clip.cosines(images, prompts)

    def quality(self, images: Tensor) -> Tensor:
        """CLIP-IQA per picture (batch,)."""
        return self.iqa(images)
