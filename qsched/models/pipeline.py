"""What the families that diffusers has pipelines for share: text encoders, denoiser and decoder that take
turns on the device.
"""

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
from qsched.models.base import Backbone, Condition
from qsched.models.memory import plan as memory
from qsched.models.memory.residency import HOST, Residency
from qsched.models.methods import calibrate
from qsched.models.parts import PHOTO_SCORER
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
        `pull`
    fetches: nothing large comes unasked. weights: gives the denoiser for a LoRA file; lora: the one that is
        fused.
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
            with self.residency.using(module):
                pass

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
        budget = self.residency.budget
        if self.tiny is None or (budget is not None and not self._holds_all_and_tiny(budget)):
            return None
        return self.decode(latents, tiny=True)

    def _holds_all_and_tiny(self, budget: int) -> bool:
        everything = memory.needs(self.parts, "w8a8")["resident"] - memory.RESERVE
        return everything + stored_bytes(self.tiny, self.dtype.itemsize) <= budget

    @torch.inference_mode()
    def decode(self, latents: Tensor, tiny: bool = False) -> Tensor:
        vae = self.tiny if tiny and self.tiny is not None else self.pipe.vae
        height, width = latents.shape[-2] * self._factor, latents.shape[-1] * self._factor
        slices = latents.split(max(1, DECODED_PIXELS // (height * width)))
        with self.residency.using(vae, self._limited(lambda: self.parts.decode)):
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
        work = self._limited(lambda: self.parts.denoise * len(latents) + self.parts.unpack)
        others = [self.denoiser, *(made.module for made in self._quantized.values())]
        with self.residency.using(denoiser, work, instead_of=others):
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
        if self._has_room_to_quantize(quantization):
            with self.residency.using(self.denoiser):
                made = super().quantized(quantization)
            with self.residency.using(made.module):  # it lies there already, and is counted from now on
                pass
        else:
            self.residency.park(self.denoiser)
            made = super().quantized(quantization)
        made.module.fused_lora = self.lora
        modes = [
            part.uses(self.device, self.dtype)
            for part in made.module.modules()
            if isinstance(part, PackedLayer)
        ]
        made.report.execution = {mode: modes.count(mode) for mode in dict.fromkeys(modes)}
        return made

    def _has_room_to_quantize(self, quantization: Quantization) -> bool:
        """Whether the device has room for the denoiser and a quantized one; older quantized ones give way."""
        need = memory.packing_need(self.denoiser, quantization.bits, quantization.group_size)
        if quantization.method != "plain":
            need += stored_bytes(self.denoiser, None)  # the other methods keep more, and decompose in float32
        while self._quantized and memory.free_bytes(HOST) < need:
            self._quantized.popitem(last=False)
        for old in self._quantized.values():
            if not self.residency.has_room(need, self.denoiser):
                self.residency.park(old.module)
        return self.residency.has_room(need, self.denoiser)

    def images_at_once(self, wanted: int) -> int:
        if self.residency.budget is None:
            return wanted
        parts = self.parts
        # whole if that leaves room for one image, else streamed
        for weights in (parts.denoiser, parts.largest_block):
            room = self.residency.budget - weights - parts.unpack
            if room >= parts.denoise:
                return min(wanted, room // parts.denoise)
        return 1

    @cached_property
    def parts(self) -> memory.Footprint:
        """The footprint of this model at this size, from the configurations that were loaded."""
        name = "transformer" if hasattr(self.pipe, "transformer") else "unet"
        with torch.device("meta"):
            built = {
                key: type(part).from_config(part.config)
                for key, part in ((name, self.denoiser), ("vae", self.pipe.vae))
            }
        encoders = {f"text_encoder_{i}": encoder for i, encoder in enumerate(self.text_encoders, 1)}
        return memory.footprint(built | encoders, *self.image, self.dtype)

    def _limited(self, size: Callable[[], int]) -> int:
        return 0 if self.residency.budget is None else size()

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
        budget = self.residency.budget
        if budget is None:
            return load_scorer(self.scores, self.device, offline=True)
        if not memory.room_for_scorer(self.parts, self.spec.default_bits, budget + memory.RESERVE):
            return load_scorer(self.scores, HOST, offline=True)
        scorer = load_scorer(self.scores, self.device, offline=True)
        self.residency.budget = budget - memory.SCORER  # it stays
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
