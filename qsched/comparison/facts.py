"""What a comparison was made with, as plain data, so that whoever shows or records it needs no model."""

from dataclasses import dataclass
from typing import Any

import torch

from qsched.models.base import Backbone
from qsched.quantization import SizeReport
from qsched.sampling.loop import prepare_scheduler
from qsched.scoring import Scorer, jaq_definition, quality_name
from qsched.scoring.weights import ScorerError


@dataclass(frozen=True)
class ScorerFacts:
    """Who scored; name and definition: None where nobody could. quality: what its quality is. jaq: how JAQ is
    computed from its scores.
    """

    name: str | None
    definition: str | None
    quality: str
    jaq: str


@dataclass(frozen=True)
class Facts:
    """What a comparison was made with.

    Args:
        scheduler: the stock scheduler's class name.
        timesteps: of the denoiser calls.
        device_name: the device and the dtype, for people.
        arithmetic: whether the quantized layers' arithmetic is real or simulated there, with what the method
            has to say.
        size: the quantizer's SizeReport as a dict.
    """

    backbone: str
    source: str
    revision: str
    device: str
    dtype: str
    scheduler: str
    timesteps: tuple[float, ...]
    scorer: ScorerFacts
    device_name: str
    arithmetic: str
    size: dict[str, Any]


def facts_of(backbone: Backbone, steps: int, report: SizeReport, judge: Scorer | ScorerError) -> Facts:
    """The facts about a backbone that runs in so many steps, quantized as its report says."""
    return Facts(
        backbone=backbone.spec.id,
        source=backbone.spec.source if backbone.spec.download_bytes else backbone.spec.id,
        revision=backbone.revision,
        device=str(backbone.device),
        dtype=str(backbone.dtype).removeprefix("torch."),
        scheduler=type(backbone.scheduler).__name__,
        timesteps=tuple(prepare_scheduler(backbone, steps, None).timesteps.tolist()),
        scorer=ScorerFacts(
            getattr(judge, "name", None),
            getattr(judge, "definition", None),
            quality_name(judge),
            jaq_definition(judge),
        ),
        device_name=device_name(backbone),
        arithmetic=arithmetic(report),
        size=report.to_dict(),
    )


def device_name(backbone: Backbone) -> str:
    """The device and the dtype that a backbone runs on, for people."""
    if backbone.device.type == "cuda":
        device = torch.cuda.get_device_name(backbone.device)
    else:
        threads = torch.get_num_threads()
        device = f"CPU, {threads} thread{'s' * (threads > 1)}"
    return f"{device}, {str(backbone.dtype).removeprefix('torch.')}"


def arithmetic(report: SizeReport) -> str:
    """Whether the quantized layers' arithmetic is real or simulated, with what the method has to say."""
    real, simulated = report.execution.get("int8", 0), report.execution.get("fake", 0)
    if real and simulated:
        text = f"{real} quantized layers multiply real integers, {simulated} simulate it in floating point"
    elif simulated:
        text = "packed weights are real, their arithmetic is simulated in floating point"
    else:
        text = f"quantized layers multiply real integers ({', '.join(report.execution)})"
    return ". ".join([text, *(note[:1].upper() + note[1:] for note in report.notes)])
