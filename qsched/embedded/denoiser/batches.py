"""Training batches of the denoiser: scenes as latents, their captions through the frozen text tower, noise
levels; and the held-out loss.

`PixelBatches` draws its scenes anew in every step; `bank.LatentBatches` reads encoded ones.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from qsched.embedded.data import dataset
from qsched.embedded.data.scenes import Mix, Scenes
from qsched.embedded.denoiser import unet as denoiser
from qsched.embedded.denoiser.unet import LAST, image, new_scheduler, pseudo_huber
from qsched.embedded.judges import clip
from qsched.embedded.training import loop as training
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


def drawn_styles(emoji: dataset.Emoji) -> list[str]:
    """STYLES, of those that the data has; all of the data's if it has none of them."""
    return [style for style in STYLES if style in emoji.styles] or emoji.styles


def names_style(captions: Sequence[str], styles: Sequence[str]) -> Tensor:
    """Whether each caption says in which style to draw, bool (count,)."""
    word = re.compile(rf"\b({'|'.join(map(re.escape, styles))})\b")
    return torch.tensor([bool(word.search(caption)) for caption in captions])


@dataclass
class Batch:
    """What one step trains on.

    clean: latents (count, C, height, width); states, pooled: the texts, (count, tokens, width) and (count,
    width); styled: whether a caption names the style, bool (count,).
    """

    clean: Tensor
    states: Tensor
    pooled: Tensor
    styled: Tensor


class Batches(ABC):
    """Texts, noise levels and the held-out loss; a kind of model adds its network, latents and scenes.

    Args:
        where: the device of all tensors.
        seed: of what is drawn, together with the step.
    """

    def __init__(self, data: Path, clip_folder: Path, where: torch.device, seed: int):
        self.emoji, self.where, self.seed = dataset.load(data), where, seed
        self.text, self.tokenizer = clip.load_clip(clip_folder, self.emoji)
        self.text.to(where).requires_grad_(False)
        self.styles = drawn_styles(self.emoji)
        self.usable = self.emoji.train_indices(self.styles, unseen=False)
        self.alphas = new_scheduler().alphas_cumprod.sqrt().to(where)
        self.sigmas = (1 - new_scheduler().alphas_cumprod).sqrt().to(where)

    @abstractmethod
    def new_unet(self) -> UNet2DConditionModel:
        """An untrained denoiser of these latents."""

    @abstractmethod
    def to_latents(self, images: Tensor) -> Tensor:
        """Latents of images (count, 3, height, width) in [0, 1]."""

    @abstractmethod
    def draw(self, count: int, step: int) -> Batch:
        """The scenes of a step."""

    @torch.no_grad()
    def encode_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Token states (count, tokens, width) and pooled text (count, width) of token ids (count, tokens)."""
        with training.autocast(self.where):
            states, pooled = text_condition(self.text, tokens.to(self.where))
        return states.float(), pooled.float()

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The same of captions."""
        return self.encode_tokens(self.tokenizer(list(captions)))

    def without_text(self, batch: Batch, share: float) -> Batch:
        """The batch with so large a share of its captions replaced by the empty one: what guidance needs."""
        if not share:
            return batch
        dropped = torch.rand(len(batch.clean), device=self.where) < share
        states, pooled = self.encode([""])
        states = torch.where(dropped.view(-1, 1, 1), states, batch.states)
        return Batch(
            batch.clean, states, torch.where(dropped.view(-1, 1), pooled, batch.pooled), batch.styled
        )

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
        unseen = emoji.unseen[emoji.concept]
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
            clean = self.to_latents(self.emoji.images_of(indices).to(self.where))
            states, pooled = self.encode([self.emoji.caption(int(i)) for i in indices])
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)).to(self.where)
            total = 0.0
            for t in CHECKED:
                timesteps = torch.full((len(clean),), t, device=self.where)
                noisy, timesteps, alpha, sigma = self.noised(clean, noise, timesteps, float(t == LAST))
                with training.autocast(self.where):
                    predicted = forward(noisy, timesteps, states, class_labels=pooled, return_dict=False)[0]
                total += float(pseudo_huber(image(noisy, predicted.float(), alpha, sigma) - clean).mean())
            losses[f"loss_{kind}"] = round(total / len(CHECKED), 5)
        return losses


class PixelBatches(Batches):
    """Scenes as pixel-unshuffled images (count, 48, 16, 16)."""

    def __init__(self, data: Path, clip_folder: Path, where: torch.device, seed: int):
        super().__init__(data, clip_folder, where, seed)
        self.scenes = Scenes(self.emoji, self.usable, mix=MIX, seed=seed, where=where)

    def new_unet(self) -> UNet2DConditionModel:
        return denoiser.new_unet()

    def to_latents(self, images: Tensor) -> Tensor:
        return denoiser.to_latents(images)

    def draw(self, count: int, step: int) -> Batch:
        drawn = self.scenes.draw(count, step)
        styled = names_style(drawn.captions, self.styles).to(self.where)
        return Batch(self.to_latents(drawn.images), *self.encode(drawn.captions), styled)
