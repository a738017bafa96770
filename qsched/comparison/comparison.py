"""What one session looks at: the same prompt, seed and noise at full precision, quantized with the plain
scheduler, and quantized with Q-Sched.

`compare` computes each column once; `rescale` moves the coefficients and costs the remaining steps - 1
denoiser calls, a decode and a score, nothing else. However many images were made before, a Comparison holds
three.
"""

import math
import time
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from qsched.comparison.facts import facts_of
from qsched.comparison.result import FULL_PRECISION, NAIVE, QSCHED, Column, Comparison, Settings
from qsched.comparison.thumbnail import drawn, path_images
from qsched.models.base import Backbone, Condition
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.loop import Noise, decode, draw_noise, first_prediction, sample
from qsched.scoring import Scorer
from qsched.scoring.signatures import failure_badges
from qsched.scoring.similarity import similarity
from qsched.scoring.weights import ScorerError
from qsched.words import quoted


def compare(
    backbone: Backbone, settings: Settings, coefficients: Coefficients, previous: Comparison | None = None
) -> Comparison:
    """All three columns; what `previous` already holds for the same prompt, seed and steps is reused.

    Where the backbone's scorer cannot be had, the images come without scores and a note says why; as soon as
    it can be had, or LPIPS, they are made anew.

    Raises:
        ValueError: settings or coefficients that this backbone cannot run.
    """
    settings = settings.check(backbone)
    coefficients.expand(settings.steps)
    backbone.use(settings.steps)
    name = f"{backbone.spec.id} {backbone.revision}"
    judge = judge_of(backbone)
    same_image = (
        previous is not None
        and previous.backbone == name
        and previous.full_precision.scored != isinstance(judge, ScorerError)
        and replace(previous.settings, quantization=settings.quantization) == settings
        and not lacks_lpips(previous, judge)
    )
    if same_image and previous.settings == settings:
        return rescale(backbone, previous, coefficients)

    if same_image:
        condition, noise, notes, reference, full = (
            previous.condition,
            previous.noise,
            previous.notes,
            previous.reference,
            previous.full_precision,
        )
    else:
        # a copy: not a view into a batch
        condition = backbone.encode([settings.prompt]).select([0]).to("cpu")
        noise = draw_noise(backbone.latent_shape, settings.seed, [0])
        notes = (
            ("The prompt is longer than the text encoder reads: its end was ignored.",)
            if condition.truncated[0]
            else ()
        )
        if words := backbone.unknown_words(settings.prompt):
            notes += (f"The model does not know {quoted(words)}: no caption of its training had it.",)
        if isinstance(judge, ScorerError):
            notes += (f"The images have no scores. {judge}",)
        first_run, begin = backbone.first_run(backbone.denoiser, settings.tiny_decoder), time.perf_counter()
        estimates: list[Tensor] = []
        latents = sample(backbone, condition.to(backbone.device), noise, settings.steps, estimates=estimates)
        images = decode(backbone, latents, settings.tiny_decoder).cpu()
        latency, reference = _elapsed(backbone, begin), images
        full = _column(
            backbone,
            judge,
            settings,
            FULL_PRECISION,
            images,
            images,
            backbone.full_precision_bytes,
            latency,
            first_run,
            estimates,
        )
        if not (full.scored or isinstance(judge, ScorerError)):
            notes += (f"The images have no scores: {judge.name} gave no finite number.",)

    quantized = backbone.quantized(settings.quantization)
    first_run, begin = backbone.first_run(quantized.module, settings.tiny_decoder), time.perf_counter()
    first = first_prediction(backbone, condition.to(backbone.device), noise, settings.steps, quantized.module)
    first_s = _elapsed(backbone, begin)
    images, rest_s, estimates = _continue(backbone, condition, noise, settings, None, quantized.module, first)
    stored, latency = quantized.report.bytes_after, first_s + rest_s
    naive = _column(
        backbone, judge, settings, NAIVE, images, reference, stored, latency, first_run, estimates
    )
    comparison = Comparison(
        name,
        settings,
        Coefficients.identity(),
        full,
        naive,
        replace(naive, name=QSCHED),
        notes,
        condition,
        noise,
        reference,
        first.cpu().clone(),
        first_s,
        facts_of(backbone, settings.steps, quantized.report, judge),
    )
    return rescale(backbone, comparison, coefficients)


def rescale(backbone: Backbone, comparison: Comparison, coefficients: Coefficients) -> Comparison:
    """The comparison with other coefficients: at most steps - 1 denoiser calls, none for its own or for c_x =
    c_eps = 1.

    Raises:
        ValueError: coefficients that do not fit the step count.
    """
    settings = comparison.settings
    coefficients.expand(settings.steps)
    backbone.use(settings.steps)
    if coefficients == comparison.coefficients:
        return comparison
    if coefficients.is_identity:
        return comparison.plain()
    quantized = backbone.quantized(settings.quantization)
    first_run = backbone.first_run(quantized.module, settings.tiny_decoder)
    images, rest_s, estimates = _continue(
        backbone,
        comparison.condition,
        comparison.noise,
        settings,
        coefficients,
        quantized.module,
        comparison.first.to(backbone.device),
    )
    column = _column(
        backbone,
        judge_of(backbone),
        settings,
        QSCHED,
        images,
        comparison.reference,
        quantized.report.bytes_after,
        comparison.first_s + rest_s,
        first_run or comparison.naive.first_run,  # the first prediction is from there
        estimates,
    )
    return replace(comparison, coefficients=coefficients, qsched=column)


def sketch(backbone: Backbone, comparison: Comparison, coefficients: Coefficients) -> Image.Image | None:
    """The Q-Sched image as the small decoder draws it, without scores, for a hand that is still moving; None
    where `rescale` costs no more: the small decoder draws anyway, there is none, or the image is the
    comparison's own.

    Raises:
        ValueError: coefficients that do not fit the step count.
    """
    settings = comparison.settings
    coefficients.expand(settings.steps)
    known = coefficients.is_identity or coefficients == comparison.coefficients
    if known or settings.tiny_decoder or not backbone.has_tiny_decoder:
        return None
    backbone.use(settings.steps)
    module, first = backbone.quantized(settings.quantization).module, comparison.first.to(backbone.device)
    small = replace(settings, tiny_decoder=True)
    images, *_ = _continue(
        backbone, comparison.condition, comparison.noise, small, coefficients, module, first
    )
    return drawn(images.nan_to_num(0.0, 0.0, 0.0))


def lacks_lpips(comparison: Comparison, judge: Any) -> bool:
    """Whether this scorer gives LPIPS now, and did not when the images were made."""
    lpips = getattr(judge, "lpips", None)
    return comparison.full_precision.lpips is None and lpips is not None and getattr(lpips, "ready", True)


def _continue(
    backbone: Backbone,
    condition: Condition,
    noise: Noise,
    settings: Settings,
    coefficients: Coefficients | None,
    denoiser: nn.Module,
    first: Tensor,
) -> tuple[Tensor, float, list[Tensor]]:
    begin, estimates = time.perf_counter(), []
    at = condition.to(backbone.device)
    latents = sample(backbone, at, noise, settings.steps, coefficients, denoiser, first, estimates)
    images = decode(backbone, latents, settings.tiny_decoder).cpu()
    return images, _elapsed(backbone, begin), estimates


def judge_of(backbone: Backbone) -> Scorer | ScorerError:
    """The backbone's scorer, or why there is none."""
    try:
        return backbone.scorer()
    except ScorerError as error:
        return error


def _column(
    backbone: Backbone,
    judge: Scorer | ScorerError,
    settings: Settings,
    name: str,
    images: Tensor,
    reference: Tensor,
    stored_bytes: int,
    latency_s: float,
    first_run: bool,
    estimates: list[Tensor],
) -> Column:
    images, reference = images.nan_to_num(0.0, 0.0, 0.0), reference.nan_to_num(0.0, 0.0, 0.0)  # broken: black
    scores = None if isinstance(judge, ScorerError) else judge.score(images, [settings.prompt])
    numbers = [] if scores is None else [float(scores.alignment[0]), float(scores.quality[0])]
    alignment, quality = numbers if numbers and all(map(math.isfinite, numbers)) else (None, None)
    likeness = similarity(images, reference, getattr(judge, "lpips", None))
    return Column(
        name=name,
        image=drawn(images),
        stored_bytes=stored_bytes,
        ratio=backbone.full_precision_bytes / stored_bytes,
        latency_s=latency_s,
        alignment=alignment,
        quality=quality,
        ssim=float(likeness.ssim[0]),
        psnr=float(likeness.psnr[0]),
        badges=tuple(failure_badges(images[0], None if name == FULL_PRECISION else reference[0])),
        lpips=None if likeness.lpips is None else float(likeness.lpips[0]),
        first_run=first_run,
        path=path_images(backbone, estimates),
    )


def _elapsed(backbone: Backbone, begin: float) -> float:
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)
    return time.perf_counter() - begin
