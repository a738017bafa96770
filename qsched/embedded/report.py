"""How good the embedded model is, judged by the tiny CLIP: CLIPScore, CLIP-IQA and recognition (is the asked concept the best match among all names?)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qsched.backbones import Backbone
from qsched.embedded import clip, dataset
from qsched.sampling import draw_noise, sample

BATCH = 64


@torch.inference_mode()
def draw(backbone: Backbone, prompts: Sequence[str], steps: int, seed: int) -> Tensor:
    """Pictures (prompts, 3, H, W) on the CPU, drawn in batches."""
    parts = []
    for begin in range(0, len(prompts), BATCH):
        indices = range(begin, min(begin + BATCH, len(prompts)))
        condition = backbone.encode([prompts[i] for i in indices])
        noise = draw_noise(backbone.latent_shape, seed, indices)
        parts.append(backbone.decode(sample(backbone, condition, noise, steps)).cpu())
    return torch.cat(parts)


@torch.inference_mode()
def recognised(backbone: Backbone, emoji: dataset.Emoji, images: Tensor, concepts: Tensor, styles: Tensor) -> Tensor:
    """Rank (0 = best) of the asked concept among all names in the asked style, int (pictures,)."""
    judge = backbone.scorer()
    features = judge.model.encode_image(clip.normalise(images.to(judge.device)), normalize=True)
    ranks = []
    for style in range(len(emoji.styles)):
        names = [f"{name}, {emoji.styles[style]} style" for name in emoji.concepts]
        texts = judge.model.encode_text(judge.tokenizer(names).to(judge.device), normalize=True)
        ranks.append((features @ texts.T).argsort(-1, descending=True).argsort(-1).cpu())
    return torch.stack(ranks)[styles, torch.arange(len(images)), concepts]


def report(backbone: Backbone, emoji: dataset.Emoji, seed: int = 0) -> dict[str, Any]:
    """Numbers for pairs that training saw and for held-out pairs, real art first, then 1, 2, 4 and 8 steps."""
    out: dict[str, Any] = {"backbone": backbone.spec.id, "revision": backbone.revision, "seed": seed, "rows": []}
    for name, indices in (("seen", emoji.train_indices()), ("held out", emoji.held_out.nonzero().flatten())):
        prompts = [emoji.caption(int(i)) for i in indices]
        for steps in (None, 1, 2, 4, 8):
            images = emoji.pictures(indices) if steps is None else draw(backbone, prompts, steps, seed)
            scores = backbone.scorer().score(images, prompts)
            rank = recognised(backbone, emoji, images, emoji.concept[indices], emoji.style[indices])
            out["rows"].append(
                {
                    "pairs": name,
                    "count": len(prompts),
                    "pictures": "real art" if steps is None else f"{steps} step{'s' * (steps > 1)}",
                    "clip_score": round(float(scores.alignment.mean()), 2),
                    "clip_iqa": round(float(scores.quality.mean()), 3),
                    "top1": round(float((rank < 1).float().mean()), 3),
                    "top5": round(float((rank < 5).float().mean()), 3),
                }
            )
    return out


def markdown(result: dict[str, Any]) -> str:
    """The report as a table."""
    lines = ["| pairs | pictures | CLIPScore | CLIP-IQA | top-1 | top-5 |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r['pairs']} ({r['count']}) | {r['pictures']} | {r['clip_score']:.1f} | {r['clip_iqa']:.3f} | "
        f"{100 * r['top1']:.0f} % | {100 * r['top5']:.0f} % |"
        for r in result["rows"]
    ]
    return "\n".join(lines)


def evaluate(data: Path, model: Path, device: str = "auto") -> dict[str, Any]:
    """Load data set and model and report."""
    from qsched.backbones import load_backbone

    return report(load_backbone("emoji-lcm", device=device, source=str(model)), dataset.load(data))
