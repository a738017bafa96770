"""The scorers of real backbones by name, their weights, and how they are loaded."""

import threading
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import torch

from qsched.hub.source import Source
from qsched.scoring import Scorer
from qsched.scoring.clip import ClipModel
from qsched.scoring.clip_iqa import PAIRS, ClipIqa
from qsched.scoring.hps import HpsScorer
from qsched.scoring.lpips import LINEAR, load_lpips, lpips_is_here
from qsched.scoring.photo import Perceptual, PhotoScorer
from qsched.scoring.weights import ScorerError, Weights, fetch, fingerprint

OPEN_CLIP = ("open_clip_config.json", "open_clip_model.safetensors")
CLIP_B32 = Weights(
    "CLIP ViT-B-32 of the scores",
    Source("timm/vit_base_patch32_clip_224.openai", OPEN_CLIP, bytes=605_000_000),
)
CLIP_L14 = Weights(
    "CLIP ViT-L-14 of the scores",
    Source("timm/vit_large_patch14_clip_224.openai", OPEN_CLIP, bytes=1_710_000_000),
)
CLIP_RN50 = Weights(
    "CLIP RN50 of CLIP-IQA",
    Source("timm/resnet50_clip.openai", ("open_clip_model.safetensors",), bytes=408_000_000),
)
HPS = Weights("HPSv2.1", Source("xswu/HPSv2", ("HPS_v2.1_compressed.pt",), bytes=1_972_000_000))
HPS_ARCHITECTURE = "ViT-H-14"


@dataclass(frozen=True)
class ScorerSpec:
    """What a scorer is, without loading it.

    weights: all that it needs (LPIPS is optional and comes besides).
    """

    title: str
    weights: tuple[Weights, Weights]
    quality: str


SCORERS = {
    "clip-b32": ScorerSpec("CLIPScore (ViT-B-32) and CLIP-IQA", (CLIP_B32, CLIP_RN50), "CLIP-IQA"),
    "clip-l14": ScorerSpec("CLIPScore (ViT-L-14) and CLIP-IQA", (CLIP_L14, CLIP_RN50), "CLIP-IQA"),
    "hps": ScorerSpec("CLIPScore (ViT-L-14) and HPSv2.1", (CLIP_L14, HPS), "HPSv2.1"),
}
_lock = threading.Lock()
_loaded: WeakValueDictionary[tuple, Scorer] = WeakValueDictionary()


def scorer_weights(name: str) -> list[Weights]:
    """Everything to fetch from the Hub for a scorer, LPIPS's weightings last; AlexNet for LPIPS comes from
    elsewhere.

    Raises:
        ValueError: unknown name; the known ones are listed.
    """
    return [*_spec(name).weights, LINEAR]


def load_scorer(
    name: str,
    device: torch.device | str = "cpu",
    *,
    folder: str | Path | None = None,
    offline: bool | None = None,
) -> Scorer:
    """A scorer by name, shared by all who ask for the same one.

    Args:
        name: one of SCORERS. device: where it computes.
        folder: a folder with local copies, one folder per repository, named like it
            (vit_base_patch32_clip_224.openai, resnet50_clip.openai, ...); None is the Hub and its cache.
        offline: never ask the Hub; None asks it unless HF_HUB_OFFLINE is set.
    Raises:
        ValueError: unknown name.
        ScorerError: the weights cannot be had or read, or there is no memory for them; one sentence.
    """
    spec, device = _spec(name), torch.device(device)
    key = (name, str(device), None if folder is None else str(folder), offline)
    with _lock:
        scorer = _loaded.get(key)
        if scorer is None:
            scorer = _loaded[key] = _load(name, spec, device, folder, offline)
        return scorer


def _spec(name: str) -> ScorerSpec:
    if name not in SCORERS:
        raise ValueError(f"Unknown scorer {name!r}; known are {', '.join(SCORERS)}.")
    return SCORERS[name]


def _load(
    name: str, spec: ScorerSpec, device: torch.device, folder: str | Path | None, offline: bool | None
) -> Scorer:
    places = [fetch(weights, folder, offline) for weights in spec.weights]
    lpips = Perceptual(
        lambda: load_lpips(device, folder=folder, offline=offline), lambda: lpips_is_here(folder)
    )
    try:
        clip = ClipModel.from_folder(places[0], device)
        if name == "hps":
            hps = ClipModel.from_checkpoint(HPS_ARCHITECTURE, places[1] / HPS.source.files[0], device)
            return HpsScorer(clip, hps, name, _definition(spec, places, folder), lpips)
        iqa = ClipIqa.from_folder(places[1], device)
        return PhotoScorer(clip, iqa, name, _definition(spec, places, folder), lpips)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ScorerError(f"There is no memory left on {device} for the scorer {name}.") from error
    except Exception as error:  # damaged files make the loaders of three libraries raise anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ScorerError(
            f"The scorer {name} cannot be loaded from {places[0]} and {places[1]}: {reason}"
        ) from error


def _definition(spec: ScorerSpec, places: list[Path], folder: str | Path | None) -> str:
    """What is computed, by which weights, with which prompts, in one line."""
    clip, second = (
        _origin(weights, place, folder) for weights, place in zip(spec.weights, places, strict=True)
    )
    architecture = spec.weights[0].title.split()[1]
    score = f"CLIPScore = 100·max(cos, 0) of image and bare prompt by CLIP {architecture} ({clip})"
    if spec.quality != "CLIP-IQA":
        return (
            f"{score}, and in the place of CLIP-IQA HPSv2.1 = max(cos, 0) by {HPS_ARCHITECTURE} "
            f"({second}): an approximation of the "
            "paper's second JAQ, AQ-Map + 2·HPSv2, with log(CLIPScore) for AQ-Map"
        )
    pairs = ", ".join(f"“{good}” against “{bad}”" for good, bad in PAIRS)
    return f"{score}, CLIP-IQA as in pyiqa by CLIP RN50 ({second}), mean over {len(PAIRS)} pairs: {pairs}"


def _origin(weights: Weights, place: Path, folder: str | Path | None) -> str:
    repo, files = weights.source.repo, weights.source.files
    return repo if folder is None else f"a local copy of {repo}, SHA-256 {fingerprint(place / files[-1])}"
