"""A comparison as JSON: everything needed to reproduce it, and its numbers."""

from dataclasses import asdict
from typing import Any

import diffusers
import torch

from qsched.comparison.result import Column, Comparison
from qsched.scoring import K_DEFAULT


def record(comparison: Comparison, k: float = K_DEFAULT) -> dict[str, Any]:
    """Everything needed to reproduce the comparison and its numbers, ready for JSON."""
    facts = comparison.facts
    return {
        "format": "qsched-comparison",
        "version": 1,
        "backbone": {"id": facts.backbone, "source": facts.source, "revision": facts.revision},
        "device": facts.device,
        "dtype": facts.dtype,
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "settings": asdict(comparison.settings),
        "timesteps": list(facts.timesteps),
        "coefficients": comparison.coefficients.to_dict(),
        "scorer": asdict(facts.scorer) | {"k": k},
        "size": facts.size,
        "notes": list(comparison.notes),
        "columns": [_numbers(column, k, comparison.full_precision) for column in comparison.columns],
    }


def _numbers(column: Column, k: float, reference: Column) -> dict[str, Any]:
    numbers = {name: value for name, value in vars(column).items() if name not in ("image", "path", "badges")}
    return numbers | {
        "jaq": column.jaq(k),
        "jaq_difference": column.jaq_difference(reference, k),
        "badges": [asdict(badge) for badge in column.badges],
    }
