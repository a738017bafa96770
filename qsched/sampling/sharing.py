"""Many candidates on the same images: whatever they agree on is computed once.

Coefficients act after a prediction (arXiv 2509.01624), so candidates that agree on their first i coefficients
share x_i and E(x_i, t_i). Any two agree on none of them at least: they share the first prediction. Candidates
that differ in their last step alone need no denoiser call at all.
"""

from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from qsched.models.base import Backbone, Condition
from qsched.sampling.coefficients import Coefficients, stack
from qsched.sampling.loop import Noise, decode, denoise, prepare_scheduler, scaled, start_latents

Rows = tuple[tuple[float, float], ...]
"""(c_x, c_eps) of the first steps."""
CACHED_PREFIXES = 16


@dataclass(frozen=True)
class Prefix:
    """All images at one step: latents x_i and prediction E(x_i, t_i), (images, C, H, W) both, and what noise
    comes next.
    """

    latents: Tensor
    prediction: Tensor
    noise: Noise


class SharedSampler:
    """Runs candidates on a fixed set of images with one denoiser.

    Args:
        condition, noise: one per image.
        denoiser: None for full precision.
        tiny: decode with the tiny decoder.
    """

    def __init__(
        self,
        backbone: Backbone,
        condition: Condition,
        noise: Noise,
        steps: int,
        denoiser: nn.Module | None,
        tiny: bool = False,
    ):
        self.tiny = tiny
        self.backbone, self.condition, self.noise, self.steps, self.denoiser = (
            backbone,
            condition,
            noise,
            steps,
            denoiser,
        )
        self._prefixes: OrderedDict[Rows, Prefix] = OrderedDict()

    def images(
        self, candidates: Sequence[Coefficients], batch_size: int, deepest: int | None = None
    ) -> Iterator[tuple[list[int], list[int], Tensor]]:
        """Every candidate on every image, in batches; yields (candidate index per image, image index per
        image, images (batch, 3, H, W)), all three empty for a batch that makes no images yet.

        Args:
            deepest: share no more than so many steps. None shares all that these candidates agree on, which
                is worth it if later candidates will agree on it too; without, each batch goes from there to
                its images.
        """
        if not candidates:
            return
        shared = _agreement([_rows(candidate, self.steps) for candidate in candidates])[:deepest]
        prefix, begin = (yield from self._prefix(shared, batch_size)), len(shared)
        pairs = [(c, i) for c in range(len(candidates)) for i in range(len(self.noise))]
        for chunk in _chunks(pairs, batch_size):
            which, images = [c for c, _ in chunk], [i for _, i in chunk]
            scheduler = prepare_scheduler(self.backbone, self.steps, [candidates[c] for c in which])
            latents = denoise(
                self.backbone,
                self.condition.select(images),
                scheduler,
                prefix.latents[images],
                prefix.noise.select(images).generators(),
                self.denoiser,
                prefix.prediction[images],
                begin,
            )
            yield which, images, decode(self.backbone, latents, self.tiny)

    def _prefix(self, rows: Rows, batch_size: int) -> Generator[tuple[list, list, Tensor], None, Prefix]:
        """Where the trajectories stand after these steps; an empty batch after every one that is computed for
        it.
        """
        if rows not in self._prefixes:
            before = (yield from self._prefix(rows[:-1], batch_size)) if rows else None
            parts = []
            for chunk in _chunks(range(len(self.noise)), batch_size):
                parts.append(self._advance(before, rows, chunk))
                yield [], [], torch.empty(0)
            latents, predictions, noises = zip(*parts, strict=True)
            self._prefixes[rows] = Prefix(torch.cat(latents), torch.cat(predictions), Noise.join(noises))
            while len(self._prefixes) > CACHED_PREFIXES:
                self._prefixes.popitem(last=False)
        self._prefixes.move_to_end(rows)
        return self._prefixes[rows]

    @torch.inference_mode()
    def _advance(
        self, before: Prefix | None, rows: Rows, images: Sequence[int]
    ) -> tuple[Tensor, Tensor, Noise]:
        """One step from `before` (None: from the start noise) with the last of these rows, then the
        prediction there.
        """
        condition, step = self.condition.select(images), len(rows)
        if before is None:
            scheduler, noise = prepare_scheduler(self.backbone, self.steps, None), self.noise.select(images)
            latents = start_latents(self.backbone, scheduler, noise)
        else:
            padded = [*rows, *[(1.0, 1.0)] * (self.steps - step)]
            c_x, c_eps = zip(*padded, strict=True)
            one = Coefficients.per_step(c_x, c_eps)
            scheduler, noise = (
                prepare_scheduler(self.backbone, self.steps, [one] * len(images)),
                before.noise.select(images),
            )
            generators = noise.generators()
            latents = denoise(
                self.backbone, condition, scheduler, before.latents[images], generators, self.denoiser,
                before.prediction[images], step - 1, step,
            )  # fmt: skip
            noise = Noise(noise.start, tuple(generator.get_state() for generator in generators))
        timestep = scheduler.timesteps[step]
        prediction = self.backbone.predict(
            scaled(scheduler, latents, timestep), timestep, condition, self.denoiser
        )
        return latents, prediction, noise


def _rows(candidate: Coefficients, steps: int) -> Rows:
    c_x, c_eps = stack([candidate], steps)
    return tuple(zip(c_x[:, 0].tolist(), c_eps[:, 0].tolist(), strict=True))


def _agreement(candidates: list[Rows]) -> Rows:
    """The longest common beginning, always without the last step: a prediction must be left to act on."""
    common = candidates[0][:-1]
    for rows in candidates[1:]:
        length = next((i for i, (a, b) in enumerate(zip(common, rows, strict=False)) if a != b), len(common))
        common = common[:length]
    return common


def _chunks(items: Sequence, size: int) -> list[Sequence]:
    """As few parts of at most this size as possible, as equal as possible."""
    count = -(-len(items) // size)
    bounds = [index * len(items) // count for index in range(count + 1)]
    return [items[begin:end] for begin, end in pairwise(bounds)]
