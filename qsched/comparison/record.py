"""A comparison as JSON: everything needed to reproduce it, and its numbers."""

from dataclasses import asdict
from typing import Any

import diffusers
import torch

from qsched.comparison.comparison import Column, Comparison, judge_of
from qsched.models.base import Backbone
from qsched.sampling.loop import prepare_scheduler
from qsched.scoring import K_DEFAULT, jaq_definition


def record(backbone: Backbone, comparison: Comparison, k: float = K_DEFAULT) -> dict[str, Any]:
    """Everything needed to reproduce the comparison and its numbers, ready for JSON."""
    report = backbone.quantized(comparison.settings.quantization).report
    judge = judge_of(backbone)
    return {
        "format": "qsched-comparison",
        "version": 1,
        "backbone": {
            "id": backbone.spec.id,
            "source": backbone.spec.source if backbone.spec.download_bytes else backbone.spec.id,
            "revision": backbone.revision,
        },
        "device": str(backbone.device),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "settings": asdict(comparison.settings),
        "timesteps": _timesteps(backbone, comparison.settings.steps),
        "coefficients": comparison.coefficients.to_dict(),
        "scorer": {
            "name": getattr(judge, "name", None),
            "definition": getattr(judge, "definition", None),
            "quality": comparison.quality_name,
            "jaq": jaq_definition(judge),
            "k": k,
        },
        "size": report.to_dict(),
        "notes": list(comparison.notes),
        "columns": [_numbers(column, k, comparison.full_precision) for column in comparison.columns],
    }


def _numbers(column: Column, k: float, reference: Column) -> dict[str, Any]:
    numbers = {name: value for name, value in vars(column).items() if name not in ("image", "badges")}
    return numbers | {
        "jaq": column.jaq(k),
        "jaq_difference": column.jaq_difference(reference, k),
        "badges": [asdict(badge) for badge in column.badges],
    }


def _timesteps(backbone: Backbone, steps: int) -> list[float]:
    return prepare_scheduler(backbone, steps, None).timesteps.tolist()
