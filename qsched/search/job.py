"""How a search computes: candidates in, the scores of every image out."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from qsched.models.base import Backbone
from qsched.sampling.loop import Noise, decode, draw_noise, images_per_batch, sample
from qsched.sampling.sharing import SharedSampler
from qsched.search.options import Candidate, SearchOptions
from qsched.search.study import Scores

IMAGES_PER_CLAIM = 128
"""Of a grid, so that claiming costs little; what is not finished when a process dies is computed again."""
BATCH_FROM_SCRATCH = 5
"""The paper's code runs and scores five prompts at a time."""
OnImages = Callable[[int, np.ndarray, np.ndarray], None]
Device = Callable[[Callable[[], int | None]], int | None]
"""Calls the function that it is given and returns its result, at a time and in a thread of its choice."""


class SearchError(RuntimeError):
    """A search that cannot give a result; the text is one sentence for the user."""


class Job:
    """Computes candidates for checked options: together and sharing what they can, or each from scratch.

    Args:
        batch_size: images per batch, halved for as long as the device runs out of memory; None is the
            strategy's own.
        device: runs every batch; a queue here lets other work in between.
    """

    def __init__(self, backbone: Backbone, options: SearchOptions, batch_size: int | None = None,
                 device: Device | None = None):  # fmt: skip
        self.backbone, self.options = backbone, options
        self.from_scratch = options.strategy == "exhaustive"
        self.batch_size = batch_size or (
            BATCH_FROM_SCRATCH if self.from_scratch else images_per_batch(backbone.device)
        )
        self._claimed = (
            IMAGES_PER_CLAIM if options.strategy == "shared" and batch_size is None else self.batch_size
        )
        self.texts = list(options.prompts) * options.seeds
        self.seeds = list(range(options.seed, options.seed + options.seeds))
        self.images: dict[Candidate, Tensor] = {}
        self._device = device or (lambda batch: batch())
        self._sampler: SharedSampler | None = None

    @property
    def at_once(self) -> int:
        """Candidates to claim together: whole ones that fit one batch, of a grid more; at least one."""
        return 1 if self.from_scratch else max(1, self._claimed // self.options.images)

    def compute(self, candidates: Sequence[Candidate], on_images: OnImages | None = None) -> list[Scores]:
        """Scores of every candidate; NaN for an image that is not finite. The first image of each is kept in
        `images`.

        Args:
            on_images: called after every batch with the number of its images, and with alignment and quality
                of all candidates so far, (candidates, images), NaN where an image is not done.
        Raises:
            SearchError: one image alone does not fit the memory.
        """
        while True:
            try:
                return self._compute(candidates, on_images or (lambda *done: None))
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise SearchError("One image alone does not fit the device's memory.") from None
                self.batch_size //= 2
                torch.cuda.empty_cache()

    def _compute(self, candidates: Sequence[Candidate], on_images: OnImages) -> list[Scores]:
        self.images = {}
        alignment = torch.full((len(candidates), len(self.texts)), torch.nan)
        quality = alignment.clone()
        batches = self._from_scratch(candidates) if self.from_scratch else self._shared(candidates)
        while (
            count := self._device(partial(self._batch, batches, candidates, alignment, quality))
        ) is not None:
            if count:
                on_images(count, alignment.numpy(), quality.numpy())
        return [Scores(*rows) for rows in zip(_rounded(alignment), _rounded(quality), strict=True)]

    def _batch(
        self, batches: Iterator, candidates: Sequence[Candidate], alignment: Tensor, quality: Tensor
    ) -> int | None:
        """Compute and score the next batch; returns how many images it made, None if there is no next one."""
        batch = next(batches, None)
        if batch is None:
            return None
        which, image, images = batch
        if not which:
            return 0
        scores = self.backbone.scorer().score(images, [self.texts[index] for index in image])
        broken = ~images.isfinite().flatten(1).all(dim=1)
        alignment[which, image] = scores.alignment.masked_fill(broken, torch.nan).cpu()
        quality[which, image] = scores.quality.masked_fill(broken, torch.nan).cpu()
        for c, index, drawn_image in zip(which, image, images, strict=True):
            if index == 0:
                self.images[candidates[c]] = drawn_image.cpu()
        return len(image)

    def _shared(self, candidates: Sequence[Candidate]):
        if self._sampler is None:
            prompts = range(len(self.options.prompts))
            condition = self.backbone.encode(self.options.prompts).select(list(prompts) * len(self.seeds))
            noise = Noise.join([draw_noise(self.backbone.latent_shape, seed, prompts) for seed in self.seeds])
            self._sampler = SharedSampler(
                self.backbone, condition, noise, self.options.steps, self._denoiser(),
                self.options.tiny_decoder,
            )  # fmt: skip
        coefficients = [candidate.coefficients(self.options.shape) for candidate in candidates]
        # no two pairs share a first step
        deepest = 0 if all(candidate.is_pair for candidate in candidates) else None
        yield from self._sampler.images(coefficients, self.batch_size, deepest)

    def _from_scratch(self, candidates: Sequence[Candidate]):
        for which, candidate in enumerate(candidates):
            for seed_index, seed in enumerate(self.seeds):
                prompts = self.options.prompts
                for begin in range(0, len(prompts), self.batch_size):
                    chunk = list(range(len(prompts)))[begin : begin + self.batch_size]
                    latents = sample(
                        self.backbone,
                        self.backbone.encode([prompts[p] for p in chunk]),
                        draw_noise(self.backbone.latent_shape, seed, chunk),
                        self.options.steps,
                        candidate.coefficients(self.options.shape),
                        self._denoiser(),
                    )
                    images = [seed_index * len(prompts) + p for p in chunk]
                    yield (
                        [which] * len(chunk),
                        images,
                        decode(self.backbone, latents, self.options.tiny_decoder),
                    )

    def _denoiser(self) -> torch.nn.Module:
        self.backbone.use(self.options.steps)
        return self.backbone.quantized(self.options.quantization).module


def _rounded(scores: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in scores.tolist()]
