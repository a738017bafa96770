"""From a diffusers folder to a backbone: which files, which scheduler, what fits the memory there is."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from torch import nn

from qsched.hub import fetch as hub
from qsched.hub.source import BackboneError, Source
from qsched.models import memory
from qsched.models.flux import FluxBackbone
from qsched.models.lora import fuse_lora
from qsched.models.pipeline import PipelineBackbone, quiet_libraries
from qsched.models.registry import SPECS
from qsched.models.residency import Residency
from qsched.models.sd import SDBackbone
from qsched.models.sdxl import SDXLBackbone
from qsched.models.spec import BackboneSpec

FAMILIES: dict[str, type[PipelineBackbone]] = {"sd": SDBackbone, "sdxl": SDXLBackbone, "flux": FluxBackbone}
UNUSED = {"safety_checker", "feature_extractor", "image_encoder"}


def load_pipeline(spec: BackboneSpec, device: torch.device, dtype: torch.dtype) -> PipelineBackbone:
    """Fetch what is missing and load a real backbone, with the LoRA for its default step count.

    Raises:
        BackboneError: files are missing, belong to another family, or need more memory than there is.
    """
    published = spec.source == SPECS[spec.id].source
    if published:
        check_memory(spec, device, dtype)
    folder = hub.fetch(spec.sources()[0])
    pipe = open_pipeline(spec, folder, dtype)
    denoiser = pipe.transformer if spec.family == "flux" else pipe.unet
    weights = partial(unet_with_lora, spec, folder, dtype)
    first = spec.lora_file(spec.default_steps)
    if first is not None:
        fuse_lora(denoiser, _lora_path(spec, first), type(pipe))
    for part in (value for value in pipe.components.values() if isinstance(value, nn.Module)):
        part.eval().requires_grad_(False)
    revision = hub.revision_of(folder)[:12]
    if first is not None:
        revision += "+" + hub.revision_of(hub.fetch(_one(spec.lora, first)))[:12]
    backbone = FAMILIES[spec.family](
        spec,
        device,
        dtype,
        denoiser,
        scheduler_for(spec, pipe),
        revision,
        pipe=pipe,
        image=(spec.size, spec.size) if published else _own_size(spec, pipe),
        residency=Residency(device, partial(_free, device) if device.type == "cuda" else None),
        tiny=_tiny_decoder(spec, dtype),
        weights=weights,
        lora=first,
    )
    return backbone


def open_pipeline(spec: BackboneSpec, folder: Path, dtype: torch.dtype) -> DiffusionPipeline:
    """The stock pipeline of a folder, without safety checker and image encoder, in main memory.

    Raises:
        BackboneError: the folder is no pipeline's, or one of another family.
    """
    check_family(spec, folder)
    pipeline = getattr(diffusers, spec.pipeline)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    options = dict.fromkeys(UNUSED & components(folder).keys())
    if spec.vae is not None:
        options["vae"] = AutoencoderKL.from_pretrained(hub.fetch(spec.vae), dtype=dtype)
    pipe = pipeline.from_pretrained(
        folder, dtype=dtype, variant=variant_of(folder, dtype), local_files_only=True, **options
    )
    # diffusers' own `to` warns that it was loaded otherwise
    nn.Module.to(pipe.vae, decoder_dtype(spec, pipe.vae, dtype))
    return pipe


def decoder_dtype(spec: BackboneSpec, vae: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a decoder gives images: SDXL's overflows float16 to black."""
    upcast = spec.family == "sdxl" and dtype == torch.float16 and vae.config.force_upcast
    return torch.float32 if upcast else dtype


def check_family(spec: BackboneSpec, folder: Path) -> None:
    """Refuse a folder that is no pipeline's, or one of another family.

    Raises:
        BackboneError: one sentence that says what the folder is.
    """
    there = components(folder)
    needed = {"scheduler", *getattr(diffusers, spec.pipeline).model_cpu_offload_seq.split("->")} - UNUSED
    missing = sorted(name for name in needed if not isinstance(there.get(name), list) or None in there[name])
    foreign = sorted({"unet", "transformer", "text_encoder_2"} & (there.keys() - needed))
    if missing or foreign:
        what = f"without {', '.join(missing)}" if missing else f"with {', '.join(foreign)}"
        raise BackboneError(
            f"{spec.id} cannot be loaded from {folder}: it is a {there.get('_class_name', 'folder of another kind')} "  # noqa: E501
            f"{what}."
        )


def components(folder: Path) -> dict[str, Any]:
    """model_index.json: a pipeline's components with their classes."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise BackboneError(
            f"There is no model_index.json in {folder}, so that it cannot be a pipeline's folder."
        )
    there = json.loads(index.read_text())
    if not isinstance(there, dict):
        raise BackboneError(f"{index} does not list a pipeline's components.")
    return there


def scheduler_for(spec: BackboneSpec, pipe: DiffusionPipeline) -> SchedulerMixin:
    """The pipeline's own scheduler where it is of the family's class, else one with the published
    settings.
    """
    if type(pipe.scheduler).__name__ == spec.scheduler:
        return pipe.scheduler
    return getattr(diffusers, spec.scheduler)(**spec.scheduler_config)


def scheduler_of(spec: BackboneSpec) -> SchedulerMixin:
    """The scheduler alone, no weights loaded: the pipeline's own where its files are here, else the published
    settings.

    Raises:
        BackboneError: another source that cannot be had, or that is of another family.
    """
    kind, source = getattr(diffusers, spec.scheduler), spec.sources()[0]
    if spec.source != SPECS[spec.id].source or hub.is_ready(source):
        folder = hub.fetch(source)
        check_family(spec, folder)
        if components(folder)["scheduler"][1] == spec.scheduler:
            return kind.from_pretrained(folder / "scheduler")
    return kind(**spec.scheduler_config)


def unet_with_lora(spec: BackboneSpec, folder: Path, dtype: torch.dtype, file: str) -> nn.Module:
    """A fresh U-Net from a pipeline's folder with this LoRA fused."""
    lora = _lora_path(spec, file)  # first of all what may be missing
    unet = UNet2DConditionModel.from_pretrained(
        folder / "unet", dtype=dtype, variant=variant_of(folder, dtype), local_files_only=True
    )
    fuse_lora(unet, lora, getattr(diffusers, spec.pipeline))
    return unet.eval().requires_grad_(False)


def variant_of(folder: Path, dtype: torch.dtype) -> str | None:
    """ "fp16" where the folder has nothing else, or both and half precision is asked for."""
    names = [
        path.name for path in folder.glob("*/*.safetensors") if path.parent.name in ("unet", "transformer")
    ]
    half = [name for name in names if ".fp16." in name]
    return "fp16" if half and (dtype == torch.float16 or len(half) == len(names)) else None


def check_memory(spec: BackboneSpec, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a published model that could only end with a killed process or an error in the middle.

    Raises:
        BackboneError: one sentence with what would fit.
    """
    free = memory.free_bytes(device)
    found = memory.foreseen(spec, device, free, dtype)
    if not found.fits:
        raise BackboneError(memory.too_large(spec, found.peak, free, device))


def _free(device: torch.device) -> int:
    return memory.free_bytes(device) - memory.RESERVE


def _own_size(spec: BackboneSpec, pipe: DiffusionPipeline) -> tuple[int, int]:
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor if spec.family != "flux" else spec.size
    return (side, side) if isinstance(side, int) else tuple(side)


def _tiny_decoder(spec: BackboneSpec, dtype: torch.dtype) -> nn.Module | None:
    """The small decoder; a backbone without one is whole, so that its absence is no error."""
    try:
        folder = hub.fetch(spec.tiny_vae) if spec.tiny_vae else None
    except BackboneError:
        return None
    if folder is None:
        return None
    with quiet_libraries():
        return AutoencoderTiny.from_pretrained(folder, dtype=dtype).eval().requires_grad_(False)


def _one(lora: Source, file: str) -> Source:
    return replace(lora, files=(file,), bytes=lora.bytes // max(1, len(lora.files)))


def _lora_path(spec: BackboneSpec, file: str) -> Path:
    return hub.fetch(_one(spec.lora, file)) / file
