"""What an evaluation found: the scores of every image, and what can be said about them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qsched.comparison.result import FULL_PRECISION, NAIVE, QSCHED
from qsched.evaluation.provenance import versions
from qsched.presets import Preset
from qsched.scoring import ALIGNMENT_FLOOR, JAQ_DEFINITION, QUALITY
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
FEW_PROMPTS, FEWEST_PROMPTS = 20, 5
"""With fewer prompts than the first, intervals are to be taken with care; a category with fewer than the
second gets none: resampling two or three prompts says little about others.
"""


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
