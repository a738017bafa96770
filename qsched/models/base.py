"""The three calls that sampling needs from every family: encode prompts, predict noise, decode latents."""

import hashlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from qsched.models.methods import PLAIN, Method, make_quantized
from qsched.models.spec import BackboneSpec
from qsched.quantization import make_batch_invariant
from qsched.quantization.settings import Quantization, Quantized
from qsched.scoring import Scorer

CACHED_DENOISERS = 4


@dataclass(frozen=True)
class Condition:
    """Encoded prompts: everything the denoiser needs besides x and t.

    embeds: (batch, tokens, width); pooled: (batch, width); truncated: per prompt, whether its end was cut
        off.
    """

    embeds: Tensor
    pooled: Tensor
    truncated: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.embeds)

    def select(self, indices: Sequence[int]) -> "Condition":
        """The conditions at these indices, in this order, repeats allowed."""
        index = torch.as_tensor(indices, device=self.embeds.device)
        return Condition(self.embeds[index], self.pooled[index], tuple(self.truncated[i] for i in indices))

    def to(self, device: torch.device | str) -> "Condition":
        """The same on another device."""
        return Condition(self.embeds.to(device), self.pooled.to(device), self.truncated)


@dataclass
class Backbone(ABC):
    """A loaded model. `denoiser` is the full-precision one; quantized copies are made on demand and cached.

    scheduler: a stock diffusers scheduler, a template that sampling copies. calls: denoiser evaluations so
        far, counted per image.
    methods: of quantizing, by name; `load_backbone` gives it all of qsched.quantizers.
    """

    spec: BackboneSpec
    device: torch.device
    dtype: torch.dtype
    denoiser: nn.Module
    scheduler: SchedulerMixin
    revision: str
    calls: int = 0
    methods: dict[str, Method] = field(default_factory=lambda: PLAIN, repr=False)
    _quantized: OrderedDict = field(default_factory=OrderedDict, repr=False)
    _scorer: Scorer | None = field(default=None, repr=False)
    _ran: WeakKeyDictionary = field(default_factory=WeakKeyDictionary, repr=False)

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one latent."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Condition:
        """Encode prompts once; they are reused by every column, candidate and drag."""

    @abstractmethod
    def decode(self, latents: Tensor, tiny: bool = False) -> Tensor:
        """Latents (batch, C, H, W) -> float32 images (batch, 3, height, width) in [0, 1].

        tiny: with the small, fast decoder, where there is one.
        """

    @abstractmethod
    def _forward(
        self, denoiser: nn.Module, latents: Tensor, timestep: Tensor, condition: Condition
    ) -> Tensor: ...

    @abstractmethod
    def _make_scorer(self) -> Scorer: ...

    @property
    def has_tiny_decoder(self) -> bool:
        """Whether decode(latents, tiny=True) is faster than decode(latents)."""
        return False

    def preview(self, latents: Tensor) -> Tensor | None:
        """As `decode`, by the fastest decoder; None where that is slow or something else would have to leave
        the device for it.
        """
        return None

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of a prompt that no training caption had; empty where that is not known."""
        return []

    def place(self) -> None:
        """Move to the device what an image needs, as far as it fits; a small model lies there anyway."""
        return

    def release(self) -> None:
        """Move off the device, for another backbone to use it; it comes back when it is used."""
        return

    def use(self, steps: int) -> None:
        """Make ready for this step count; to be called before `quantized`, since some families have weights
        for each.
        """
        return

    @property
    def ready_steps(self) -> int:
        """A step count that it can run as it is now."""
        return self.spec.default_steps

    def images_at_once(self, wanted: int) -> int:
        """How many images, at most `wanted`, one call of the full-precision denoiser takes in the memory
        there is.
        """
        return wanted

    def set_timesteps(self, scheduler: SchedulerMixin, steps: int) -> None:
        """Set a scheduler's timesteps as the family's stock pipeline does."""
        scheduler.set_timesteps(steps, device=self.device)

    @torch.inference_mode()
    def predict(
        self,
        latents: Tensor,
        timestep: Tensor | float,
        condition: Condition,
        denoiser: nn.Module | None = None,
    ) -> Tensor:
        """E(x_t, t): the prediction of `denoiser` (None = full precision), same shape as latents."""
        self.calls += len(latents)
        return self._forward(
            denoiser or self.denoiser, latents, torch.as_tensor(timestep, device=self.device), condition
        )

    def quantized(self, quantization: Quantization) -> Quantized:
        """The denoiser quantized as asked; the latest few are kept.

        Raises:
            ValueError: one sentence, if these settings or this method cannot be had.
        """
        if quantization not in self._quantized:
            module, report = make_quantized(self, quantization)
            make_batch_invariant(module)
            self._quantized[quantization] = Quantized(module, report, quantization)
            while len(self._quantized) > CACHED_DENOISERS:
                self._quantized.popitem(last=False)
        self._quantized.move_to_end(quantization)
        return self._quantized[quantization]

    def first_run(self, denoiser: nn.Module, tiny: bool = False) -> bool:
        """Whether this denoiser and decoder have not run together before; from now on they have.

        A first run also prepares kernels and memory, so that its latency says little about later ones.
        """
        decoders = self._ran.setdefault(denoiser, set())
        first = tiny not in decoders
        decoders.add(tiny)
        return first

    @property
    def full_precision_bytes(self) -> int:
        """Bytes of the denoiser at fp16, the reference of every size ratio."""
        return sum(2 * p.numel() for p in self.denoiser.parameters())

    def scorer(self) -> Scorer:
        """The judge of this backbone's images, loaded once."""
        if self._scorer is None:
            self._scorer = self._make_scorer()
        return self._scorer


def hash_files(*paths: Path) -> str:
    """A short name for these files' contents, recorded in presets as the revision."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
