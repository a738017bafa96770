"""The embedded family: tiny CLIP text tower, U-Net on pixel-unshuffled pictures, no VAE."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import LCMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from qsched.backbones.base import Backbone, Condition, hash_files
from qsched.backbones.spec import BackboneError, BackboneSpec
from qsched.batch_invariance import ROWS
from qsched.embedded.denoiser import CHANNELS, text_condition, to_images
from qsched.scoring.embedded_clip import EmbeddedScorer


@dataclass
class EmojiBackbone(Backbone):
    """assets/emoji-lcm (a diffusers folder: unet, scheduler) with assets/emoji-clip (an open_clip folder) beside it."""

    judge: EmbeddedScorer | None = None

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.denoiser.config.sample_size
        return CHANNELS, side, side

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Condition:
        padded = list(prompts) + [""] * (-len(prompts) % ROWS)  # so that a prompt's numbers do not depend on the others
        tokens = self.judge.tokenizer(padded).to(self.device)
        lengths = [len(ids) for ids in self.judge.tokenizer.tokenizer(list(prompts), verbose=False)["input_ids"]]
        states, pooled = (value[: len(prompts)].to(self.dtype) for value in text_condition(self.judge.model, tokens))
        return Condition(states, pooled, tuple(length > tokens.shape[1] for length in lengths))

    @torch.inference_mode()
    def decode(self, latents: Tensor, tiny: bool = False) -> Tensor:
        return to_images(latents.float())

    def _forward(self, denoiser: nn.Module, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        return denoiser(latents, timestep, condition.embeds, class_labels=condition.pooled, return_dict=False)[0]

    def _make_scorer(self) -> EmbeddedScorer:
        return self.judge


def load_emoji(spec: BackboneSpec, source: Path, device: torch.device, dtype: torch.dtype) -> EmojiBackbone:
    """Load the denoiser from `source` and the tiny CLIP from the folder emoji-clip beside it."""
    clip_folder = source.parent / "emoji-clip"
    for folder in (source / "unet", source / "scheduler", clip_folder):
        if not folder.is_dir():
            raise BackboneError(f"{spec.id} needs the folder {folder}, which is missing.")
    unet = (
        UNet2DConditionModel.from_pretrained(source / "unet", torch_dtype=dtype).to(device).eval().requires_grad_(False)
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
