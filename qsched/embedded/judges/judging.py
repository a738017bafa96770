"""How good a judge the tiny CLIP is: retrieval, quality against every kind of damage, order under
quantization error, images of nothing, over-saturation.

Nothing measured here was trained on: held-out (concept, style) pairs, test prompts of the damage file, fresh
noise.
"""

from typing import Any

import numpy as np
import open_clip
import torch
from scipy.stats import binomtest, spearmanr
from torch import Tensor

from qsched.embedded.data import dataset
from qsched.embedded.data.words import UNSEEN_PHRASES, WITH_STYLE, with_article
from qsched.embedded.judges import clip, degradations
from qsched.embedded.judges.damage import BITS, FULL, KINDS, Damage
from qsched.scoring.embedded_clip import ANTONYMS, prepared, quality_probability

CHUNK = 256
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
NOTHING = 128
DECEIVERS = ("saturate", "wash_out", "shrink")
"""Damage that a search could take for beauty: too much colour, and the grey that least squares makes."""


def auc(good: Tensor, bad: Tensor) -> float:
    """Probability that a good image scores above a bad one, ties counted half (Mann-Whitney U)."""
    difference = good.unsqueeze(1) - bad
    return float(((difference > 0).float() + 0.5 * (difference == 0).float()).mean())


def spearman(one: Tensor, other: Tensor) -> float:
    """Rank correlation of two lists of numbers, equal numbers sharing their mean rank."""
    return float(spearmanr(one.cpu().numpy(), other.cpu().numpy()).statistic)


class Judge:
    """A CLIP with its tokenizer, ready to encode in chunks."""

    def __init__(self, model: open_clip.CLIP, tokenizer: Any, where: torch.device):
        self.model, self.tokenizer, self.where = model, tokenizer, where
        self.pair = self.texts(list(ANTONYMS))

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Tensor:
        """Text features of unit length (texts, width)."""
        chunks = (texts[i : i + CHUNK] for i in range(0, len(texts), CHUNK))
        return torch.cat([clip.encode_texts(self.model, self.tokenizer(c).to(self.where)) for c in chunks])

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Image features of unit length of images (count, 3, 64, 64) in [0, 1]."""
        chunks = (c.to(self.where) for c in images.split(CHUNK))
        return torch.cat([self.model.encode_image(prepared(self.model, c), normalize=True) for c in chunks])

    @torch.no_grad()
    def quality(self, images: Tensor) -> Tensor:
        """CLIP-IQA (count,), on the CPU."""
        return quality_probability(self.model, self.images(images), self.pair).cpu()


def concept_ranks(features: Tensor, texts: Tensor, styles: int, concept: Tensor) -> Tensor:
    """Rank (0 = best) of the right concept, int (images,); a concept counts as its best caption.

    Args:
        features: (images, width). texts: (concepts * styles, width), all styles of a concept in a row.
            concept: (images,), what is right.
    """
    best = (features @ texts.T).view(len(features), -1, styles).amax(-1).cpu()
    own = best.gather(1, concept.unsqueeze(1))
    return (best > own).sum(1)


def retrieval(judge: Judge, emoji: dataset.Emoji, indices: Tensor, phrase: str = WITH_STYLE[0]) -> Tensor:
    """Rank of each image's concept among all captions of this form:

    "red apple, glossy style" for every concept and style.
    """
    names = [
        phrase.format(name=c, a_name=with_article(c), style=s) for c in emoji.concepts for s in emoji.styles
    ]
    return concept_ranks(
        judge.images(emoji.images_of(indices)), judge.texts(names), len(emoji.styles), emoji.concept[indices]
    )


def shares(ranks: Tensor) -> dict[str, Any]:
    """Top-1 and top-5 with their 95 % intervals (Wilson 1927)."""
    out: dict[str, Any] = {"count": len(ranks)}
    for k in (1, 5):
        found = binomtest(int((ranks < k).sum()), len(ranks))
        out |= {f"top{k}": found.statistic, f"top{k}_interval": [*found.proportion_ci(method="wilson")]}
    return out


def against_damage(judge: Judge, images: Tensor, clean: Tensor, seed: int) -> dict[str, Any]:
    """AUC of clean against each kind of damage at each strength, and pooled over all kinds at
    half strength.
    """
    torch.manual_seed(seed)
    found: dict[str, dict[float, Tensor]] = {}
    for number, kind in enumerate(degradations.KINDS):
        kinds = torch.full((len(images),), number)
        found[kind] = {
            s: judge.quality(degradations.degrade(images, torch.full((len(images),), s), kinds))
            for s in STRENGTHS
        }
    table = {kind: {str(s): auc(clean, q) for s, q in row.items()} for kind, row in found.items()}
    lower = lambda kind: torch.stack([found[kind][s] < clean for s in STRENGTHS]).all(0)
    return {
        "auc": auc(clean, torch.cat([row[0.5] for row in found.values()])),
        "auc_by_kind": table,
        "damaged": float(torch.cat([row[0.5] for row in found.values()]).mean()),
        "below_clean": {kind: float(lower(kind).float().mean()) for kind in DECEIVERS},
        "worst_damage": torch.cat([row[1.0] for row in found.values()]),
    }


def against_quantization(judge: Judge, damage: Damage) -> dict[str, Any]:
    """On the test prompts: AUC of full precision against each bit-width, and the rank correlation of quality
    with the error (best: -1).
    """
    rows = damage.test.nonzero().flatten()
    images = damage.images[rows].float() / 255
    quality = judge.quality(images.flatten(0, 1)).view(len(rows), -1)
    columns = {kind: number for number, kind in enumerate(KINDS)}
    visible = [columns[b] for b in BITS if b != "w8a8"]
    full = quality[:, columns[FULL]]
    return {
        "count": len(rows),
        "auc": auc(full, quality[:, visible].flatten()),
        "auc_by_bits": {b: auc(full, quality[:, columns[b]]) for b in BITS},
        "within_prompt": {b: float((full > quality[:, columns[b]]).float().mean()) for b in BITS},
        "quality": {kind: float(quality[:, n].mean()) for kind, n in columns.items()},
        "error": {kind: float(damage.error[rows, n].mean()) for kind, n in columns.items()},
        "rank_correlation": spearman(quality[:, 1:].flatten(), damage.error[rows][:, 1:].flatten()),
    }


def measure(
    judge: Judge, emoji: dataset.Emoji, damage: Damage | None = None, seed: int = 1
) -> dict[str, Any]:
    """All of it for one judge, as JSON can hold it."""
    held_out = emoji.held_out.nonzero().flatten()
    ranks = retrieval(judge, emoji, held_out)
    images = emoji.images_of(held_out)
    clean = judge.quality(images)
    found = against_damage(judge, images, clean, seed)
    torch.manual_seed(seed)
    nothing = judge.quality(degradations.noise_and_flat(NOTHING, images.shape[-1]))
    worst = found.pop("worst_damage")
    out: dict[str, Any] = {
        "concepts": len(emoji.concepts),
        "retrieval": shares(ranks),
        "retrieval_by_style": {
            style: shares(ranks[emoji.style[held_out] == number])
            for number, style in enumerate(emoji.styles)
            if (emoji.style[held_out] == number).any()
        },
        "retrieval_by_phrase": {p: shares(retrieval(judge, emoji, held_out, p)) for p in UNSEEN_PHRASES},
        "clean": float(clean.mean()),
        "nothing": float(nothing.mean()),
        "nothing_below_damaged": auc(worst, nothing),
        "nothing_below_clean": auc(clean, nothing),
        "seed": seed,
    } | found
    if damage is not None:
        out["quantization"] = against_quantization(judge, damage)
    return out


def brief(found: dict[str, Any]) -> dict[str, float]:
    """The handful of numbers that a training curve keeps."""
    keys = ("auc", "clean", "damaged", "nothing", "nothing_below_damaged")
    out = {"top1": found["retrieval"]["top1"], "top5": found["retrieval"]["top5"]} | {
        k: found[k] for k in keys
    }
    out["phrase_top1"] = float(np.mean([p["top1"] for p in found["retrieval_by_phrase"].values()]))
    if "quantization" in found:
        q = found["quantization"]
        out |= {"quantized_auc": q["auc"], "rank_correlation": q["rank_correlation"]}
    return {k: round(v, 4) for k, v in out.items()}


def markdown(found: dict[str, Any]) -> str:
    """The measures as tables."""
    percent = lambda part, k: (
        f"{100 * part[f'top{k}']:.0f} % [{', '.join(f'{100 * x:.0f}' for x in part[f'top{k}_interval'])}]"
    )
    rows = [("all held-out pairs", found["retrieval"])]
    rows += [(f"{s} style", part) for s, part in found["retrieval_by_style"].items()]
    rows += [(f"asked as “{p}”", part) for p, part in found["retrieval_by_phrase"].items()]
    lines = [f"| retrieval among {found['concepts']} concepts | pairs | top-1 | top-5 |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {part['count']} | {percent(part, 1)} | {percent(part, 5)} |" for name, part in rows
    ]
    lines += ["", f"| AUC of quality, clean against | {' | '.join(map(str, STRENGTHS))} |", "|---" * 5 + "|"]
    lines += [
        f"| {kind} | {' | '.join(f'{x:.3f}' for x in row.values())} |"
        for kind, row in found["auc_by_kind"].items()
    ]
    lines += ["", "| quality | |", "|---|---|", f"| AUC, all kinds at half strength | {found['auc']:.3f} |"]
    lines += [
        (
            f"| mean: clean, damaged, noise and flat | {found['clean']:.3f}, {found['damaged']:.3f}, "
            f"{found['nothing']:.3f} |"
        ),
        f"| AUC, fully damaged above noise and flat | {found['nothing_below_damaged']:.3f} |",
    ]
    lines += [
        f"| below the clean image at every strength: {kind} | {100 * share:.0f} % |"
        for kind, share in found["below_clean"].items()
    ]
    if "quantization" in found:
        q = found["quantization"]
        lines.append(f"| AUC, full precision against w4a8, w4a4, w3a8, w2a8 | {q['auc']:.3f} |")
        lines += [f"| full precision against {bits} | {x:.3f} |" for bits, x in q["auc_by_bits"].items()]
        lines.append(f"| rank correlation with the error | {q['rank_correlation']:.3f} |")
    return "\n".join(lines)
