"""The embedded family: tiny CLIP text tower, U-Net on pixel-unshuffled images, no VAE."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import LCMScheduler, UNet2DConditionModel
from open_clip.model import CLIP
from torch import Tensor, nn

from qsched.hub.source import BackboneError
from qsched.models.base import Backbone, Condition, hash_files
from qsched.models.spec import BackboneSpec
from qsched.quantization.batch_invariance import ROWS
from qsched.scoring.embedded_clip import EmbeddedScorer

PATCH = 4
CHANNELS = 3 * PATCH**2


def pixels(latents: Tensor) -> Tensor:
    """Latents (batch, 48, 16, 16) -> images (batch, 3, 64, 64), [-1, 1] where the latents are of an image."""
    return F.pixel_shuffle(latents, PATCH)


def to_images(latents: Tensor) -> Tensor:
    """Latents (batch, 48, 16, 16) -> images (batch, 3, 64, 64) in [0, 1]."""
    return (pixels(latents) / 2 + 0.5).clamp(0, 1)


def text_condition(model: "CLIP", tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Token states (batch, tokens, width) after the text tower's last norm, and the pooled feature scaled to
    unit variance (batch, width).

    tokens: (batch, tokens), up to the text tower's context length; padding that is cut off changes neither
        the pooled feature nor the states before it.
    """
    length = tokens.shape[1]
    states = model.token_embedding(tokens) + model.positional_embedding[:length]
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
    pooled = states[torch.arange(len(tokens)), tokens.argmax(-1)] @ model.text_projection
    return states, F.normalize(pooled, dim=-1) * math.sqrt(pooled.shape[-1])


@dataclass
class EmojiBackbone(Backbone):
    """assets/emoji-lcm (a diffusers folder: unet, scheduler) with assets/emoji-clip (an open_clip folder)
    beside it.
    """

    judge: EmbeddedScorer | None = None

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.denoiser.config.sample_size
        return CHANNELS, side, side

    @property
    def decodes_at_once(self) -> bool:
        return True

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Condition:
        # so that a prompt's numbers do not depend on the others
        padded = list(prompts) + [""] * (-len(prompts) % ROWS)
        tokens = self.judge.tokenizer(padded).to(self.device)
        lengths = [
            len(ids) for ids in self.judge.tokenizer.tokenizer(list(prompts), verbose=False)["input_ids"]
        ]
        states, pooled = (
            value[: len(prompts)].to(self.dtype) for value in text_condition(self.judge.model, tokens)
        )
        return Condition(states, pooled, tuple(length > tokens.shape[1] for length in lengths))

    @torch.inference_mode()
    def decode(self, latents: Tensor, tiny: bool = False) -> Tensor:
        return to_images(latents.float())

    def _forward(
        self, denoiser: nn.Module, latents: Tensor, timestep: Tensor, condition: Condition
    ) -> Tensor:
        return denoiser(
            latents, timestep, condition.embeds, class_labels=condition.pooled, return_dict=False
        )[0]

    def _make_scorer(self) -> EmbeddedScorer:
        return self.judge


def load_emoji(spec: BackboneSpec, source: Path, device: torch.device, dtype: torch.dtype) -> EmojiBackbone:
    """Load the denoiser from `source` and the tiny CLIP from the folder emoji-clip beside it."""
    clip_folder = source.parent / "emoji-clip"
    for folder in (source / "unet", source / "scheduler", clip_folder):
        if not folder.is_dir():
            raise BackboneError(f"{spec.id} needs the folder {folder}, which is missing.")
    unet = (
        UNet2DConditionModel.from_pretrained(source / "unet", torch_dtype=dtype)
        .to(device)
        .eval()
        .requires_grad_(False)
    )
    scheduler = LCMScheduler.from_pretrained(source / "scheduler")
    weights = source / "unet" / "diffusion_pytorch_model.safetensors"
    return EmojiBackbone(
        spec,
        device,
        dtype,
        unet,
        scheduler,
        hash_files(weights, clip_folder / "open_clip_model.safetensors"),
        judge=EmbeddedScorer(clip_folder, device),
    )
