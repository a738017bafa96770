"""How the tiny CLIP learns: contrast between images and captions, names against all names, quality by the
antonym pair of CLIP-IQA.

- The usual symmetric contrastive loss (Radford et al. 2021) on composed scenes, half of them damaged; an
  image whose own name stands in another caption of the batch is no negative for it.
- A few hundred captions per batch hold few look-alikes, so every image of one emoji is also compared with the
  names of all concepts in all styles; those text features are computed now and then and kept, and a concept's
  styles count together.
- Quality: the softmax over "good quality picture" / "bad quality picture" must be 1 - strength of the damage.
  Damage is synthetic (degradations) and real (images by quantized denoisers, from the damage file, graded by
  their distance to full precision); images of nothing are bad and match no caption.
- There are few drawings of each thing, so some are redrawn in other colours and shapes (restyle); quality
  does not learn from those.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qsched.embedded.data import dataset
from qsched.embedded.data.scenes import Drawn, Jitter, Scenes
from qsched.embedded.data.words import WITH_STYLE
from qsched.embedded.judges import clip, degradations, judging, restyle
from qsched.embedded.judges.damage import Damage
from qsched.embedded.judges.damage import load as load_damage
from qsched.embedded.training import loop as training
from qsched.scoring.embedded_clip import ANTONYMS, prepared

BANK_EVERY = 15
RESTYLED_SHARE = 0.3
WORST_ERROR = 0.25
"""Root-mean-square difference to full precision at which an image counts as wholly bad; the error of w2a8 and
of w3a8 lie about there.
"""


class Bank:
    """Text features of every concept in every style, refreshed every BANK_EVERY steps."""

    def __init__(self, emoji: dataset.Emoji, tokenizer: Any, where: torch.device):
        names = [WITH_STYLE[0].format(name=c, style=s) for c in emoji.concepts for s in emoji.styles]
        self.tokens, self.styles, self.features = tokenizer(names).to(where), len(emoji.styles), None

    @torch.no_grad()
    def refresh(self, model: torch.nn.Module, step: int) -> None:
        """Encode anew when it is time."""
        if self.features is None or (step % BANK_EVERY == 0 and model.text_projection.requires_grad):
            with training.autocast(self.tokens.device):
                parts = [clip.encode_texts(model, t) for t in self.tokens.split(judging.CHUNK)]
            self.features = torch.cat(parts).float()

    def loss(self, features: Tensor, scale: Tensor, concept: Tensor) -> Tensor:
        """-log p(concept) per image, a concept's probability being the sum over its styles; features (n,
        width), concept (n,).
        """
        logits = (scale * features @ self.features.T).view(len(features), -1, self.styles).logsumexp(-1)
        return F.cross_entropy(logits, concept, reduction="none", label_smoothing=0.05)


def hard_negatives(drawn: Drawn, emoji: dataset.Emoji) -> Tensor:
    """Which pairs (image, caption) of a batch may be told apart, bool (batch, batch): not a concept from
    itself, unless both styles are named and differ.
    """
    concept, style = emoji.concept[drawn.first], emoji.style[drawn.first]
    named = torch.tensor([emoji.styles[s] in c for s, c in zip(style.tolist(), drawn.captions, strict=True)])
    same = concept.unsqueeze(1) == concept
    told = named.unsqueeze(1) & named & (style.unsqueeze(1) != style)
    return ~same | told | torch.eye(len(same), dtype=torch.bool)


def contrast(images: Tensor, texts: Tensor, scale: Tensor, allowed: Tensor) -> Tensor:
    """Symmetric contrastive loss per pair, with label smoothing over the allowed ones."""
    logits = (scale * images @ texts.T).masked_fill(~allowed, -30.0)
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * sum(
        F.cross_entropy(x, target, reduction="none", label_smoothing=0.02) for x in (logits, logits.T)
    )


def quality(verdict: Tensor, grade: Tensor, graded: Tensor) -> Tensor:
    """Cross-entropy between logits of (good, bad), (count, 2), and grades in [0, 1], over the images that
    `graded`, bool (count,), names.
    """
    return F.cross_entropy(verdict[graded], torch.stack([grade, 1 - grade], 1)[graded])


def draw_damage(damage: Damage, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Images of the damage file that training may see, and how good they are: 1 - error / WORST_ERROR, not
    below 0.
    """
    rows = (~damage.test).nonzero().flatten().numpy()
    prompts = torch.from_numpy(rng.choice(rows, size=count))
    kinds = torch.from_numpy(rng.integers(damage.images.shape[1], size=count))
    images = damage.images_of(prompts, kinds)
    mirrored = torch.from_numpy(rng.random(count) < 0.5)
    images[mirrored] = images[mirrored].flip(-1)
    return images, (1 - damage.error[prompts, kinds] / WORST_ERROR).clamp(min=0)


def train_clip(
    data: Path,
    folder: Path,
    work: Path,
    *,
    batch: int = 256,
    seed: int = 0,
    device: str = "auto",
    start: Path | None = None,
    keep_text: bool = False,
    compiled: bool = True,
    **options: Any,
) -> dict:
    """Train, write the averaged weights to `folder` and return `judging.measure`.

    Args:
        start: folder of another CLIP to begin with (`clip.warm_start`), unless there is a checkpoint in
            `work`.
        keep_text: leave the text tower as `start` has it, because a denoiser is already conditioned by it.
        compiled: the image tower, by torch.compile.
        options: of `training.train`, such as steps and minutes.
    Raises:
        ValueError: if the text tower is to be kept and there is no `start`, or it is `folder`.
    """
    where = training.pick_device(device)
    emoji = dataset.load(data)
    damage_file = data.with_name("damage.npz")
    damage = load_damage(damage_file) if damage_file.exists() else None
    torch.manual_seed(seed)
    if keep_text:
        if start is None:
            raise ValueError("A text tower can be kept only of a CLIP to begin with: --start-from FOLDER.")
        clip.read_alike(folder, start)
    model, tokenizer = clip.new_clip(folder, emoji)
    if start is not None:
        clip.warm_start(model, tokenizer, start)
    if keep_text:
        model.lock_text_tower()
    model.to(where, memory_format=torch.channels_last).train()
    tower = torch.compile(model.visual) if compiled else model.visual
    scenes = Scenes(emoji, emoji.train_indices(), jitter=Jitter(), seed=seed, where=where)
    bank, antonyms = Bank(emoji, tokenizer, where), tokenizer(list(ANTONYMS)).to(where)
    blank, hurt = batch // 16, batch // 8 if damage is not None else 0

    def loss_of(step: int) -> Tensor:
        drawn = scenes.draw(batch - blank - hurt, step)
        count, rng = len(drawn.captions), np.random.default_rng((seed, step, 1))
        bank.refresh(model, step)
        scene, restyled = drawn.images.to(where), torch.rand(count, device=where) < RESTYLED_SHARE
        scene[restyled] = restyle.restyle(scene[restyled])
        strength = torch.rand(count, device=where) * (torch.rand(count, device=where) < 0.5)
        kinds = torch.randint(len(degradations.KINDS), (count,), device=where)
        images = [degradations.degrade(scene, strength, kinds)]
        images.append(degradations.noise_and_flat(blank, scene.shape[-1], where))
        good = [1 - strength, torch.zeros(blank, device=where)]
        if hurt:
            spoilt, grade = draw_damage(damage, hurt, rng)
            images.append(spoilt.to(where))
            good.append(grade.to(where))
        texts = tokenizer(drawn.captions).to(where)
        with training.autocast(where):
            text_features = clip.encode_texts(model, torch.cat([texts, antonyms])).float()
        # On a CPU, depthwise convolutions take a third longer in bfloat16.
        with torch.autocast(where.type, dtype=torch.bfloat16, enabled=where.type != "cpu"):
            image_features = tower(prepared(model, torch.cat(images)))
        image_features = F.normalize(image_features.float(), dim=-1)
        scale = model.logit_scale.exp().clamp(max=50)
        captions, pair = text_features[:-2], text_features[-2:]
        match = contrast(image_features[:count], captions, scale, hard_negatives(drawn, emoji).to(where))
        single = drawn.single.to(where)
        names = bank.loss(image_features[:count], scale, emoji.concept[drawn.first].to(where))
        weight = 1 - 0.7 * strength
        nothing = F.relu(image_features[count : count + blank] @ captions.T).pow(2).mean()
        graded = F.pad(~restyled, (0, len(image_features) - count), value=True)
        verdict = scale.detach() * (image_features @ pair.T)
        return (
            (weight * (match + single * names)).mean()
            + quality(verdict, torch.cat(good), graded)
            + 10 * nothing
        )

    def measured() -> dict:
        clip.save_clip(model.state_dict(), folder)
        return judging.measure(judging.Judge(model, tokenizer, where), emoji, damage)

    average = training.train(
        model,
        loss_of,
        work / "clip.pt",
        weight_decay=0.1,
        decay=0.998,
        report=lambda: judging.brief(measured()),
        **{"learning_rate": 1.5e-3} | options,
    )
    with training.averaged(model, average):
        return measured()
