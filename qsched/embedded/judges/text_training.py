"""Teaches the text tower of a tiny CLIP to read any phrasing: a caption among other words must give the
features of the plain caption.

The teacher is the tower itself, as it was: what captions of the usual forms give, token by token, stays, so
that the image tower and a denoiser that is conditioned by it go on working.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qsched.embedded.data import dataset, phrases
from qsched.embedded.data.scenes import Scenes
from qsched.embedded.data.words import WITH_STYLE, forms
from qsched.embedded.judges import clip, judging
from qsched.embedded.training import loop as training
from qsched.models.emoji import text_condition


def asked(emoji: dataset.Emoji, count: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Plain captions of single things, half of them without a style, and the same asked for loosely."""
    plain, free = [], []
    for index in rng.choice(len(emoji.concept), size=count):
        name, style = emoji.concepts[emoji.concept[index]], emoji.styles[emoji.style[index]]
        styled = rng.random() < 0.5
        plain.append(WITH_STYLE[0].format(name=name, style=style) if styled else name)
        free.append(phrases.loose(forms(name), style if styled else None, rng))
    return plain, free


def train_text(
    data: Path,
    folder: Path,
    work: Path,
    *,
    start: Path,
    batch: int = 64,
    seed: int = 0,
    device: str = "auto",
    **options: Any,
) -> dict:
    """Train, write the CLIP with the averaged weights to `folder` and return `judging.measure`; checkpoints
    in work/text.pt.

    Args:
        start: folder of the CLIP to begin with; another one than `folder`.
        batch: scenes, and as many loosely phrased captions, per step.
        options: of `training.train`, such as steps and minutes.
    """
    where = training.pick_device(device)
    emoji = dataset.load(data)
    torch.manual_seed(seed)
    clip.read_alike(folder, start)
    model, tokenizer = clip.new_clip(folder, emoji)
    clip.warm_start(model, tokenizer, start)
    teacher, _ = clip.load_clip(start, emoji)
    teacher.to(where).requires_grad_(False)
    model.to(where).lock_image_tower()
    scenes = Scenes(emoji, emoji.train_indices(), seed=seed, where=where)

    def features(tower: torch.nn.Module, captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Token states, pooled features, and which tokens are no padding."""
        tokens = tokenizer(captions).to(where)
        tokens = tokens[:, : int(tokens.argmax(-1).max()) + 1]
        inside = torch.arange(tokens.shape[1], device=where) <= tokens.argmax(-1, keepdim=True)
        with training.autocast(where):
            states, pooled = text_condition(tower, tokens)
        return states.float(), pooled.float(), inside

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step, 2))
        captions, (plain, free) = scenes.draw(batch, step).captions, asked(emoji, batch, rng)
        loss = torch.zeros((), device=where)
        for usual, unusual in ((captions, [phrases.around(c, rng) for c in captions]), (plain, free)):
            with torch.no_grad():
                kept, target, inside = features(teacher, usual)
            states, pooled, _ = features(model, usual)
            loss = loss + (states - kept).pow(2).mean(-1)[inside].mean() / kept.var(-1)[inside].mean()
            for found in (pooled, features(model, unusual)[1]):
                loss = loss + (1 - F.cosine_similarity(found, target)).mean()
        return loss

    def measured() -> dict:
        clip.save_clip(model.state_dict(), folder)
        return judging.measure(judging.Judge(model, tokenizer, where), emoji)

    average = training.train(
        model,
        loss_of,
        work / "text.pt",
        decay=0.998,
        muon=True,
        report=lambda: judging.brief(measured()),
        **{"learning_rate": 5e-4} | options,
    )
    with training.averaged(model, average):
        return measured()
