"""Training batches of the denoiser: composed scenes as latents, their captions through the frozen text tower,
noise levels; and the held-out loss.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from qsched.embedded.data import dataset
from qsched.embedded.data.scenes import Feed, Mix, Scenes
from qsched.embedded.denoiser.unet import LAST, image, new_scheduler, pseudo_huber, to_latents
from qsched.embedded.judges import clip
from qsched.models.emoji import text_condition

STYLES = ("classic", "flat", "glossy")
"""The sets that the denoiser learns to draw. By rule of thumb a network holds two bits per parameter
(Allen-Zhu and Li 2024, arXiv 2404.05405): 12.6 million parameters hold 3.1 MB; the 2,461 images of these sets
are 1.8 MB as WebP of quality 80, which leaves room for how to compose them. The judges learn from all sets.
"""
MIX = Mix(two=0.2, three=0.08)
"""Small things in many places take the longest to learn, so scenes of several are more frequent here than for
the judges.
"""
PURE_SHARE = 1 / 3
"""Of each batch, at the last timestep, where sampling starts."""
CHECKED = (999, 759, 499, 259)
CHECK_COUNT = 48


class Batches:
    """Draws the scenes of a training step and encodes them.

    Args:
        styles: sets to draw from; those that the data lacks are ignored.
        workers: processes that draw them.
    """

    def __init__(
        self,
        data: Path,
        clip_folder: Path,
        where: torch.device,
        seed: int,
        styles: Sequence[str] = STYLES,
        workers: int = 0,
    ):
        self.emoji, self.where = dataset.load(data), where
        self.text, self.tokenizer = clip.load_clip(clip_folder, self.emoji)
        self.text.to(where).requires_grad_(False)
        self.styles = [s for s in styles if s in self.emoji.styles] or self.emoji.styles
        self.usable = self.emoji.train_indices(self.styles, unseen=False)
        scenes = Scenes(self.emoji, self.usable, mix=MIX, seed=seed, where="cpu" if workers else where)
        self.feed = Feed(scenes, workers)
        self.alphas = new_scheduler().alphas_cumprod.sqrt().to(where)
        self.sigmas = (1 - new_scheduler().alphas_cumprod).sqrt().to(where)

    @torch.no_grad()
    def encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Token states (count, tokens, width) and pooled text (count, width)."""
        with torch.autocast(self.where.type, dtype=torch.bfloat16):
            states, pooled = text_condition(self.text, self.tokenizer(captions).to(self.where))
        return states.float(), pooled.float()

    def draw(self, count: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Clean latents (count, 48, 16, 16), token states and pooled text of a step's scenes."""
        drawn = self.feed.draw(count, step)
        return to_latents(drawn.images.to(self.where)), *self.encode(drawn.captions)

    def levels(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t as (count, 1, 1, 1)."""
        return self.alphas[timesteps].view(-1, 1, 1, 1), self.sigmas[timesteps].view(-1, 1, 1, 1)

    def noised(
        self, clean: Tensor, noise: Tensor, timesteps: Tensor, pure_share: float = PURE_SHARE
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x_t, timesteps, alpha_t and sigma_t; the first `pure_share` becomes pure noise at the last
        timestep, where sampling starts.
        """
        pure = torch.arange(len(clean), device=clean.device) < round(pure_share * len(clean))
        timesteps = torch.where(pure, LAST, timesteps)
        alpha, sigma = self.levels(timesteps)
        return (
            torch.where(pure.view(-1, 1, 1, 1), noise, alpha * clean + sigma * noise),
            timesteps,
            alpha,
            sigma,
        )

    def checks(self) -> dict[str, Tensor]:
        """Indices of the images whose loss is followed: seen ones, held-out pairs, and unseen concepts (where
        there are any).
        """
        emoji = self.emoji
        styled = torch.isin(emoji.style, torch.tensor([emoji.styles.index(s) for s in self.styles]))
        unseen = torch.zeros_like(styled) if emoji.unseen is None else emoji.unseen[emoji.concept]
        found = {
            "seen": self.usable,
            "held_out": (styled & emoji.held_out & ~unseen).nonzero().flatten(),
            "unseen": (styled & unseen & ~emoji.held_out).nonzero().flatten(),
        }
        return {
            k: v[torch.linspace(0, len(v) - 1, min(len(v), CHECK_COUNT)).long()]
            for k, v in found.items()
            if len(v)
        }

    @torch.no_grad()
    def held_out_loss(self, forward: Callable[..., tuple[Tensor, ...]]) -> dict[str, float]:
        """Mean loss on plain images and captions, at fixed noise and CHECKED timesteps, by kind of image;
        noise prediction by `forward`.
        """
        losses = {}
        for kind, indices in self.checks().items():
            clean = to_latents(self.emoji.images_of(indices)).to(self.where)
            states, pooled = self.encode([self.emoji.caption(int(i)) for i in indices])
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)).to(self.where)
            total = 0.0
            for t in CHECKED:
                timesteps = torch.full((len(clean),), t, device=self.where)
                noisy, timesteps, alpha, sigma = self.noised(clean, noise, timesteps, float(t == LAST))
                with torch.autocast(self.where.type, dtype=torch.bfloat16):
                    predicted = forward(noisy, timesteps, states, class_labels=pooled, return_dict=False)[0]
                total += float(pseudo_huber(image(noisy, predicted.float(), alpha, sigma) - clean).mean())
            losses[f"loss_{kind}"] = round(total / len(CHECKED), 5)
        return losses
