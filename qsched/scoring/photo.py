"""The judge of real backbones: CLIPScore by open_clip and CLIP-IQA as pyiqa computes it."""

from collections.abc import Callable, Sequence

from torch import Tensor

from qsched.scoring import ImageScores
from qsched.scoring.clip import ClipModel
from qsched.scoring.clip_iqa import ClipIqa
from qsched.scoring.lpips import Lpips
from qsched.scoring.weights import ScorerError


class Perceptual:
    """LPIPS, loaded when it is first asked for; None where its weights cannot be had, until they are there.

    Args:
        load: makes it, or raises ScorerError; None for a scorer without LPIPS.
        is_here: whether its weights are on this machine; what failed is tried again when they have come.
    """

    def __init__(self, load: Callable[[], Lpips] | None = None, is_here: Callable[[], bool] = lambda: False):
        self._load, self._is_here, self._lpips, self._tried, self._seen = load, is_here, None, False, False

    @property
    def ready(self) -> bool:
        """Whether it gives distances now."""
        if self._lpips is None and self._load is not None:
            here = self._is_here()
            if not self._tried or (here and not self._seen):
                self._tried = True
                try:
                    self._lpips = self._load()
                except ScorerError:
                    self._lpips = None
            self._seen = here
        return self._lpips is not None

    def __call__(self, images: Tensor, reference: Tensor) -> Tensor | None:
        """LPIPS of every image to its reference, (batch,) on the CPU, or None."""
        return self._lpips(images, reference).cpu() if self.ready else None


class PhotoScorer:
    """CLIPScore = 100 * max(cos, 0) (Hessel et al. 2021, without its 2.5 and its prefix) and CLIP-IQA (Wang
    et al. 2023).

    Scores do not depend on the batch; images that are not finite score as black ones do.

    Args:
        clip: gives CLIPScore. second: gives the quality.
        name, definition: see `Scorer`.
        lpips: gives LPIPS.
    """

    quality_name = "CLIP-IQA"

    def __init__(
        self,
        clip: ClipModel,
        second: ClipIqa | ClipModel,
        name: str,
        definition: str,
        lpips: Perceptual | None = None,
    ):
        self.clip, self.second, self.name, self.definition = clip, second, name, definition
        self.lpips = lpips or Perceptual()

    def score(self, images: Tensor, prompts: Sequence[str]) -> ImageScores:
        """Alignment (batch,) in [0, 100] and quality (batch,) in [0, 1] of images (batch, 3, H,
        W) in [0, 1].
        """
        return ImageScores(self.alignment(images, prompts), self.quality(images))

    def alignment(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """CLIPScore per image (batch,)."""
        return 100 * self.clip.cosines(images, prompts)

    def quality(self, images: Tensor) -> Tensor:
        """CLIP-IQA per image (batch,)."""
        return self.second(images)
