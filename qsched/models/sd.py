"""Stable Diffusion 1.5's family: LCM (guidance embedded in the U-Net) and PCM (no guidance)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qsched.models.base import Condition
from qsched.models.pipeline import PipelineBackbone


@dataclass
class SDBackbone(PipelineBackbone):
    """LatentConsistencyModelPipeline or StableDiffusionPipeline without classifier-free guidance."""

    def _embed(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        embeds, _ = self.pipe.encode_prompt(prompts, self.device, 1, False)
        return embeds, embeds.new_zeros(len(embeds), 0)

    def _reader(self) -> tuple[Callable, int]:
        return self.pipe.tokenizer, self.pipe.tokenizer.model_max_length

    def _predict(
        self, denoiser: nn.Module, latents: Tensor, timestep: Tensor, condition: Condition
    ) -> Tensor:
        return denoiser(
            latents,
            timestep,
            encoder_hidden_states=condition.embeds,
            timestep_cond=guidance_embedding(self, len(latents)),
            return_dict=False,
        )[0]


def guidance_embedding(backbone: PipelineBackbone, batch: int) -> Tensor | None:
    """The guidance scale as the U-Net was taught it, (batch, width); None for a U-Net that was not."""
    width = backbone.denoiser.config.time_cond_proj_dim
    if width is None:
        return None
    scale = torch.tensor((backbone.spec.guidance or 1.0) - 1).repeat(
        batch
    )  # diffusers counts from 1, the LCM paper from 0
    return backbone.pipe.get_guidance_scale_embedding(scale, width).to(backbone.device, backbone.dtype)
