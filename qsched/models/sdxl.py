"""SDXL's family: SDXL-Turbo and PCM on SDXL base, two text encoders, no guidance."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from qsched.models.base import Condition
from qsched.models.pipeline import PipelineBackbone
from qsched.models.sd import guidance_embedding


@dataclass
class SDXLBackbone(PipelineBackbone):
    """StableDiffusionXLPipeline without classifier-free guidance, uncropped."""

    def _embed(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            prompts, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return embeds, pooled

    def _reader(self) -> tuple[Callable, int]:
        return self.pipe.tokenizer, self.pipe.tokenizer.model_max_length

    def _predict(
        self, denoiser: nn.Module, latents: Tensor, timestep: Tensor, condition: Condition
    ) -> Tensor:
        size = tuple(side * self._factor for side in latents.shape[-2:])
        width = condition.pooled.shape[-1]
        ids = self.pipe._get_add_time_ids(size, (0, 0), size, condition.embeds.dtype, width).to(self.device)
        return denoiser(
            latents,
            timestep,
            encoder_hidden_states=condition.embeds,
            timestep_cond=guidance_embedding(self, len(latents)),
            added_cond_kwargs={"text_embeds": condition.pooled, "time_ids": ids.repeat(len(latents), 1)},
            return_dict=False,
        )[0]

    def _unscaled(self, vae: nn.Module, latents: Tensor) -> Tensor:
        mean, deviation = (vae.config.get(name) for name in ("latents_mean", "latents_std"))
        if mean is None or deviation is None:
            return super()._unscaled(vae, latents)
        mean, deviation = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (mean, deviation))
        return super()._unscaled(vae, latents * deviation) + mean
