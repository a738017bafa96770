"""Does a preset hold on prompts and noise that its search never saw? Four columns, five numbers, 95 % intervals.

The fourth column, full precision with the same coefficients, is the control: where it gains as much as Q-Sched does,
the coefficients improve the judge's opinion of any model and do not repair quantization.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsched.backbones import Backbone, Quantization
from qsched.comparison import FULL_PRECISION, NAIVE, QSCHED
from qsched.intervals import BOOTSTRAP, OVER_SEEDS, Estimate, bootstrap, over_seeds
from qsched.presets import Preset
from qsched.provenance import device_name, versions
from qsched.sampling import draw_noise, first_prediction, sample
from qsched.scoring import ALIGNMENT_FLOOR, JAQ_DEFINITION, K_DEFAULT, similarity

CONTROL = "full precision + coefficients"
COLUMNS = (FULL_PRECISION, NAIVE, QSCHED, CONTROL)
METRICS = {"jaq": "JAQ", "alignment": "CLIPScore", "quality": "CLIP-IQA", "ssim": "SSIM", "psnr": "PSNR (dB)"}
FIRST_SEED = 1000
"""Searches start at seed 0: from here on the noise is new as well as the prompts."""
BATCH = 64


@dataclass
class Evaluation:
    """Scores of every image, and what can be said about them.

    Attributes:
        scores: by column and metric ("alignment", "quality", "ssim", "psnr"; the last two to full precision), arrays of
            shape (seeds, prompts).
        failed: images that were not finite, by column; they are scored as black ones.
        notes: sentences about anything that weakens the result.
    """

    preset: Preset
    prompts: list[str]
    seeds: list[int]
    k: float
    scores: dict[str, dict[str, np.ndarray]]
    failed: dict[str, int]
    scorer: dict[str, str]
    device: str
    notes: list[str] = field(default_factory=list)

    def estimate(self, column: str, metric: str) -> Estimate:
        """The mean of a metric. JAQ is computed per seed, from the means over the prompts, with an interval over the
        seeds; the others have an interval over prompts and seeds."""
        if metric == "jaq":
            return over_seeds(self.jaq_per_seed(column))
        return bootstrap(self._statistic(column, metric), len(self.seeds), len(self.prompts))

    def difference(self, metric: str, column: str = QSCHED, against: str = NAIVE) -> Estimate:
        """column - against, resampled in pairs (same prompts, same seeds) over prompts and seeds, JAQ too."""
        one, other = self._statistic(column, metric), self._statistic(against, metric)
        return bootstrap(lambda *weights: one(*weights) - other(*weights), len(self.seeds), len(self.prompts))

    def jaq_per_seed(self, column: str) -> np.ndarray:
        """log(mean CLIPScore) + k * mean CLIP-IQA over the prompts, for every seed, shape (seeds,)."""
        prompts = np.full((1, len(self.prompts)), 1 / len(self.prompts))
        return self._jaq(column, prompts)[0]

    def _jaq(self, column: str, prompts: np.ndarray) -> np.ndarray:
        """JAQ of every seed under prompt weights (resamples, prompts), shape (resamples, seeds)."""
        alignment, quality = (prompts @ self.scores[column][name].T for name in ("alignment", "quality"))
        return np.log(np.maximum(alignment, ALIGNMENT_FLOOR)) + self.k * quality

    def _statistic(self, column: str, metric: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        if metric == "jaq":
            return lambda seeds, prompts: (seeds * self._jaq(column, prompts)).sum(axis=1)
        values = self.scores[column][metric]
        return lambda seeds, prompts: ((seeds @ values) * prompts).sum(axis=1)

    def to_dict(self) -> dict[str, Any]:
        """JSON friendly: means, intervals, paired differences, and how they were computed; also fits Preset.held_out."""
        pairs = {"Q-Sched - naive": (QSCHED, NAIVE), f"{CONTROL} - full precision": (CONTROL, FULL_PRECISION),
                 "Q-Sched - full precision": (QSCHED, FULL_PRECISION)}  # fmt: skip
        differences = {
            label: {metric: self.difference(metric, *pair).to_dict() for metric in METRICS}
            for label, pair in pairs.items()
        }
        return {
            "backbone": self.preset.backbone,
            "revision": self.preset.revision,
            "bits": self.preset.bits,
            "steps": self.preset.steps,
            "coefficients": self.preset.coefficients.to_dict(),
            "prompts": self.prompts,
            "seeds": self.seeds,
            "k": self.k,
            "jaq": JAQ_DEFINITION,
            "scorer": self.scorer,
            "intervals": {"level": 0.95, "jaq": OVER_SEEDS, "others": BOOTSTRAP, "differences": f"paired, {BOOTSTRAP}"},
            "columns": {c: {metric: self.estimate(c, metric).to_dict() for metric in METRICS} for c in COLUMNS},
            "differences": differences,
            "failed_images": self.failed,
            "device": self.device,
            "versions": versions(),
            "notes": self.notes,
        }

    def to_markdown(self) -> str:
        """A table with a line per column, the paired difference, and the definitions below."""
        rows = [["", *METRICS.values()]]
        rows += [[column, *(_shown(self.estimate(column, metric), metric) for metric in METRICS)] for column in COLUMNS]
        rows.append(["Q-Sched - naive", *(_shown(self.difference(metric), metric, "+") for metric in METRICS)])
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines.insert(1, "|---" * len(rows[0]) + "|")
        many = lambda count, noun: f"{count} {noun}" + "s" * (count != 1)
        return "\n".join([
            f"{self.preset.backbone}, {self.preset.bits}, {many(self.preset.steps, 'step')}, "
            f"{many(len(self.prompts), 'prompt')} x {many(len(self.seeds), 'seed')}; mean [95 % interval].",
            "",
            *lines,
            "",
            f"{JAQ_DEFINITION}, k = {self.k:g}, per seed from the means over the prompts ({self.scorer['name']}: "
            f"{self.scorer['definition']}).",
            f"Intervals: JAQ {OVER_SEEDS}; the others {BOOTSTRAP}; the difference paired likewise. SSIM and PSNR compare with full precision.",
            *(f"Note: {note}" for note in self.notes),
        ])  # fmt: skip


def evaluate(
    backbone: Backbone,
    preset: Preset,
    prompts: Sequence[str],
    seeds: int | Sequence[int] = 5,
    *,
    k: float = K_DEFAULT,
    on_seed: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score four columns on held-out prompts: full precision, naive, Q-Sched, and the control.

    Args:
        prompts: at least one; best none of the preset's own.
        seeds: noise seeds, or how many to take from FIRST_SEED on.
        on_seed: called with (done, total) after every seed.
    Raises:
        ValueError: no prompts or seeds, or a preset that this backbone cannot run.
    """
    prompts = [" ".join(prompt.split()) for prompt in prompts]
    seeds = list(range(FIRST_SEED, FIRST_SEED + seeds)) if isinstance(seeds, int) else list(seeds)
    if not prompts or not all(prompts) or not seeds:
        raise ValueError("An evaluation needs at least one prompt, none of them empty, and at least one seed.")
    if preset.backbone != backbone.spec.id:
        raise ValueError(f"The preset is for {preset.backbone}, and the backbone is {backbone.spec.id}.")
    if preset.steps not in backbone.spec.steps:
        raise ValueError(f"{backbone.spec.title} does not run in the preset's {preset.steps} steps.")
    module, condition = backbone.quantized(quantization_of(preset)).module, backbone.encode(prompts)
    scorer, scores = backbone.scorer(), {column: [] for column in COLUMNS}
    failed = dict.fromkeys(COLUMNS, 0)
    for done, seed in enumerate(seeds, start=1):
        rows = {column: [] for column in COLUMNS}
        for begin in range(0, len(prompts), BATCH):
            index = list(range(len(prompts)))[begin : begin + BATCH]
            pictures = _columns(backbone, preset, module, condition.select(index), seed, index)
            for column, images in pictures.items():
                failed[column] += int((~images.isfinite().flatten(1).all(dim=1)).sum())
                rows[column].append(_score(scorer, images, pictures[FULL_PRECISION], [prompts[i] for i in index]))
        for column in COLUMNS:
            scores[column].append(torch.cat(rows[column], dim=1))
        if on_seed is not None:
            on_seed(done, len(seeds))
    names = ("alignment", "quality", "ssim", "psnr")
    stacked = {column: torch.stack(scores[column], dim=1).double().numpy() for column in COLUMNS}
    return Evaluation(
        preset, prompts, seeds, k, {c: dict(zip(names, stacked[c], strict=True)) for c in COLUMNS}, failed,
        {"name": scorer.name, "definition": scorer.definition}, device_name(backbone.device), _notes(backbone, preset, prompts, seeds),
    )  # fmt: skip


def quantization_of(preset: Preset) -> Quantization:
    """How the preset's denoiser was quantized.

    Raises:
        ValueError: if its settings hold something that this program does not know.
    """
    known = set(asdict(Quantization())) - {"bits"}
    if unknown := set(preset.settings) - known:
        raise ValueError(
            f"The preset's quantizer settings hold {', '.join(sorted(unknown))}, which this program does not know."
        )
    return Quantization(preset.bits, **preset.settings)


@torch.inference_mode()
def _columns(
    backbone: Backbone, preset: Preset, module: torch.nn.Module, condition: Any, seed: int, index: list[int]
) -> dict[str, Tensor]:
    """The four pictures of every prompt from the same noise; each denoiser's first prediction is computed once."""
    noise = draw_noise(backbone.latent_shape, seed, index)
    pictures = {}
    for columns, denoiser in (((FULL_PRECISION, CONTROL), None), ((NAIVE, QSCHED), module)):
        first = first_prediction(backbone, condition, noise, preset.steps, denoiser)
        for column, coefficients in zip(columns, (None, preset.coefficients), strict=True):
            pictures[column] = backbone.decode(
                sample(backbone, condition, noise, preset.steps, coefficients, denoiser, first)
            )
    return pictures


def _score(scorer: Any, images: Tensor, reference: Tensor, prompts: list[str]) -> Tensor:
    """Alignment, quality, SSIM, PSNR of every image, shape (4, batch)."""
    images, reference = images.nan_to_num(0.0, 0.0, 0.0), reference.nan_to_num(0.0, 0.0, 0.0)
    scored, like = scorer.score(images, prompts), similarity(images, reference)
    return torch.stack([value.float().cpu() for value in (scored.alignment, scored.quality, like.ssim, like.psnr)])


def _notes(backbone: Backbone, preset: Preset, prompts: list[str], seeds: list[int]) -> list[str]:
    notes = []
    if seen := set(prompts) & set(preset.prompts):
        notes.append(
            f"{len(seen)} of the {len(prompts)} prompts were used for the search: the result flatters Q-Sched."
        )
    if backbone.revision != preset.revision:
        notes.append("The preset was searched on other weights than the ones evaluated here.")
    if set(seeds) & set(preset.provenance.get("seeds", ())):
        notes.append("Some of the seeds were used for the search.")
    return notes


def _shown(estimate: Estimate, metric: str, sign: str = "") -> str:
    digits = 2 if metric in ("alignment", "psnr") else 3
    number = lambda value: f"{value:{sign}.{digits}f}"
    if estimate.low is None:
        return number(estimate.mean)
    return f"{number(estimate.mean)} [{number(estimate.low)}, {number(estimate.high)}]"
