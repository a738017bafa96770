"""A checked search and how it computes: what is shared by all points, and how a batch of points becomes scores."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
import optuna
import torch
from torch import Tensor

from qsched.backbones import Backbone, Quantization
from qsched.coefficients import Coefficients
from qsched.presets import SHAPES, Preset
from qsched.provenance import device_name, versions
from qsched.quantization import BitWidth
from qsched.sampling import Noise, draw_noise, first_prediction, prepare_scheduler, sample_candidates
from qsched.scoring import JAQ_DEFINITION, jaq
from qsched.studies import Study
from qsched.surface import Surface

BATCH = 64
"""Images per batch; halved for as long as the device runs out of memory."""


class SearchError(RuntimeError):
    """A search that cannot give a result; the text is one sentence for the user."""


class Job:
    """A checked search: what is computed once for all points, and how a batch of points is."""

    def __init__(self, backbone: Backbone, bits: str | Quantization, prompts: Sequence[str], steps: int | None, seed: int,
                 seeds: int, axis: tuple[float, ...], shape: str, k: float):  # fmt: skip
        self.backbone, self.axis, self.shape, self.k = backbone, axis, shape, k
        quantization = bits if isinstance(bits, Quantization) else Quantization(str(bits))
        self.quantization = replace(quantization, bits=str(BitWidth.parse(quantization.bits)))
        self.prompts = [" ".join(prompt.split()) for prompt in prompts]
        self.steps = backbone.spec.default_steps if steps is None else steps
        if not self.prompts or not all(self.prompts):
            raise ValueError("A search needs at least one prompt, and none of them empty.")
        if self.steps not in backbone.spec.steps:
            raise ValueError(
                f"{backbone.spec.title} runs in {min(backbone.spec.steps)} to {max(backbone.spec.steps)} steps, not {self.steps}."
            )
        if shape not in SHAPES:
            raise ValueError(f"The shape of the coefficients must be {' or '.join(SHAPES)}, not {shape!r}.")
        if seeds < 1 or seed < 0 or seed + seeds > 2**31:
            raise ValueError(f"The seeds must lie in 0 to {2**31 - 1} and there must be at least one.")
        if not (np.isfinite(k) and k >= 0):
            raise ValueError(f"k must be a finite number of at least 0, not {k}.")
        self.seeds = list(range(seed, seed + seeds))
        self.images = len(self.prompts) * seeds
        self.texts = self.prompts * seeds
        self.points = [(c_x, c_eps) for c_eps in axis for c_x in axis]
        self.batch_size = BATCH
        self._first: tuple | None = None

    @property
    def points_per_batch(self) -> int:
        """Whole points that fit one batch, at least one."""
        return max(1, self.batch_size // self.images)

    def identity(self) -> dict[str, Any]:
        """Everything that the stored scores depend on."""
        return {
            "backbone": self.backbone.spec.id,
            "revision": self.backbone.revision,
            "dtype": str(self.backbone.dtype),
            "quantization": asdict(self.quantization),
            "steps": self.steps,
            "shape": self.shape,
            "seeds": self.seeds,
            "prompts": self.prompts,
            "scorer": self.backbone.scorer().definition,
            "k": self.k,
        }

    def open(self, storage: str | None, study_name: str | None, resume: bool = True) -> Study:
        """The study of this search."""
        identity = self.identity()
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        name = study_name or f"{self.backbone.spec.id}-{self.quantization.bits}-{self.steps}steps-{digest}"
        if not resume:
            name += f"-{time.time_ns():x}"
        return Study(storage, name, identity, self.axis[0], self.axis[-1])

    def compute(self, points: Sequence[tuple[float, float]]) -> list[tuple[list[float], list[float]]]:
        """Alignment and quality of every image at each (c_x, c_eps); NaN for an image that is not finite."""
        candidates = [SHAPES[self.shape](c_x, c_eps) for c_x, c_eps in points]
        while True:
            try:
                return self._compute(candidates)
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise SearchError("One image alone does not fit the device's memory.") from None
                self.batch_size //= 2
                torch.cuda.empty_cache()

    def _compute(self, candidates: list[Coefficients]) -> list[tuple[list[float], list[float]]]:
        module, scorer = self.backbone.quantized(self.quantization).module, self.backbone.scorer()
        condition, noise, first = self._shared(module)
        alignment = torch.full((len(candidates), self.images), torch.nan)
        quality = alignment.clone()
        batches = sample_candidates(
            self.backbone, condition, noise, self.steps, candidates, module, first, self.batch_size
        )
        for which, image, pictures in batches:
            scores = scorer.score(pictures, [self.texts[index] for index in image])
            broken = ~pictures.isfinite().flatten(1).all(dim=1)
            alignment[which, image] = scores.alignment.masked_fill(broken, torch.nan).cpu()
            quality[which, image] = scores.quality.masked_fill(broken, torch.nan).cpu()
        return list(zip(_rounded(alignment), _rounded(quality), strict=True))

    def _shared(self, module: torch.nn.Module) -> tuple:
        """Condition, noise and first prediction per image: computed once, whatever the number of points."""
        if self._first is None:
            prompts = range(len(self.prompts))
            condition = self.backbone.encode(self.prompts).select(list(prompts) * len(self.seeds))
            noise = Noise.join([draw_noise(self.backbone.latent_shape, seed, prompts) for seed in self.seeds])
            chunks = [list(range(self.images))[i : i + self.batch_size] for i in range(0, self.images, self.batch_size)]
            predict = lambda c: first_prediction(
                self.backbone, condition.select(c), noise.select(c), self.steps, module
            )
            self._first = condition, noise, torch.cat([predict(chunk) for chunk in chunks])
        return self._first

    def jaq(self, alignment: list[float], quality: list[float]) -> float | None:
        """JAQ over the images of one point, None if it failed."""
        value = jaq(alignment, quality, self.k)
        return value if np.isfinite(value) else None

    def preset(self, surface: Surface, done: int, seconds: float, calls: int) -> Preset:
        """The result: the best coefficients, the surface, and how they came about."""
        c_x, c_eps, _ = surface.best(self.k)
        settings = asdict(self.quantization)
        scorer = self.backbone.scorer()
        return Preset(
            backbone=self.backbone.spec.id,
            revision=self.backbone.revision,
            bits=settings.pop("bits"),
            steps=self.steps,
            shape=self.shape,
            coefficients=SHAPES[self.shape](c_x, c_eps),
            surface=surface,
            settings=settings,
            prompts=self.prompts,
            provenance={
                "strategy": "exhaustive",
                "range": [self.axis[0], self.axis[-1]],
                "points": len(self.points),
                "points_done": done,
                "at_edge": bool({c_x, c_eps} & {self.axis[0], self.axis[-1]}),
                "summary": surface.summary(self.k),
                "scorer": {"name": scorer.name, "definition": scorer.definition},
                "jaq": JAQ_DEFINITION,
                "k": self.k,
                "seeds": self.seeds,
                "timesteps": prepare_scheduler(self.backbone, self.steps, None).timesteps.tolist(),
                "execution": self.backbone.quantized(self.quantization).report.execution,
                "device": device_name(self.backbone.device),
                "dtype": str(self.backbone.dtype).removeprefix("torch."),
                "denoiser_calls": calls,
                "duration_s": round(seconds, 3),
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "versions": versions(optuna=optuna.__version__),
            },
        )


def _rounded(scores: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in scores.tolist()]
