"""What a backbone is: the facts that can be known without loading it, and the registry of all of them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).resolve().parents[2] / "assets"


class BackboneError(RuntimeError):
    """A backbone cannot be used; the message is one clear sentence for the user."""


@dataclass(frozen=True)
class Source:
    """Files to fetch: repo is a Hub id or a local folder, files are allow patterns (() = all), bytes the download size."""

    repo: str
    files: tuple[str, ...] = ()
    revision: str | None = None
    bytes: int = 0


@dataclass(frozen=True)
class BackboneSpec:
    """One few-step model.

    steps: the step counts it supports. size: picture width and height in pixels. source: a folder or a Hub id, of which
    revision and files are fetched. download_bytes: those files (0 = ships with the app). memory_bytes: what running the
    embedded model needs, roughly; for the others `qsched.backbones.memory` computes it from the architecture.
    pipeline, scheduler: the diffusers classes that run it. scheduler_config: used where the source's own scheduler is of
    another class. step_options: arguments of the scheduler's step as the pipeline passes them. guidance: the scale that
    is embedded (None = no guidance). architecture: its entry in `qsched.backbones.architectures`.
    lora: adapters to fuse, the one for N steps has "Nstep" in its name. tiny_vae: a small decoder of the same latents.
    vae: a decoder in place of the source's own. chosen: what `at` was asked for, None for the spec's own source.
    """

    id: str
    title: str
    family: str
    source: str
    licence: str
    description: str
    steps: tuple[int, ...]
    default_steps: int
    size: int
    gated: bool = False
    guidance: float | None = None
    download_bytes: int = 0
    memory_bytes: int = 0
    default_bits: str = "w4a8"
    examples: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    revision: str | None = None
    pipeline: str = ""
    scheduler: str = ""
    scheduler_config: dict[str, Any] = field(default_factory=dict, hash=False)
    step_options: dict[str, Any] = field(default_factory=dict, hash=False)
    architecture: str = ""
    lora: Source | None = None
    tiny_vae: Source | None = None
    vae: Source | None = None
    chosen: str | None = None

    def sources(self) -> list[Source]:
        """All that `pull` fetches, the pipeline first."""
        pipeline = Source(self.source, self.files, self.revision, self.download_bytes)
        return [source for source in (pipeline, self.lora, self.tiny_vae, self.vae) if source is not None]

    def at(self, source: str | Path) -> "BackboneSpec":
        """The same family from a local folder or from another repository, such as a fine-tune; REPOSITORY@REVISION takes
        a branch, tag or commit of it, and the backbone's own repository can be pinned that way too."""
        repo, revision = pinned(str(source))
        files = self.files if revision and repo == self.source else ANY_FILES
        return replace(self, source=repo, files=files, revision=revision, chosen=str(source))

    def lora_file(self, steps: int) -> str | None:
        """The adapter's file for this step count, None for a model without adapters.

        Raises:
            BackboneError: there are adapters, but none for this step count.
        """
        if self.lora is None:
            return None
        found = [name for name in self.lora.files if f"_{steps}step" in name]
        if not found:
            raise BackboneError(f"{self.id} has no LoRA for {steps} steps in {self.lora.repo}.")
        return found[0]


def pinned(source: str) -> tuple[str, str | None]:
    """Folder or repository, and the revision after an @; a folder that is there may have an @ in its name."""
    if Path(source).expanduser().exists():
        return source, None
    repo, _, revision = source.partition("@")
    return repo, revision or None


def _files(weights: str) -> tuple[str, ...]:
    folders = ("text_encoder*", "unet", "transformer", "vae")
    return (
        "model_index.json",
        "scheduler/*",
        "tokenizer*/*",
        *(f"{folder}/*.json" for folder in folders),
        *(f"{folder}/*{weights}" for folder in folders),
    )


def _tiny(name: str) -> Source:
    return Source(f"madebyollin/{name}", ("config.json", "diffusion_pytorch_model.safetensors"), bytes=9_800_000)


def _pcm(base: str, each: int) -> Source:
    # "smallcfg" is the variant that its authors run without guidance; it exists once per step count
    names = tuple(f"{base}/pcm_{base}_smallcfg_{steps}step_converted.safetensors" for steps in PCM_STEPS)
    return Source("wangfuyun/PCM_Weights", names, bytes=each * len(names))


ANY_FILES = _files(".safetensors")
"""What to fetch from a repository of which only the family is known: every component, no single-file checkpoints."""
HALF_FILES = _files(".fp16.safetensors")
PCM_STEPS = (2, 4, 8, 16)
LATENT_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
PHOTOS = (
    "a red fox in fresh snow, golden hour, photograph",
    "a glass teapot with blooming jasmine tea, studio light",
    "an astronaut riding a horse on the beach, film still",
    "a lighthouse on a cliff in a storm, oil painting",
    "a plate of ramen with a soft-boiled egg, top view",
    "a cosy reading corner with a sleeping cat, watercolour",
    "a red tram crossing a bridge at night in the rain",
    "portrait of an old fisherman with a white beard",
)

EMOJI_LCM = BackboneSpec(
    id="emoji-lcm",
    title="Emoji LCM (embedded)",
    family="emoji",
    source=str(ASSETS / "emoji-lcm"),
    licence="Apache-2.0",
    description="A few-step text-to-emoji model of 13 M parameters that ships with the app: 810 things at 64 px in three styles, on white and coloured grounds.",
    steps=(1, 2, 3, 4, 5, 6, 7, 8),
    default_steps=4,
    size=64,
    memory_bytes=200 << 20,
    scheduler="LCMScheduler",
    examples=(
        "birthday cake on a purple background",
        "a unicorn on a pink background",
        "fox, flat style",
        "a butterfly on a yellow background, glossy style",
        "penguin, classic style",
        "three strawberries on a yellow background, glossy style",
        "a sailboat on a blue background, glossy style",
        "polar bear, classic style",
    ),
)

LCM_DREAMSHAPER = BackboneSpec(
    id="lcm-dreamshaper-v7",
    title="LCM Dreamshaper v7",
    family="sd",
    source="SimianLuo/LCM_Dreamshaper_v7",
    licence="MIT",
    description="Latent consistency model of Stable Diffusion 1.5's size, guidance 8 embedded in the U-Net, 512 px.",
    steps=(1, 2, 3, 4, 5, 6, 7, 8),
    default_steps=4,
    size=512,
    guidance=8.0,
    download_bytes=4_265_000_000,
    examples=PHOTOS,
    files=_files(".safetensors"),
    pipeline="LatentConsistencyModelPipeline",
    scheduler="LCMScheduler",
    scheduler_config=LATENT_BETAS,
    architecture="lcm",
    tiny_vae=_tiny("taesd"),
)

PCM_SD15 = BackboneSpec(
    id="pcm-sd15",
    title="PCM Stable Diffusion 1.5",
    family="sd",
    source="stable-diffusion-v1-5/stable-diffusion-v1-5",
    licence="CreativeML OpenRAIL-M",
    description="Phased consistency model: Stable Diffusion 1.5 with a LoRA for each step count, no guidance, 512 px.",
    steps=PCM_STEPS,
    default_steps=4,
    size=512,
    download_bytes=2_133_000_000,
    examples=PHOTOS,
    files=HALF_FILES,
    pipeline="StableDiffusionPipeline",
    scheduler="TCDScheduler",
    scheduler_config=LATENT_BETAS | {"timestep_spacing": "trailing"},
    step_options={"eta": 0.0},
    architecture="sd15",
    lora=_pcm("sd15", 135_000_000),
    tiny_vae=_tiny("taesd"),
)

PCM_SDXL = BackboneSpec(
    id="pcm-sdxl",
    title="PCM SDXL",
    family="sdxl",
    source="stabilityai/stable-diffusion-xl-base-1.0",
    licence="CreativeML OpenRAIL++-M",
    description="Phased consistency model: SDXL base 1.0 with a LoRA for each step count, no guidance, 1024 px.",
    steps=PCM_STEPS,
    default_steps=4,
    size=1024,
    download_bytes=6_939_000_000,
    examples=PHOTOS,
    files=HALF_FILES,
    pipeline="StableDiffusionXLPipeline",
    scheduler="TCDScheduler",
    scheduler_config=LATENT_BETAS | {"timestep_spacing": "trailing"},
    step_options={"eta": 0.0},
    architecture="sdxl",
    lora=_pcm("sdxl", 394_000_000),
    tiny_vae=_tiny("taesdxl"),
)

SDXL_TURBO = BackboneSpec(
    id="sdxl-turbo",
    title="SDXL-Turbo",
    family="sdxl",
    source="stabilityai/sdxl-turbo",
    licence="Stability AI Community",
    description="Adversarially distilled SDXL, no guidance, 512 px; free for research and for small companies only.",
    steps=(1, 2, 3, 4),
    default_steps=4,
    size=512,
    download_bytes=6_939_000_000,
    examples=PHOTOS,
    files=HALF_FILES,
    pipeline="StableDiffusionXLPipeline",
    scheduler="EulerAncestralDiscreteScheduler",
    scheduler_config=LATENT_BETAS | {"timestep_spacing": "trailing", "steps_offset": 1},
    architecture="sdxl",
    tiny_vae=_tiny("taesdxl"),
)

FLUX_SCHNELL = BackboneSpec(
    id="flux1-schnell",
    title="FLUX.1-schnell",
    family="flux",
    source="black-forest-labs/FLUX.1-schnell",
    licence="Apache-2.0",
    description="Rectified-flow transformer of 12 B parameters, distilled for 1 to 4 steps, no guidance, 1024 px.",
    steps=(1, 2, 3, 4),
    default_steps=4,
    size=1024,
    gated=True,
    download_bytes=33_720_000_000,
    examples=PHOTOS,
    files=_files(".safetensors"),
    pipeline="FluxPipeline",
    scheduler="FlowMatchEulerDiscreteScheduler",
    scheduler_config={"shift": 1.0, "use_dynamic_shifting": False},
    architecture="flux",
    tiny_vae=_tiny("taef1"),
)

SPECS: dict[str, BackboneSpec] = {
    spec.id: spec for spec in (EMOJI_LCM, LCM_DREAMSHAPER, PCM_SD15, PCM_SDXL, SDXL_TURBO, FLUX_SCHNELL)
}
