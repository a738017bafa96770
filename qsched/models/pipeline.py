"""What the families that diffusers has pipelines for share: text encoders, denoiser and decoder that take
turns on the device.
"""

import gc
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor, nn

from qsched.hub.source import BackboneError
from qsched.models import memory
from qsched.models.base import Backbone, Condition
from qsched.models.methods import calibrate
from qsched.models.parts import PHOTO_SCORER
from qsched.models.residency import HOST, Residency
from qsched.quantization import PackedLayer, Quantization, Quantized, stored_bytes
from qsched.scoring import Scorer

DECODED_PIXELS = 512 * 512
"""Pixels decoded at once, so that a batch of candidates needs no more memory than one image."""
ENCODED_PROMPTS = 16
"""Prompts encoded at once."""


@dataclass
class PipelineBackbone(Backbone):
    """A stock diffusers pipeline, taken apart.

    pipe: the pipeline, whose components and helpers are used. image: height and width in pixels. tiny: a
        small decoder.
    judge: a scorer in place of the one named `scores`, a key of qsched.scoring.loading.SCORERS, whose weights
    `pull` fetches: nothing large comes unasked. weights: gives the denoiser for a LoRA file; lora: the one
    that is fused.
    """

    pipe: DiffusionPipeline | None = None
    image: tuple[int, int] = (512, 512)
    residency: Residency | None = None
    tiny: nn.Module | None = None
    judge: Scorer | None = None
    scores: str = PHOTO_SCORER
    weights: Callable[[str], nn.Module] | None = None
    lora: str | None = None
    text_encoders: nn.ModuleList = field(init=False, repr=False)

    def __post_init__(self) -> None:
        encoders = (getattr(self.pipe, name, None) for name in ("text_encoder", "text_encoder_2"))
        self.text_encoders = nn.ModuleList([encoder for encoder in encoders if encoder is not None])

    @abstractmethod
    def _embed(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """(embeds, pooled) of a few prompts, by the pipeline's own encode_prompt."""

    @abstractmethod
    def _predict(
        self, denoiser: nn.Module, latents: Tensor, timestep: Tensor, condition: Condition
    ) -> Tensor:
        """The denoiser called as the pipeline does."""

    @abstractmethod
    def _reader(self) -> tuple[Callable, int]:
        """The tokenizer that decides what is cut off, and how many tokens are read."""

    @property
    def grain(self) -> int:
        """Height and width must be multiples of this."""
        return self.pipe.vae_scale_factor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        height, width = self.image
        return self.pipe.vae.config.latent_channels, height // self._factor, width // self._factor

    @property
    def _factor(self) -> int:
        return self.pipe.vae_scale_factor

    def place(self) -> None:
        for module in (self.text_encoders, self.pipe.vae, self.denoiser):
            self.residency.bring(module)

    def release(self) -> None:
        self.residency.park_all()

    def resize(self, height: int, width: int) -> None:
        """Make images of another size, in pixels.

        Raises:
            ValueError: a side is not a positive multiple of `grain`.
        """
        if min(height, width) < self.grain or height % self.grain or width % self.grain:
            raise ValueError(
                f"{self.spec.title} draws sides that are multiples of {self.grain}, not {height} x {width}."
            )
        self.image = (height, width)

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Condition:
        prompts = list(prompts)
        tokenizer, limit = self._reader()
        with self.residency.using(self.text_encoders), quiet_libraries():
            parts = [
                self._embed(prompts[i : i + ENCODED_PROMPTS]) for i in range(0, len(prompts), ENCODED_PROMPTS)
            ]
        embeds, pooled = (
            torch.cat(tensors).to(self.device, self.dtype) for tensors in zip(*parts, strict=True)
        )
        lengths = [len(ids) for ids in tokenizer(prompts, verbose=False)["input_ids"]]
        return Condition(embeds, pooled, tuple(length > limit for length in lengths))

    @property
    def has_tiny_decoder(self) -> bool:
        return self.tiny is not None

    def preview(self, latents: Tensor) -> Tensor | None:
        if self.tiny is None or not self._has_room(stored_bytes(self.tiny, None)):
            return None
        return self.decode(latents, tiny=True)

    @torch.inference_mode()
    def decode(self, latents: Tensor, tiny: bool = False) -> Tensor:
        vae = self.tiny if tiny and self.tiny is not None else self.pipe.vae
        height, width = latents.shape[-2] * self._factor, latents.shape[-1] * self._factor
        slices = latents.split(max(1, DECODED_PIXELS // (height * width)))
        with self.residency.using(vae, self.parts.decode):
            return torch.cat([self._decode_slice(vae, part) for part in slices])

    def _decode_slice(self, vae: nn.Module, latents: Tensor) -> Tensor:
        images = vae.decode(self._unscaled(vae, latents.to(vae.dtype)), return_dict=False)[0]
        return self.pipe.image_processor.postprocess(images.float(), output_type="pt")

    def _unscaled(self, vae: nn.Module, latents: Tensor) -> Tensor:
        return latents / vae.config.scaling_factor

    def _forward(
        self, denoiser: nn.Module, latents: Tensor, timestep: Tensor, condition: Condition
    ) -> Tensor:
        if getattr(denoiser, "fused_lora", self.lora) != self.lora:
            raise ValueError(
                f"This quantized denoiser is for another step count than {self.spec.title} now runs in."
            )
        parts = self.parts
        work = parts.denoise * len(latents) + parts.unpack
        with self.residency.using(denoiser, work, blocks=denoiser is self.denoiser):
            return self._predict(denoiser, latents.to(self.dtype), timestep, condition)

    def use(self, steps: int) -> None:
        """Load the weights with the LoRA for this step count, unless they are there already; the others go
        first, and come back if these cannot be had.

        Raises:
            BackboneError: there is no LoRA for it, or it cannot be read.
        """
        file, before = self.spec.lora_file(steps), self.lora
        if file == before:
            return
        self.denoiser = self.pipe.unet = self.lora = None  # there is memory for one
        self._quantized.clear()
        gc.collect()  # the hooks of group offloading leave circles of references
        try:
            self._take(file)
        except BackboneError:
            if before is not None:
                self._take(before)
            raise

    def _take(self, file: str) -> None:
        self.denoiser = self.pipe.unet = self.weights(file)
        self.lora = file

    @property
    def ready_steps(self) -> int:
        return next(
            (n for n in self.spec.steps if self.lora and self.spec.lora_file(n) == self.lora),
            super().ready_steps,
        )

    def set_timesteps(self, scheduler: SchedulerMixin, steps: int) -> None:
        self.use(steps)
        super().set_timesteps(scheduler, steps)

    def quantized(self, quantization: Quantization) -> Quantized:
        """As for every backbone; made beside the original on the device where there is room for both, else in
        main memory.
        """
        if quantization in self._quantized:
            return super().quantized(quantization)
        while calibrate(self, quantization):  # it runs the model: the modules take turns as always
            pass
        need = memory.packing_need(self.denoiser, quantization.bits, quantization.group_size)
        if quantization.method != "plain":
            need += stored_bytes(self.denoiser, None)  # the other methods keep more, and decompose in float32
        while self._quantized and memory.free_bytes(HOST) < need:
            self._quantized.popitem(last=False)
        beside = self.residency.bring(self.denoiser, need, optional=True)
        made = super().quantized(quantization)
        if beside:
            self.residency.there[made.module] = None  # it was made there
        made.module.fused_lora = self.lora
        modes = [
            part.uses(self.device, self.dtype)
            for part in made.module.modules()
            if isinstance(part, PackedLayer)
        ]
        made.report.execution = {mode: modes.count(mode) for mode in dict.fromkeys(modes)}
        return made

    def images_at_once(self, wanted: int) -> int:
        if self.residency.budget is None:
            return wanted
        parts = self.parts
        # whole if that leaves room for one image, else block by block
        for weights in (stored_bytes(self.denoiser, None), parts.largest_block):
            room = self.residency.budget - weights - parts.unpack
            if room >= parts.denoise:
                return min(wanted, room // parts.denoise)
        return 1

    @property
    def parts(self) -> memory.Footprint:
        """The footprint of the published model at this size."""
        height, width = self.image
        return memory.footprint(self.spec, self.dtype, height * width)

    @cached_property
    def weight_bytes(self) -> int:
        """Of the text encoders, the decoder, and the denoiser at full precision and at 8 bits."""
        quantized = sum(memory.packed_and_kept(self.denoiser, "w8a8"))
        parts = (self.text_encoders, self.pipe.vae, self.denoiser)
        return quantized + sum(stored_bytes(part, None) for part in parts)

    def _has_room(self, size: int) -> bool:
        """Whether the device holds so much besides everything else."""
        budget = self.residency.budget
        return budget is None or self.weight_bytes + self.parts.work + size <= budget

    def _make_scorer(self) -> Scorer:
        if self.judge is not None:
            return self.judge
        from qsched.scoring.loading import load_scorer, scorer_weights
        from qsched.scoring.weights import ScorerError

        if not all(weights.here for weights in scorer_weights(self.scores)[:-1]):
            more = "" if self.scores == PHOTO_SCORER else f" --scorer {self.scores}"
            raise ScorerError(
                f"The weights of the scores are not on this machine: `python -m qsched pull "
                f"{self.spec.id}{more}` fetches them."
            )
        if not self._has_room(memory.SCORER):
            return load_scorer(self.scores, HOST, offline=True)
        scorer = load_scorer(self.scores, self.device, offline=True)
        if self.residency.budget is not None:
            self.residency.budget -= memory.SCORER  # it stays
        return scorer


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No word from diffusers and transformers below an error: what they would say about a prompt, Condition
    says.
    """
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
