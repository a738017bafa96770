"""FLUX.1's family: a transformer on packed latents, CLIP for the pooled and T5 for the full text."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from qsched.models.base import Condition
from qsched.models.pipeline import PipelineBackbone

TOKENS = 256
"""Tokens that T5 reads; schnell was trained with so many."""
GUIDANCE = 3.5
"""FluxPipeline's default, for fine-tunes of FLUX.1-dev, whose transformer has the scale embedded."""


@dataclass
class FluxBackbone(PipelineBackbone):
    """FluxPipeline: latents (batch, C, H, W) are packed 2 x 2 around every call, so that all else sees
    images.
    """

    @property
    def grain(self) -> int:
        return 2 * self._factor

    def set_timesteps(self, scheduler: SchedulerMixin, steps: int) -> None:
        self.use(steps)
        _, height, width = self.latent_shape
        shift = calculate_shift(
            height * width // 4,
            scheduler.config.get("base_image_seq_len", 256),
            scheduler.config.get("max_image_seq_len", 4096),
            scheduler.config.get("base_shift", 0.5),
            scheduler.config.get("max_shift", 1.15),
        )
        if scheduler.config.get("use_flow_sigmas"):
            scheduler.set_timesteps(steps, device=self.device, mu=shift)
        else:
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), device=self.device, mu=shift)

    def _embed(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        embeds, pooled, _ = self.pipe.encode_prompt(prompts, device=self.device, max_sequence_length=TOKENS)
        return embeds, pooled

    def _reader(self) -> tuple[Callable, int]:
        return self.pipe.tokenizer_2, TOKENS

    def _predict(
        self, denoiser: nn.Module, latents: Tensor, timestep: Tensor, condition: Condition
    ) -> Tensor:
        batch, channels, height, width = latents.shape
        place = {"device": self.device, "dtype": condition.embeds.dtype}
        packed = denoiser(
            hidden_states=self.pipe._pack_latents(latents, batch, channels, height, width),
            timestep=timestep.expand(batch).to(latents.dtype) / 1000,
            guidance=torch.full([batch], GUIDANCE, device=self.device)
            if denoiser.config.guidance_embeds
            else None,
            pooled_projections=condition.pooled,
            encoder_hidden_states=condition.embeds,
            txt_ids=torch.zeros(condition.embeds.shape[1], 3, **place),
            img_ids=self.pipe._prepare_latent_image_ids(batch, height // 2, width // 2, **place),
            return_dict=False,
        )[0]
        return self.pipe._unpack_latents(packed, height * self._factor, width * self._factor, self._factor)

    def _unscaled(self, vae: nn.Module, latents: Tensor) -> Tensor:
        return super()._unscaled(vae, latents) + (vae.config.shift_factor or 0.0)
