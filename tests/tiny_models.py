"""Tiny random pipelines of the real families' classes, in folders laid out like those of the Hub.

The configurations take the same paths through diffusers as the published ones: LCM's embedded guidance,
SDXL's size conditions and second text encoder, FLUX's packed latents and T5. Made once per test process.
"""

import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from qsched.hub.source import Source
from qsched.models.diffusers_folder import load_pipeline
from qsched.models.pipeline import PipelineBackbone
from qsched.models.registry import LATENT_BETAS, SPECS
from qsched.models.spec import BackboneSpec
from qsched.quantizers.methods import METHODS
from qsched.scoring import ImageScores

REAL = tuple(id for id in SPECS if id != "emoji-lcm")
PROMPTS = ["a red fox in the snow", "glass teapot, studio light", "x"]
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"
NATIVE = 64
"""Image size that the tiny U-Nets' configurations name."""


class FakeScorer:
    """Numbers that depend on the image, in place of the photo scorer's weights."""

    name, definition = "fake", "mean and spread of the pixels, for tests"

    def alignment(self, images, prompts):
        return 100 * images.flatten(1).mean(1)

    def quality(self, images):
        return images.flatten(1).std(1).clamp(0, 1)

    def score(self, images, prompts):
        return ImageScores(self.alignment(images, prompts), self.quality(images))


@functools.cache
def models() -> Path:
    """The folder of all tiny models; goes away with the process."""
    keeper = models.keeper = tempfile.TemporaryDirectory(prefix="qsched-tiny-")
    return Path(keeper.name)


@functools.cache
def folder_of(id: str) -> Path:
    """A folder with this backbone's pipeline, as `pull` would leave it."""
    torch.manual_seed(sum(map(ord, id)))
    folder = models() / id
    pipe = {"sd": _sd, "sdxl": _sdxl, "flux": _flux}[SPECS[id].family](SPECS[id])
    half = any(".fp16." in name for name in SPECS[id].files)
    pipe.to(torch.float16 if half else torch.float32).save_pretrained(
        folder, variant="fp16" if half else None
    )
    for tokenizer in folder.glob("tokenizer"):
        write_clip_tokenizer(tokenizer)
    if (folder / "tokenizer_2").is_dir() and SPECS[id].family == "sdxl":
        write_clip_tokenizer(folder / "tokenizer_2")
    index = json.loads((folder / "model_index.json").read_text())
    if SPECS[id].family == "flux":
        index["tokenizer_2"] = ["transformers", "T5TokenizerFast"]
    if SPECS[id].family == "sd":
        index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
        index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


@functools.cache
def lora_of(id: str) -> Source:
    """Adapters for a PCM backbone, one file per step count, in the dialect and with the names of
    PCM_Weights.
    """
    spec, folder = SPECS[id], models() / f"{id}-lora"
    unet = UNet2DConditionModel.from_pretrained(folder_of(id) / "unet", variant="fp16")
    for seed, file in enumerate(spec.lora.files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        save_file(lora_weights(unet, seed), folder / file)
    return replace(spec.lora, repo=str(folder))


def lora_weights(unet: nn.Module, seed: int, rank: int = 4, alpha: float = 8.0) -> dict[str, torch.Tensor]:
    """An adapter for the layers that LCM's and PCM's training scripts adapt."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: 0.2 * torch.randn(shape, generator=generator)
    state = {}
    for name, layer in unet.named_modules():
        wanted = any(
            part in name for part in (".attn", "proj_in", "proj_out", ".ff.", ".conv1", ".conv2", "samplers")
        )
        if isinstance(layer, nn.Linear | nn.Conv2d) and wanted:
            key, (out, inner, *kernel) = "lora_unet_" + name.replace(".", "_"), layer.weight.shape
            state[f"{key}.lora_down.weight"] = draw(rank, inner, *kernel)
            state[f"{key}.lora_up.weight"] = draw(out, rank, *[1] * len(kernel))
            state[f"{key}.alpha"] = torch.tensor(alpha)
    return state


@functools.cache
def tiny_vae_of(family: str) -> Source:
    """A small decoder like TAESD for a family's latents."""
    torch.manual_seed(5)
    folder = models() / f"taesd-{family}"
    AutoencoderTiny(
        latent_channels=16 if family == "flux" else 4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        scaling_factor=1.0,
        shift_factor=0.0,
    ).save_pretrained(folder)
    return Source(str(folder))


def spec_of(id: str) -> BackboneSpec:
    """The registry's spec with every source in a local folder."""
    spec = SPECS[id].at(str(folder_of(id)))
    return replace(spec, lora=lora_of(id) if spec.lora else None, tiny_vae=tiny_vae_of(spec.family))


def fresh(id: str, **changes) -> PipelineBackbone:
    """A backbone of one's own, on the CPU in float32, that draws its configuration's size (FLUX: 64 px)."""
    backbone = load_pipeline(replace(spec_of(id), **changes), torch.device("cpu"), torch.float32)
    backbone.methods = METHODS
    backbone.judge = FakeScorer()
    backbone.resize(NATIVE, NATIVE)
    return backbone


tiny = functools.cache(fresh)
"""The same one for every test of the process; whoever changes its size must change it back."""


def write_clip_tokenizer(folder: Path) -> None:
    """vocab.json and merges.txt and their settings, as Stable Diffusion's folders have them, for a few
    letters.
    """
    for file in folder.glob("*"):
        file.unlink()
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "fo", "fox</w>", *SPECIAL]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nf o\nfo x</w>\n")
    settings = {
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "unk_token": SPECIAL[1],
        "pad_token": SPECIAL[1],
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(settings))
    more = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "add_prefix_space": False,
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | more))


def _clip(width: int, projected: bool = False) -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=2 * len(LETTERS) + 4,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=width,
        bos_token_id=2 * len(LETTERS) + 2,
        eos_token_id=2 * len(LETTERS) + 3,
    )
    return _lively((CLIPTextModelWithProjection if projected else CLIPTextModel)(config), 4)


def random_vae(latents: int = 4, **settings) -> AutoencoderKL:
    """A random decoder of eight pixels per latent."""
    made = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        latent_channels=latents,
        sample_size=NATIVE,
        **settings,
    )
    made.decoder.conv_out.weight.data *= 4
    return made


def random_unet(**settings) -> UNet2DConditionModel:
    """A random U-Net of Stable Diffusion's kind."""
    return UNet2DConditionModel(
        sample_size=NATIVE // 8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        **settings,
    )


def _lively(module: nn.Module, factor: float) -> nn.Module:
    """Random text encoders say nearly the same about every text; larger weights make them differ."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data *= factor
    return module


def _sd(spec: BackboneSpec) -> StableDiffusionPipeline:
    parts = dict(
        vae=random_vae(),
        text_encoder=_clip(16),
        tokenizer=CLIPTokenizer(),
        safety_checker=None,
        feature_extractor=None,
    )
    if spec.scheduler == "LCMScheduler":
        unet = random_unet(cross_attention_dim=16, time_cond_proj_dim=16)
        parts |= {"unet": unet, "scheduler": LCMScheduler(**LATENT_BETAS)}
        return LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)
    scheduler = PNDMScheduler(**LATENT_BETAS, skip_prk_steps=True, steps_offset=1)
    parts |= {"unet": random_unet(cross_attention_dim=16), "scheduler": scheduler}
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def _sdxl(spec: BackboneSpec) -> StableDiffusionXLPipeline:
    unet = random_unet(
        cross_attention_dim=32,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    turbo = spec.scheduler.startswith("EulerAncestral")
    kind = EulerAncestralDiscreteScheduler if turbo else EulerDiscreteScheduler
    spacing = "trailing" if turbo else "leading"
    return StableDiffusionXLPipeline(
        random_vae(scaling_factor=0.13025, force_upcast=True),
        _clip(16),
        _clip(16, projected=True),
        CLIPTokenizer(),
        CLIPTokenizer(),
        unet,
        kind(**LATENT_BETAS, timestep_spacing=spacing, steps_offset=1),
    )


def random_transformer() -> FluxTransformer2DModel:
    """A random transformer of FLUX's kind."""
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=False,
    )


def _flux(spec: BackboneSpec) -> FluxPipeline:
    words = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((letter, -3.0) for letter in LETTERS),
    ]
    config = T5Config(
        vocab_size=len(words) + 100,
        d_model=32,
        d_ff=64,
        d_kv=8,
        num_heads=4,
        num_layers=2,
        feed_forward_proj="gated-gelu",
    )
    vae = random_vae(
        16, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159
    )
    return FluxPipeline(
        FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae,
        _clip(16),
        CLIPTokenizer(),
        T5EncoderModel(config),
        T5Tokenizer(vocab=words),
        random_transformer(),
    )
