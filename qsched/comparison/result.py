"""What is compared, and what comes out: plain CPU data without any model in it, which can be pickled, kept
per browser session and sent between processes.
"""

from dataclasses import dataclass, field, replace

from PIL import Image
from torch import Tensor

from qsched.comparison.facts import Facts
from qsched.models.base import Backbone, Condition
from qsched.models.spec import BackboneSpec
from qsched.quantization import BitWidth, Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.loop import Noise
from qsched.scoring import K_DEFAULT, jaq
from qsched.scoring.signatures import Badge
from qsched.settings import SEED

FULL_PRECISION, NAIVE, QSCHED = "full precision", "naive", "Q-Sched"
PROMPT_LIMIT = 2000
SAME_JAQ = 0.02
"""A difference of one image's JAQ that says nothing."""
OUTCOMES = ("better", "no difference", "worse")


def outcome_of(difference: float) -> str:
    """One of OUTCOMES for a difference of one image's JAQ."""
    return "no difference" if abs(difference) < SAME_JAQ else "better" if difference > 0 else "worse"


@dataclass(frozen=True)
class Settings:
    """What is compared: a prompt, a seed, a step count, how the denoiser is quantized, and which decoder
    draws all columns.
    """

    prompt: str
    seed: int = 0
    steps: int = 4
    quantization: Quantization = field(default_factory=Quantization)
    tiny_decoder: bool = False

    def check(self, backbone: Backbone) -> "Settings":
        """These settings with the prompt trimmed.

        Raises:
            ValueError: one clear sentence about what this backbone cannot do.
        """
        return self.check_for(backbone.spec, backbone.has_tiny_decoder)

    def check_for(self, spec: BackboneSpec, has_tiny_decoder: bool) -> "Settings":
        """The same without a loaded backbone."""
        prompt = " ".join(self.prompt.split()) if isinstance(self.prompt, str) else ""
        if not prompt:
            raise ValueError("Please type a prompt: there is nothing to draw yet.")
        spec.steps_checked(self.steps)
        SEED.check(self.seed)
        BitWidth.parse(self.quantization.bits)
        spec.check_decoder(self.tiny_decoder, has_tiny_decoder)
        return replace(self, prompt=prompt[:PROMPT_LIMIT])


@dataclass(frozen=True)
class Column:
    """One image with its numbers.

    stored_bytes: the denoiser's weights as stored; ratio: how many times smaller than fp16. latency_s:
    seconds for all steps and the decode (for Q-Sched the shared first prediction is counted in); first_run:
    whether the first run of the denoiser is in it. alignment: CLIPScore in [0, 100]; quality: CLIP-IQA in
    [0, 1] (or what the scorer's quality is); both None where no scorer can be had, or it gives no finite
    number. ssim, psnr (dB), lpips: to full precision; lpips is None without a network for it. path: small
    images of what each step believed the finished image to be, none where only a slow decoder could draw
    them.
    """

    name: str
    image: Image.Image
    stored_bytes: int
    ratio: float
    latency_s: float
    alignment: float | None
    quality: float | None
    ssim: float
    psnr: float
    badges: tuple[Badge, ...] = ()
    lpips: float | None = None
    first_run: bool = False
    path: tuple[Image.Image, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of its images in memory."""
        return sum(one.width * one.height * len(one.getbands()) for one in (self.image, *self.path))

    @property
    def scored(self) -> bool:
        """Whether a scorer has seen this image."""
        return self.alignment is not None and self.quality is not None

    def jaq(self, k: float = K_DEFAULT) -> float | None:
        """JAQ of this one image: log(CLIPScore) + k * CLIP-IQA; None without scores."""
        return jaq([self.alignment], [self.quality], k) if self.scored else None

    def jaq_difference(self, reference: "Column", k: float = K_DEFAULT) -> float | None:
        """JAQ minus the reference's; None where either has no scores."""
        return self.jaq(k) - reference.jaq(k) if self.scored and reference.scored else None


@dataclass(frozen=True)
class Comparison:
    """Three columns and what a drag needs to make the third again.

    backbone: its id and revision, which the images belong to. facts: what the images were made with.
    """

    backbone: str
    settings: Settings
    coefficients: Coefficients
    full_precision: Column
    naive: Column
    qsched: Column
    notes: tuple[str, ...]
    condition: Condition = field(repr=False)
    noise: Noise = field(repr=False)
    reference: Tensor = field(repr=False)
    first: Tensor = field(repr=False)
    first_s: float = field(repr=False)
    facts: Facts = field(repr=False)

    @property
    def columns(self) -> tuple[Column, Column, Column]:
        """Full precision, naive, Q-Sched."""
        return self.full_precision, self.naive, self.qsched

    def plain(self) -> "Comparison":
        """With c_x = c_eps = 1, which is what naive quantization is."""
        return replace(self, coefficients=Coefficients.identity(), qsched=replace(self.naive, name=QSCHED))

    @property
    def nbytes(self) -> int:
        """Bytes of all images and tensors."""
        tensors = (
            self.condition.embeds, self.condition.pooled, self.noise.start, *self.noise.states,
            self.reference, self.first
        )  # fmt: skip
        return sum(column.nbytes for column in self.columns) + sum(
            tensor.untyped_storage().nbytes() for tensor in tensors
        )
