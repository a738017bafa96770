"""Does a preset hold on prompts and noise that its search never saw? Four columns, their scores, 95 %
intervals.

The fourth column, full precision with the same coefficients, is the control: where it gains as much as
Q-Sched does, the coefficients improve the judge's opinion of any model and do not repair quantization.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsched.comparison.comparison import FULL_PRECISION, NAIVE, QSCHED
from qsched.evaluation.provenance import device_name, versions
from qsched.models.base import Backbone
from qsched.presets import Preset
from qsched.quantization import Quantization
from qsched.sampling.loop import draw_noise, first_prediction, images_per_batch, sample
from qsched.scoring import ALIGNMENT_FLOOR, JAQ_DEFINITION, K_DEFAULT, QUALITY, quality_name
from qsched.scoring.similarity import similarity
from qsched.surfaces.intervals import BOOTSTRAP, OVER_SEEDS, Estimate, bootstrap, over_seeds

CONTROL = "full precision + coefficients"
COLUMNS = (FULL_PRECISION, NAIVE, QSCHED, CONTROL)
DIFFERENCES = {
    f"{QSCHED} - {NAIVE}": (QSCHED, NAIVE),
    f"{CONTROL} - {FULL_PRECISION}": (CONTROL, FULL_PRECISION),
    f"{QSCHED} - {FULL_PRECISION}": (QSCHED, FULL_PRECISION),
}
METRICS = {
    "jaq": "JAQ",
    "alignment": "CLIPScore",
    "quality": "CLIP-IQA",
    "ssim": "SSIM",
    "psnr": "PSNR (dB)",
    "lpips": "LPIPS",
}
TO_FULL_PRECISION = ("ssim", "psnr", "lpips")
"""Metrics that compare an image with the full-precision one of the same prompt and noise; of LPIPS, less is
better.
"""
FIRST_SEED = 1000
"""Searches start at seed 0: from here on the noise is new as well as the prompts."""
FEW_PROMPTS, FEWEST_PROMPTS = 20, 5
"""With fewer prompts than the first, intervals are to be taken with care; a category with fewer than the
second gets
none: resampling two or three prompts says little about others."""


@dataclass
class Evaluation:
    """Scores of every image, and what can be said about them.

    Attributes:
        scores: by column and metric (METRICS without "jaq"; "lpips" only where the scorer offers it), arrays
            of shape (seeds, prompts).
        failed: images that were not finite, by column; they are scored as black ones.
        revision: of the weights that were evaluated.
        categories: indices into the prompts, by category; empty if they have none.
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
    revision: str
    categories: dict[str, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def formula(self) -> str:
        """JAQ in the scorer's own terms."""
        return JAQ_DEFINITION.replace(QUALITY, self.scorer.get("quality", QUALITY))

    @property
    def metrics(self) -> dict[str, str]:
        """What was measured, by the names that people read."""
        named = METRICS | {"quality": self.scorer.get("quality", METRICS["quality"])}
        return {
            metric: name for metric, name in named.items() if metric == "jaq" or metric in self.scores[NAIVE]
        }

    def estimate(self, column: str, metric: str) -> Estimate:
        """The mean of a metric. JAQ is computed per seed, from the means over the prompts, with an interval
        over the seeds; the others have an interval over prompts and seeds."""
        if metric == "jaq":
            return over_seeds(self.jaq_per_seed(column))
        return bootstrap(self.statistic(column, metric), len(self.seeds), len(self.prompts))

    def difference(self, metric: str, column: str = QSCHED, against: str = NAIVE) -> Estimate:
        """column - against, resampled in pairs (same prompts, same seeds) over prompts and seeds, JAQ too."""
        one, other = self.statistic(column, metric), self.statistic(against, metric)
        return bootstrap(lambda *weights: one(*weights) - other(*weights), len(self.seeds), len(self.prompts))

    def part(self, category: str) -> "Evaluation":
        """The same for the prompts of one category."""
        index = self.categories[category]
        scores = {
            c: {metric: values[:, index] for metric, values in s.items()} for c, s in self.scores.items()
        }
        return replace(self, prompts=[self.prompts[i] for i in index], scores=scores, categories={})

    def difference_in(self, category: str) -> Estimate:
        """JAQ of Q-Sched - naive on the prompts of one category; no interval for fewer than
        FEWEST_PROMPTS.
        """
        estimate = self.part(category).difference("jaq")
        return (
            estimate
            if len(self.categories[category]) >= FEWEST_PROMPTS
            else replace(estimate, low=None, high=None)
        )

    def jaq_per_seed(self, column: str) -> np.ndarray:
        """log(mean CLIPScore) + k * mean CLIP-IQA over the prompts, for every seed, shape (seeds,)."""
        prompts = np.full((1, len(self.prompts)), 1 / len(self.prompts))
        return self._jaq(column, prompts)[0]

    def _jaq(self, column: str, prompts: np.ndarray) -> np.ndarray:
        """JAQ of every seed under prompt weights (resamples, prompts), shape (resamples, seeds)."""
        alignment, quality = (prompts @ self.scores[column][name].T for name in ("alignment", "quality"))
        return np.log(np.maximum(alignment, ALIGNMENT_FLOOR)) + self.k * quality

    def statistic(self, column: str, metric: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """A metric's mean as a function of (seed weights, prompt weights), for
        `qsched.surfaces.intervals.bootstrap`.
        """
        if metric == "jaq":
            return lambda seeds, prompts: (seeds * self._jaq(column, prompts)).sum(axis=1)
        values = self.scores[column][metric]
        return lambda seeds, prompts: ((seeds @ values) * prompts).sum(axis=1)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON holds it, on the command line and as Preset.held_out.

        An estimate is {"mean", "low", "high"}: a 95 % interval, or None twice where too few were measured for
        one.

            backbone, bits, steps, coefficients, settings   what was evaluated, from the preset
            revision                                        of the weights that were evaluated
            prompts, seeds, k                               on what, and the weight of quality in JAQ
            jaq, scorer                                     definitions: a text; {"name", "definition",
            "quality"} intervals                                       how they were computed: level, jaq,
            others, differences columns[column][metric]                         estimates; columns as in
            COLUMNS, metrics as in METRICS differences["one - other"][metric]              paired estimates,
            for the pairs in DIFFERENCES categories[category]                            {"prompts": count,
            column: mean JAQ ..., and the paired
                                                            estimate "Q-Sched - naive" of JAQ}; empty for own
                                                            prompts
            failed_images[column]                           images that were not finite, scored as black ones
            device, versions, notes                         notes: sentences about what weakens the result
        """
        gain = next(iter(DIFFERENCES))
        return {
            "backbone": self.preset.backbone,
            "revision": self.revision,
            "bits": self.preset.bits,
            "steps": self.preset.steps,
            "coefficients": self.preset.coefficients.to_dict(),
            "settings": self.preset.settings,
            "prompts": self.prompts,
            "seeds": self.seeds,
            "k": self.k,
            "jaq": self.formula,
            "scorer": self.scorer,
            "intervals": {
                "level": 0.95,
                "jaq": OVER_SEEDS,
                "others": BOOTSTRAP,
                "differences": f"paired, {BOOTSTRAP}",
            },
            "columns": {
                c: {metric: self.estimate(c, metric).to_dict() for metric in self.metrics} for c in COLUMNS
            },
            "differences": {
                label: {metric: self.difference(metric, *pair).to_dict() for metric in self.metrics}
                for label, pair in DIFFERENCES.items()
            },
            "categories": {
                name: {"prompts": len(index)}
                | {column: float(self.part(name).jaq_per_seed(column).mean()) for column in COLUMNS}
                | {gain: self.difference_in(name).to_dict()}
                for name, index in self.categories.items()
            },
            "failed_images": self.failed,
            "device": self.device,
            "versions": versions(),
            "notes": self.notes,
        }


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
