"""All backbones, one literal entry each."""

from pathlib import Path

from qsched.hub.source import OWNERS, Source
from qsched.models.spec import BackboneSpec, component_files

ASSETS = Path(__file__).resolve().parents[2] / "assets"


def _tiny(name: str) -> Source:
    return Source(
        f"madebyollin/{name}", ("config.json", "diffusion_pytorch_model.safetensors"), bytes=9_800_000
    )


def _pcm(base: str, each: int) -> Source:
    # "smallcfg" is the variant that its authors run without guidance; it exists once per step count
    names = tuple(f"{base}/pcm_{base}_smallcfg_{steps}step_converted.safetensors" for steps in PCM_STEPS)
    return Source("wangfuyun/PCM_Weights", names, bytes=each * len(names))


HALF_FILES = component_files(".fp16.safetensors")
PCM_STEPS = (2, 4, 8, 16)
LATENT_BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
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
    description=(
        "A few-step text-to-emoji model of 13 M parameters that ships with the app: 810 things at 64 "
        "px in three styles, on white and coloured grounds."
    ),
    steps=(1, 2, 3, 4, 5, 6, 7, 8),
    default_steps=4,
    size=64,
    memory_bytes=200 << 20,
    scheduler="LCMScheduler",
    examples=(
        "birthday cake on a purple background",
        "a unicorn on a pink background",
        "a butterfly on a yellow background, glossy style",
        "fox, flat style",
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
    description=(
        "Latent consistency model of Stable Diffusion 1.5's size, guidance 8 embedded in the U-Net, 512 px."
    ),
    steps=(1, 2, 3, 4, 5, 6, 7, 8),
    default_steps=4,
    size=512,
    guidance=8.0,
    download_bytes=4_265_000_000,
    examples=PHOTOS,
    files=component_files(".safetensors"),
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
    description=(
        "Phased consistency model: Stable Diffusion 1.5 with a LoRA for each step count, no guidance, 512 px."
    ),
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
    description="Phased consistency model: SDXL base 1.0 with a LoRA for each step count, no guidance, 1024 px.",  # noqa: E501
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
    description=(
        "Adversarially distilled SDXL, no guidance, 512 px; free for research and for small companies only."
    ),
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
    description=(
        "Rectified-flow transformer of 12 B parameters, distilled for 1 to 4 steps, no guidance, 1024 px."
    ),
    steps=(1, 2, 3, 4),
    default_steps=4,
    size=1024,
    gated=True,
    download_bytes=33_720_000_000,
    examples=PHOTOS,
    files=component_files(".safetensors"),
    pipeline="FluxPipeline",
    scheduler="FlowMatchEulerDiscreteScheduler",
    scheduler_config={"shift": 1.0, "use_dynamic_shifting": False},
    architecture="flux",
    tiny_vae=_tiny("taef1"),
)

SPECS: dict[str, BackboneSpec] = {
    spec.id: spec for spec in (EMOJI_LCM, LCM_DREAMSHAPER, PCM_SD15, PCM_SDXL, SDXL_TURBO, FLUX_SCHNELL)
}
for _spec in SPECS.values():
    for _source in _spec.sources():
        OWNERS.setdefault(_source.repo, _spec.id)
