"""Does a preset hold on prompts and noise that its search never saw? Four columns, their scores, 95 %
intervals.

The fourth column, full precision with the same coefficients, is the control: where it gains as much as
Q-Sched does, the coefficients improve the judge's opinion of any model and do not repair quantization.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsched.comparison.result import FULL_PRECISION, NAIVE, QSCHED
from qsched.evaluation.provenance import device_name
from qsched.evaluation.result import COLUMNS, CONTROL, FEW_PROMPTS, Evaluation
from qsched.models.base import Backbone
from qsched.presets import Preset
from qsched.quantization import Quantization
from qsched.sampling.loop import draw_noise, first_prediction, images_per_batch, sample
from qsched.scoring import K_DEFAULT, quality_name
from qsched.scoring.similarity import similarity

FIRST_SEED = 1000
"""Searches start at seed 0: from here on the noise is new as well as the prompts."""


def evaluate(
    backbone: Backbone,
    preset: Preset,
    prompts: Sequence[str],
    seeds: int | Sequence[int] = 5,
    *,
    k: float = K_DEFAULT,
    categories: Mapping[str, Sequence[str]] | None = None,
    any_revision: bool = False,
    batch: int | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score four columns on held-out prompts: full precision, naive, Q-Sched, and the control.

    Args:
        prompts: at least one; best none of the preset's own.
        seeds: noise seeds, or how many to take from FIRST_SEED on.
        categories: prompts by category, to see where the coefficients help; other prompts in it are ignored.
        any_revision: evaluate a preset that was made with other weights too, and note it.
        batch: prompts at a time, halved where memory runs out; None is what suits the device.
        on_batch: called with (images done, images in all) after every batch.
    Raises:
        ValueError: no prompts or seeds, or a preset that this backbone cannot run or that other weights have
            made.
    """
    prompts = [" ".join(prompt.split()) for prompt in prompts]
    seeds = list(range(FIRST_SEED, FIRST_SEED + seeds)) if isinstance(seeds, int) else list(seeds)
    if not prompts or not all(prompts) or not seeds:
        raise ValueError(
            "An evaluation needs at least one prompt, none of them empty, and at least one seed."
        )
    if preset.backbone != backbone.spec.id:
        raise ValueError(f"The preset is for {preset.backbone}, and the backbone is {backbone.spec.id}.")
    if preset.steps not in backbone.spec.steps:
        raise ValueError(f"{backbone.spec.title} does not run in the preset's {preset.steps} steps.")
    if not preset.published and backbone.revision != preset.revision and not any_revision:
        raise ValueError(
            f"The preset was made with revision {preset.revision} of {preset.backbone}, and this is revision "
            f"{backbone.revision}; --any-revision evaluates it all the same."
        )
    backbone.use(preset.steps)
    module, condition = backbone.quantized(quantization_of(preset)).module, backbone.encode(prompts)
    scorer, total = backbone.scorer(), len(COLUMNS) * len(seeds) * len(prompts)
    scores: dict[str, dict[str, np.ndarray]] = {column: {} for column in COLUMNS}
    failed = dict.fromkeys(COLUMNS, 0)
    batch = batch or images_per_batch(backbone.device)
    for row, seed in enumerate(seeds):
        waiting = [
            list(range(begin, min(begin + batch, len(prompts)))) for begin in range(0, len(prompts), batch)
        ]
        while waiting:
            index = waiting.pop(0)
            try:
                drawn = _columns(backbone, preset, module, condition.select(index), seed, index)
                broken = {
                    c: int((~images.isfinite().flatten(1).all(dim=1)).sum()) for c, images in drawn.items()
                }
                reference, asked = drawn[FULL_PRECISION], [prompts[i] for i in index]
                measured = {c: _score(scorer, images, reference, asked) for c, images in drawn.items()}
            except torch.OutOfMemoryError:
                if len(index) == 1:
                    raise
                batch = (len(index) + 1) // 2
                waiting[:0] = [index[:batch], index[batch:]]
                continue
            for column in COLUMNS:
                failed[column] += broken[column]
                for metric, values in measured[column].items():
                    table = scores[column].setdefault(metric, np.full((len(seeds), len(prompts)), np.nan))
                    table[row, index] = values.double().cpu().numpy()
            if on_batch is not None:
                on_batch(len(COLUMNS) * (row * len(prompts) + index[-1] + 1), total)
    judge = {"name": scorer.name, "definition": scorer.definition}
    judge["quality"] = quality_name(scorer)
    return Evaluation(
        preset, prompts, seeds, k, scores, failed, judge, device_name(backbone.device), backbone.revision,
        _indices(prompts, categories or {}), _notes(backbone, preset, prompts, seeds, failed, total),
    )  # fmt: skip


def quantization_of(preset: Preset) -> Quantization:
    """How the preset's denoiser was quantized.

    Raises:
        ValueError: if its settings hold something that this program does not know.
    """
    known = set(asdict(Quantization())) - {"bits"}
    if unknown := set(preset.settings) - known:
        raise ValueError(
            f"The preset's quantizer settings hold {', '.join(sorted(unknown))}, which this "
            f"program does not know."
        )
    return Quantization(preset.bits, **preset.settings)


@torch.inference_mode()
def _columns(
    backbone: Backbone, preset: Preset, module: torch.nn.Module, condition: Any, seed: int, index: list[int]
) -> dict[str, Tensor]:
    """The four images of every prompt from the same noise; each denoiser's first prediction is
    computed once.
    """
    noise = draw_noise(backbone.latent_shape, seed, index)
    images = {}
    for columns, denoiser in (((FULL_PRECISION, CONTROL), None), ((NAIVE, QSCHED), module)):
        first = first_prediction(backbone, condition, noise, preset.steps, denoiser)
        for column, coefficients in zip(columns, (None, preset.coefficients), strict=True):
            images[column] = backbone.decode(
                sample(backbone, condition, noise, preset.steps, coefficients, denoiser, first)
            )
    return images


def _score(scorer: Any, images: Tensor, reference: Tensor, prompts: list[str]) -> dict[str, Tensor]:
    """Every metric of every image, each of shape (batch,)."""
    images, reference = images.nan_to_num(0.0, 0.0, 0.0), reference.nan_to_num(0.0, 0.0, 0.0)
    scored = scorer.score(images, prompts)
    like = similarity(images, reference, getattr(scorer, "lpips", None))
    found = {"alignment": scored.alignment, "quality": scored.quality, "ssim": like.ssim, "psnr": like.psnr}
    return found if like.lpips is None else found | {"lpips": like.lpips}


def _indices(prompts: list[str], categories: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    members = {
        name: {" ".join(prompt.split()) for prompt in category} for name, category in categories.items()
    }
    found = {
        name: [i for i, prompt in enumerate(prompts) if prompt in known] for name, known in members.items()
    }
    return {name: index for name, index in found.items() if index}


def _notes(
    backbone: Backbone,
    preset: Preset,
    prompts: list[str],
    seeds: list[int],
    failed: dict[str, int],
    total: int,
) -> list[str]:
    notes = []
    if seen := set(prompts) & set(preset.prompts):
        notes.append(
            f"{len(seen)} of the {len(prompts)} prompts were used to find the coefficients: the result "
            f"flatters Q-Sched."
        )
    if preset.mark:
        notes.append(preset.mark)
    if not preset.published and backbone.revision != preset.revision:
        notes.append("The preset was made with other weights than the ones evaluated here.")
    if set(seeds) & set(preset.provenance.get("seeds", ())):
        notes.append("Some of the seeds were used for the search.")
    if len(prompts) < FEW_PROMPTS:
        notes.append(f"With fewer than {FEW_PROMPTS} prompts, bootstrap intervals tend to be too narrow.")
    if any(failed.values()):
        counts = ", ".join(f"{column} {count}" for column, count in failed.items() if count)
        notes.append(f"Images that were not finite, of {total // len(COLUMNS)} each: {counts}.")
    return notes
