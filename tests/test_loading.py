"""Loading real families from local folders: registry, sources, fine-tunes, and everything that can be wrong
with them.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, LCMScheduler
from tiny_models import (
    NATIVE,
    PROMPTS,
    REAL,
    FakeScorer,
    folder_of,
    fresh,
    lora_of,
    spec_of,
    tiny,
    tiny_vae_of,
)

from qsched import load_backbone
from qsched.hub.source import BackboneError, Source
from qsched.models import diffusers_folder as loading
from qsched.models import memory
from qsched.models.devices import pick_dtype
from qsched.models.registry import SPECS
from qsched.models.spec import ANY_FILES
from qsched.schedulers import TWINS

CPU = torch.device("cpu")


@pytest.fixture
def local(monkeypatch):
    """Every source of the registry in a local folder, so that backbones load by their ids."""
    for id in REAL:
        monkeypatch.setitem(SPECS, id, replace(spec_of(id), lora=lora_of(id) if SPECS[id].lora else None))
    monkeypatch.setattr(loading, "check_memory", lambda *args: None)


@pytest.fixture
def copied(tmp_path):
    """A copy of a tiny pipeline's folder that a test may damage."""
    return lambda id: Path(shutil.copytree(folder_of(id), tmp_path / id))


def test_the_registry_is_complete_and_runs_on_schedulers_with_twins():
    assert list(SPECS) == [
        "emoji-lcm",
        "lcm-dreamshaper-v7",
        "pcm-sd15",
        "pcm-sdxl",
        "sdxl-turbo",
        "flux1-schnell",
    ]
    twins = {stock.__name__ for stock in TWINS}
    for spec in SPECS.values():
        assert spec.scheduler in twins and spec.default_steps in spec.steps and len(spec.examples) == 8
        assert spec.sources()[0] == Source(spec.source, spec.files, spec.revision, spec.download_bytes)
    assert {id for id in REAL if SPECS[id].gated} == {"flux1-schnell"}
    assert {id: SPECS[id].guidance for id in REAL if SPECS[id].guidance} == {"lcm-dreamshaper-v7": 8.0}


def test_the_registry_runs_what_was_published_as_it_was_published():
    eight, four = tuple(range(1, 9)), (1, 2, 3, 4)
    expected = {
        "lcm-dreamshaper-v7": ("SimianLuo/LCM_Dreamshaper_v7", "LCMScheduler", eight, 8.0, 512),
        "pcm-sd15": ("stable-diffusion-v1-5/stable-diffusion-v1-5", "TCDScheduler", (2, 4, 8, 16), None, 512),
        "pcm-sdxl": ("stabilityai/stable-diffusion-xl-base-1.0", "TCDScheduler", (2, 4, 8, 16), None, 1024),
        "sdxl-turbo": ("stabilityai/sdxl-turbo", "EulerAncestralDiscreteScheduler", four, None, 512),
        "flux1-schnell": (
            "black-forest-labs/FLUX.1-schnell",
            "FlowMatchEulerDiscreteScheduler",
            four,
            None,
            1024,
        ),
    }
    found = {
        id: (s.source, s.scheduler, s.steps, s.guidance, s.size) for id, s in SPECS.items() if id in REAL
    }
    assert found == expected
    assert {SPECS[id].lora.repo for id in ("pcm-sd15", "pcm-sdxl")} == {"wangfuyun/PCM_Weights"}
    tiny_vaes = {id: SPECS[id].tiny_vae.repo.rpartition("/")[2] for id in REAL}
    assert set(tiny_vaes.values()) == {"taesd", "taesdxl", "taef1"} and tiny_vaes["pcm-sdxl"] == "taesdxl"


@pytest.mark.parametrize("id", ["pcm-sd15", "pcm-sdxl"])
def test_pcm_names_a_lora_without_guidance_for_each_step_count(id):
    spec, base = SPECS[id], id.removeprefix("pcm-")
    for steps in spec.steps:
        assert spec.lora_file(steps) == f"{base}/pcm_{base}_smallcfg_{steps}step_converted.safetensors"
    assert spec.lora in spec.sources() and spec.scheduler_config["timestep_spacing"] == "trailing"
    assert spec.step_options == {"eta": 0.0}


@pytest.mark.parametrize("id", REAL)
def test_the_files_to_fetch_are_those_that_are_loaded(id):
    from fnmatch import fnmatch

    spec, folder = SPECS[id], folder_of(id)
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    fetched = {name for name in files if any(fnmatch(name, pattern) for pattern in spec.files)}
    assert fetched == set(files)
    assert fetched == {name for name in files if any(fnmatch(name, pattern) for pattern in ANY_FILES)}
    for name in (
        "flux1-schnell.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "safety_checker/model.safetensors",
    ):
        assert not any(fnmatch(name, pattern) for pattern in (*spec.files, *ANY_FILES))


@pytest.mark.parametrize("id", REAL)
def test_every_backbone_loads_by_its_id_and_from_a_folder(id, local, tmp_path):
    published = load_backbone(id, device="cpu")
    assert published.spec is SPECS[id] and published.image == (SPECS[id].size,) * 2
    assert published.dtype == torch.float32 and not published.denoiser.training
    assert not any(p.requires_grad for p in published.denoiser.parameters())
    (tmp_path / "mine").symlink_to(folder_of(id))
    other = load_backbone(id, device="cpu", source=tmp_path / "mine")
    assert other.spec.source == str(tmp_path / "mine") and other.spec.files == ANY_FILES
    assert other.image == ((1024,) * 2 if id == "flux1-schnell" else (NATIVE,) * 2)
    assert published.revision == other.revision == tiny(id).revision
    assert ("+" in other.revision) == (SPECS[id].lora is not None)


def test_auto_is_the_familys_half_precision_on_cuda_and_float32_elsewhere():
    found = {id: pick_dtype(spec, torch.device("cuda")) for id, spec in SPECS.items()}
    assert found.pop("emoji-lcm") == torch.float32 and found.pop("flux1-schnell") == torch.bfloat16
    assert set(found.values()) == {torch.float16}
    assert {pick_dtype(spec, CPU) for spec in SPECS.values()} == {torch.float32}


def test_a_fine_tune_keeps_its_own_scheduler_settings(copied):
    folder = copied("lcm-dreamshaper-v7")
    LCMScheduler(beta_schedule="linear", original_inference_steps=40).save_pretrained(folder / "scheduler")
    backbone = load_backbone("lcm-dreamshaper-v7", device="cpu", source=folder)
    assert backbone.scheduler.config.original_inference_steps == 40


def test_a_scheduler_without_a_twin_is_replaced_by_the_published_one(copied):
    folder = copied("sdxl-turbo")
    EulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps(index | {"scheduler": ["diffusers", "EulerDiscreteScheduler"]})
    )
    backbone = load_backbone("sdxl-turbo", device="cpu", source=folder)
    assert type(backbone.scheduler).__name__ == "EulerAncestralDiscreteScheduler"
    assert backbone.scheduler.config.timestep_spacing == "trailing"


@pytest.mark.parametrize(
    ("id", "other", "says"),
    [
        ("sdxl-turbo", "pcm-sd15", "StableDiffusionPipeline without text_encoder_2"),
        ("lcm-dreamshaper-v7", "sdxl-turbo", "StableDiffusionXLPipeline with text_encoder_2"),
        ("flux1-schnell", "sdxl-turbo", "StableDiffusionXLPipeline without transformer"),
        ("pcm-sdxl", "flux1-schnell", "FluxPipeline without unet"),
    ],
)
def test_a_folder_of_another_family_is_refused(id, other, says):
    with pytest.raises(BackboneError, match=says):
        load_backbone(id, device="cpu", source=folder_of(other))


DAMAGES = {
    "no index": ("model_index.json", None),
    "foreign index": ("model_index.json", lambda data: b"[1, 2"),
    "listed index": ("model_index.json", lambda data: b"[1, 2]"),
    "truncated denoiser": (
        "unet/diffusion_pytorch_model.fp16.safetensors",
        lambda data: data[: len(data) // 2],
    ),
    "no denoiser": ("unet/diffusion_pytorch_model.fp16.safetensors", None),
    "no text encoder": ("text_encoder_2/model.fp16.safetensors", None),
    "no decoder's settings": ("vae/config.json", None),
    "no words": ("tokenizer/vocab.json", None),
    "no scheduler": ("scheduler/scheduler_config.json", None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders_give_one_sentence(copied, damage):
    folder = copied("sdxl-turbo")
    name, change = DAMAGES[damage]
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if change is not None:
        (folder / name).write_bytes(change(content))
    with pytest.raises(BackboneError) as caught:
        load_backbone("sdxl-turbo", device="cpu", source=folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_half_precision_files_are_taken_where_they_belong(copied):
    folder = copied("sdxl-turbo")
    assert loading.variant_of(folder, torch.float32) == loading.variant_of(folder, torch.float16) == "fp16"
    weights = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(weights, folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert (
        loading.variant_of(folder, torch.float32) is None
        and loading.variant_of(folder, torch.float16) == "fp16"
    )
    assert loading.variant_of(folder_of("lcm-dreamshaper-v7"), torch.float16) is None


def test_a_missing_tiny_decoder_is_no_error_and_a_missing_lora_is(tmp_path):
    gone = Source(str(tmp_path / "gone"), ("a_4step.safetensors",))
    assert not fresh("pcm-sd15", tiny_vae=gone).has_tiny_decoder
    with pytest.raises(BackboneError, match="gone"):
        fresh("pcm-sd15", lora=gone)


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
def test_tiny_decoders_have_the_familys_latents(family):
    id = next(id for id in REAL if SPECS[id].family == family)
    assert tiny(id).tiny.config.latent_channels == tiny(id).pipe.vae.config.latent_channels
    assert tiny_vae_of(family).repo.endswith(family)


def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 12_000_000_000)
    monkeypatch.setattr(loading, "open_pipeline", lambda *args: pytest.fail("it was loaded"))
    with pytest.raises(BackboneError, match=r"FLUX.1-schnell needs .* GB .* 12.0 GB are free: .* would fit"):
        load_backbone("flux1-schnell", device="cpu")
    for id in ("lcm-dreamshaper-v7", "pcm-sd15"):
        loading.check_memory(SPECS[id], CPU, torch.float32)


def test_the_photo_scorer_is_asked_for_once_and_only_when_needed(monkeypatch):
    import sys
    import types

    asked = []
    scorer = FakeScorer()
    fake = types.SimpleNamespace(
        load_scorer=lambda name, device, offline: asked.append((name, device, offline)) or scorer,
        scorer_weights=lambda name: [],
    )
    monkeypatch.setitem(sys.modules, "qsched.scoring.loading", fake)
    backbone = fresh("sdxl-turbo")
    backbone.judge = None
    backbone.encode(PROMPTS)
    assert asked == []
    assert backbone.scorer() is backbone.scorer() is scorer
    assert asked == [("clip-l14", CPU, True)]


def test_a_source_can_be_pinned_to_a_revision(tmp_path, monkeypatch):
    spec = SPECS["sdxl-turbo"]
    tuned, own = spec.at("me/tuned@v2"), spec.at(f"{spec.source}@0123abc")
    assert (tuned.source, tuned.revision, tuned.files) == ("me/tuned", "v2", ANY_FILES)
    assert (own.source, own.revision, own.files) == (spec.source, "0123abc", spec.files)
    assert spec.at("me/tuned").revision is None and tuned.sources()[0].revision == "v2"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me@home").mkdir()
    assert (spec.at("me@home").source, spec.at("me@home").revision) == ("me@home", None)
