"""The embedded family: tiny CLIP text tower, and a U-Net on the latents of a tiny autoencoder or, where a
folder has none, on pixel-unshuffled images.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, LCMScheduler, UNet2DConditionModel
from open_clip.model import CLIP
from torch import Tensor, nn

from qsched.hub.source import BackboneError
from qsched.models.base import Backbone, Condition, hash_files
from qsched.models.spec import BackboneSpec
from qsched.models.words import read_words, unknown
from qsched.quantization.batch_invariance import ROWS
from qsched.scoring.embedded_clip import EmbeddedScorer

PATCH = 4
CHANNELS = 3 * PATCH**2


def to_images(latents: Tensor) -> Tensor:
    """Latents (batch, 48, 16, 16) -> images (batch, 3, 64, 64) in [0, 1]."""
    return (F.pixel_shuffle(latents, PATCH) / 2 + 0.5).clamp(0, 1)


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
    """assets/emoji-lcm (a diffusers folder: unet, scheduler, in a latent model also vae) with
    assets/emoji-clip (an open_clip folder) beside it.

    known: the words of the training captions; empty where no file names them.
    vae: the autoencoder of a latent model, float32; None where the latents are pixels.
    """

    judge: EmbeddedScorer | None = None
    known: frozenset[str] = frozenset()
    vae: AutoencoderTiny | None = None

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        config = self.denoiser.config
        return config.in_channels, config.sample_size, config.sample_size

    def unknown_words(self, prompt: str) -> list[str]:
        return unknown(prompt, self.known) if self.known else []

    def preview(self, latents: Tensor) -> Tensor:
        return self.decode(latents)  # an autoencoder takes about as long as one call of the denoiser

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
        if self.vae is None:
            return to_images(latents.float())
        scaled = latents.float() / self.vae.config.scaling_factor
        return (self.vae.decode(scaled, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)

    def _forward(
        self, denoiser: nn.Module, latents: Tensor, timestep: Tensor, condition: Condition
    ) -> Tensor:
        return denoiser(
            latents, timestep, condition.embeds, class_labels=condition.pooled, return_dict=False
        )[0]

    def _make_scorer(self) -> EmbeddedScorer:
        return self.judge


def load_emoji(spec: BackboneSpec, source: Path, device: torch.device, dtype: torch.dtype) -> EmojiBackbone:
    """Load denoiser, scheduler and, where there is one, autoencoder from `source`, and the tiny CLIP from the
    folder emoji-clip beside it.

    Raises:
        BackboneError: a folder is missing, or denoiser and autoencoder do not belong together.
    """
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
    vae = load_autoencoder(source / "vae").to(device) if (source / "vae").is_dir() else None
    channels, factor = CHANNELS, PATCH
    if vae is not None:
        vae.to(memory_format=torch.channels_last)  # one image decodes in half the time on a CPU
        channels, factor = vae.config.latent_channels, pixels_per_latent(vae)
    if unet.config.in_channels != channels:
        what = f"{source / 'vae'} has {channels}" if vae else f"pixels without a vae folder have {channels}"
        raise BackboneError(
            f"{spec.id} cannot be loaded from {source}: its denoiser takes {unet.config.in_channels} "
            f"channels, and {what}."
        )
    parts = [source / "unet", *([source / "vae"] if vae else [])]
    weights = [part / "diffusion_pytorch_model.safetensors" for part in parts]
    weights.insert(1, clip_folder / "open_clip_model.safetensors")
    return EmojiBackbone(
        replace(spec, size=unet.config.sample_size * factor),
        device,
        dtype,
        unet,
        LCMScheduler.from_pretrained(source / "scheduler"),
        hash_files(*weights),
        judge=EmbeddedScorer(clip_folder, device),
        known=read_words(clip_folder),
        vae=vae,
    )


def load_autoencoder(folder: Path) -> AutoencoderTiny:
    """A tiny autoencoder from its diffusers folder, in float32 and to be used, not trained.

    Raises:
        BackboneError: the folder holds something else.
    """
    kind = json.loads((folder / "config.json").read_text()).get("_class_name")
    if kind != AutoencoderTiny.__name__:
        raise BackboneError(f"{folder} holds {kind or 'something unknown'} and no AutoencoderTiny.")
    return AutoencoderTiny.from_pretrained(folder, torch_dtype=torch.float32).eval().requires_grad_(False)


def pixels_per_latent(vae: AutoencoderTiny) -> int:
    """Image pixels along one side of a latent: every block of the decoder but the last doubles the side."""
    return 2 ** (len(vae.config.decoder_block_out_channels) - 1)
