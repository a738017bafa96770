"""How good the embedded model is: real art, 50 steps of DDIM, 1, 2, 4 and 8 of its own scheduler (LCM), on
seen and on held-out pairs.

Two judges: the tiny CLIP (CLIPScore, CLIP-IQA, recognition), which conditions the model, and the observer
(recognition, Frechet distance), which training never used.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from qsched.embedded.data import dataset
from qsched.embedded.denoiser.unet import noise_in
from qsched.embedded.judges import frechet
from qsched.embedded.judges.judging import Judge
from qsched.embedded.judges.observer import Observer, observe
from qsched.models.base import Backbone
from qsched.sampling.loop import draw_noise, sample
from qsched.surfaces.intervals import bootstrap

BATCH = 64
TEACHER_STEPS = 50
STUDENT_STEPS = (1, 2, 4, 8)
SEEN = 192
KINDS = {"seen": "seen", "held_out": "held out", "unseen": "unseen concepts"}
METRICS = ("clip_score", "clip_iqa", "top1", "top5", "observer_top1", "observer_top5")


@torch.inference_mode()
def draw(
    backbone: Backbone, prompts: Sequence[str], steps: int, seed: int, denoiser: nn.Module | None = None
) -> Tensor:
    """Images (prompts, 3, H, W) on the CPU, drawn in batches."""
    parts = []
    for begin in range(0, len(prompts), BATCH):
        indices = range(begin, min(begin + BATCH, len(prompts)))
        condition = backbone.encode([prompts[i] for i in indices])
        noise = draw_noise(backbone.latent_shape, seed, indices)
        latents = sample(backbone, condition, noise, steps, denoiser=denoiser)
        parts.append(backbone.decode(latents).cpu())
    return torch.cat(parts)


class TeacherScheduler(DDIMScheduler):
    """DDIM (Song et al. 2021) from pure noise at the last timestep on, without new noise: see
    `denoiser.noise_in`.
    """

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any):
        """Diffusers' step, of the same image and, at the last timestep, of the noise that was drawn."""
        noise = noise_in(sample, model_output, timestep)
        sigma = (1 - self.alphas_cumprod[timestep]).sqrt()
        return super().step(noise, timestep, sample + sigma * (noise - model_output), **options)


def as_teacher(backbone: Backbone) -> Backbone:
    """The same model sampled by `TeacherScheduler`."""
    other = copy.copy(backbone)
    other.scheduler = TeacherScheduler.from_config(
        backbone.scheduler.config, timestep_spacing="trailing", clip_sample=False
    )
    return other


class Recognition:
    """The tiny CLIP asked which of all names, in the asked style, an image shows."""

    def __init__(self, backbone: Backbone, emoji: dataset.Emoji):
        scorer = backbone.scorer()
        self.judge = Judge(scorer.model, scorer.tokenizer, scorer.device)
        names = [f"{name}, {style} style" for style in emoji.styles for name in emoji.concepts]
        self.texts = self.judge.texts(names).unflatten(0, (len(emoji.styles), -1))

    def ranks(self, images: Tensor, concepts: Tensor, styles: Tensor) -> Tensor:
        """Rank (0 = best) of the right concept, int (images,); concepts, styles: what was asked for
        (images,).
        """
        likeness = (self.judge.images(images) @ self.texts.mT).cpu()[styles, torch.arange(len(images))]
        return (likeness > likeness.gather(1, concepts.unsqueeze(1))).sum(1)


def pairs(emoji: dataset.Emoji, styles: Sequence[str]) -> dict[str, Tensor]:
    """Indices of images to ask for:

    SEEN seen ones spread evenly, all held-out pairs, all images of unseen concepts; of these styles.
    """
    styled = torch.isin(emoji.style, torch.tensor([emoji.styles.index(s) for s in styles]))
    unseen = emoji.unseen[emoji.concept]
    seen = emoji.train_indices(styles, unseen=False)
    found = {
        "seen": seen[torch.linspace(0, len(seen) - 1, min(SEEN, len(seen))).long()],
        "held_out": (styled & emoji.held_out & ~unseen).nonzero().flatten(),
        "unseen": (styled & unseen).nonzero().flatten(),
    }
    return {kind: indices for kind, indices in found.items() if len(indices)}


def report(
    student: Backbone,
    emoji: dataset.Emoji,
    observer: Observer | None,
    *,
    teacher: Backbone | None = None,
    styles: Sequence[str] | None = None,
    seeds: int = 3,
) -> dict[str, Any]:
    """Every metric of every row, each an estimate {"mean", "low", "high"} with its 95 % interval over prompts
    and seeds.

    Args:
        observer: None leaves its columns out.
        teacher: the model that is sampled in 50 steps; None takes the student's weights for it.
    """
    teacher, out = as_teacher(teacher or student), {"backbone": student.spec.id, "revision": student.revision}
    out |= {"teacher": teacher.revision, "seeds": list(range(seeds)), "rows": []}
    recognition = Recognition(student, emoji)
    for kind, indices in pairs(emoji, styles or emoji.styles).items():
        prompts, real = [emoji.caption(int(i)) for i in indices], emoji.images_of(indices)
        ways: list[tuple[str, Backbone, int]] = [("real art", student, 0), ("DDIM", teacher, TEACHER_STEPS)]
        ways += [("LCM", student, steps) for steps in STUDENT_STEPS]
        for name, backbone, steps in ways:
            runs = seeds if steps else 1
            images = [draw(backbone, prompts, steps, seed) if steps else real for seed in range(runs)]
            label = name if not steps else f"{name}, {steps} step{'s' * (steps > 1)}"
            row = {"pairs": KINDS[kind], "count": len(prompts), "images": label}
            out["rows"].append(
                row | judged(student, emoji, recognition, observer, images, real, prompts, indices)
            )
    return out


def judged(
    backbone: Backbone,
    emoji: dataset.Emoji,
    recognition: Recognition,
    observer: Observer | None,
    drawn: list[Tensor],
    real: Tensor,
    prompts: list[str],
    indices: Tensor,
) -> dict[str, Any]:
    """All metrics of one way to draw these prompts; images: one batch (prompts, 3, 64, 64) per seed."""
    concepts, styles = emoji.concept[indices], emoji.style[indices]
    values: dict[str, list[Tensor]] = {metric: [] for metric in METRICS}
    features = []
    for images in drawn:
        scores = backbone.scorer().score(images, prompts)
        rank = recognition.ranks(images, concepts, styles)
        values["clip_score"].append(scores.alignment)
        values["clip_iqa"].append(scores.quality)
        columns = [("", rank)]
        if observer is not None:
            seen, logits = observe(observer, images)
            features.append(seen)
            logits = logits[:, observer.columns(emoji.concepts)]
            columns.append(("observer_", (logits > logits.gather(1, concepts.unsqueeze(1))).sum(1)))
        for prefix, ranks in columns:
            for k in (1, 5):
                values[f"{prefix}top{k}"].append((ranks < k).float())
    out = {
        name: estimate(torch.stack(parts).double().cpu().numpy()) for name, parts in values.items() if parts
    }
    if observer is not None:
        truth = observe(observer, real)[0].repeat(len(drawn), 1).numpy()
        groups = np.tile(np.arange(len(prompts)), len(drawn))
        out["frechet"] = frechet.estimate(torch.cat(features).numpy(), truth, groups).to_dict()
    return out


def estimate(values: np.ndarray) -> dict[str, float | None]:
    """Mean of (seeds, prompts) with its 95 % interval over both."""
    mean = lambda seeds, prompts: ((seeds @ values) * prompts).sum(axis=1)
    return bootstrap(mean, *values.shape).to_dict()


def markdown(result: dict[str, Any]) -> str:
    """The report as a table, means with 95 % intervals."""
    shown = ("clip_score", "clip_iqa", "top1", "top5", "observer_top5", "frechet")
    titles = ("CLIPScore", "CLIP-IQA", "top-1", "top-5", "observer top-5", "Frechet")
    digits = {"clip_score": (1, 1), "clip_iqa": (1, 3), "frechet": (1, 2)}
    rows = result["rows"]
    use = [(key, title) for key, title in zip(shown, titles, strict=True) if key in rows[0]]
    lines = ["| pairs | images | " + " | ".join(t for _, t in use) + " |", "|---" * (len(use) + 2) + "|"]
    for row in rows:
        cells = []
        for key, _ in use:
            factor, places = digits.get(key, (100, 0))
            mean, low, high = (
                None if row[key][k] is None else factor * row[key][k] for k in ("mean", "low", "high")
            )
            unit = "" if key in digits else " %"
            ends = "" if low is None else f" [{low:.{places}f}, {high:.{places}f}]"
            cells.append(f"{mean:.{places}f}{unit}{ends}")
        lines.append(f"| {row['pairs']} ({row['count']}) | {row['images']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
