"""The tiny CLIP: a text tower that conditions the denoiser, and with the image tower the judge (CLIPScore and CLIP-IQA).

It is an ordinary open_clip model (`open_clip.create_model("local-dir:assets/emoji-clip")`), trained with the usual symmetric contrastive loss on emoji and
captions, plus one term for quality: the antonym pair of CLIP-IQA must rank a picture by how little it was degraded.
"""

import json
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from torch import Tensor

from qsched.embedded import dataset, degradations, training
from qsched.embedded.tokenizer import train_tokenizer
from qsched.scoring.embedded_clip import ANTONYMS, quality_probability

CONTEXT_LENGTH = 16
VOCABULARY = 2048
CONFIG = {
    "model_cfg": {
        "embed_dim": 256,
        "vision_cfg": {"image_size": dataset.SIZE, "layers": 4, "width": 256, "head_width": 64, "patch_size": 16},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": VOCABULARY,
            "hf_tokenizer_name": "tokenizer.json",
            "width": 256,
            "heads": 4,
            "layers": 3,
        },
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}


def new_clip(folder: Path, emoji: dataset.Emoji) -> tuple[CLIP, open_clip.tokenizer.HFTokenizer]:
    """A fresh model and its tokenizer; the folder gets config and vocabulary (an existing vocabulary is kept)."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer.json").exists():
        texts = [f"{name}, {style} style" for name in emoji.concepts for style in emoji.styles] + [
            " ".join(tags) for tags in emoji.tags
        ]
        train_tokenizer(texts, folder, VOCABULARY, CONTEXT_LENGTH)
    tokenizer = open_clip.tokenizer.HFTokenizer(str(folder), context_length=CONTEXT_LENGTH)
    if len(tokenizer.tokenizer) > VOCABULARY:
        raise ValueError(f"the tokenizer has {len(tokenizer.tokenizer)} entries, the model only {VOCABULARY}")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    return open_clip.model.CLIP(**CONFIG["model_cfg"]), tokenizer


def save_clip(weights: dict[str, Tensor], folder: Path) -> None:
    """Write weights as fp16 in open_clip's layout."""
    half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in weights.items()}
    save_file(half, folder / "open_clip_model.safetensors")


def load_weights(model: CLIP, folder: Path) -> CLIP:
    """Load what `save_clip` wrote."""
    model.load_state_dict(
        {
            k: v.float() if v.is_floating_point() else v
            for k, v in load_file(folder / "open_clip_model.safetensors").items()
        }
    )
    return model


def normalise(images: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1], the preprocessing named in the config."""
    return images * 2 - 1


def jitter(images: Tensor) -> Tensor:
    """Small shifts and zooms on the white canvas, so that position is not the memory."""
    count = images.shape[0]
    theta = torch.zeros(count, 2, 3, device=images.device)
    scale = 1 + 0.25 * torch.rand(count, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = 0.16 * (torch.rand(count, 2, device=images.device) - 0.5)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return 1 - F.grid_sample(1 - images, grid, align_corners=False)


def train_clip(
    data: Path,
    folder: Path,
    work: Path,
    *,
    steps: int = 2000,
    batch: int = 256,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: str = "auto",
) -> dict:
    """Train, write the averaged weights to `folder` and return the held-out numbers of `measure`."""
    where = training.pick_device(device)
    emoji = dataset.load(data)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model, tokenizer = new_clip(folder, emoji)
    model.to(where, memory_format=torch.channels_last).train()
    usable = emoji.train_indices()
    antonyms = tokenizer(list(ANTONYMS)).to(where)
    blank = batch // 16

    def loss_of(step: int) -> Tensor:
        chosen = usable[torch.from_numpy(rng.permutation(len(usable))[: batch - blank])]
        clean = jitter(emoji.pictures(chosen).to(where))
        damaged = torch.rand(len(chosen), device=where) < 0.5
        strength = torch.rand(len(chosen), device=where) * damaged
        pictures = degradations.degrade(
            clean, strength, torch.randint(len(degradations.KINDS), (len(chosen),), device=where)
        )
        images = torch.cat([pictures, degradations.noise_and_flat(blank, dataset.SIZE, where)])
        texts = tokenizer(emoji.captions(chosen, rng)).to(where)
        with torch.autocast(where.type, dtype=torch.bfloat16):
            image_features = model.encode_image(normalise(images), normalize=True)
            text_features = model.encode_text(torch.cat([texts, antonyms]), normalize=True)
        image_features, text_features = image_features.float(), text_features.float()
        scale = model.logit_scale.exp().clamp(max=50)
        captions, pair = text_features[:-2], text_features[-2:]
        logits = scale * image_features[: len(chosen)] @ captions.T
        # A concept's other styles and equal captions are no negatives of one another by chance of the draw; label smoothing keeps them from being torn apart.
        target = torch.arange(len(chosen), device=where)
        weight = 1 - 0.7 * strength
        match = 0.5 * (
            F.cross_entropy(logits, target, reduction="none", label_smoothing=0.05)
            + F.cross_entropy(logits.T, target, reduction="none", label_smoothing=0.05)
        )
        # Pictures of nothing match no caption: push their cosines to zero or below.
        nothing = F.relu(image_features[len(chosen) :] @ captions.T).pow(2).mean()
        good = torch.cat([1 - strength, torch.zeros(blank, device=where)])
        verdict = scale.detach() * (image_features @ pair.T)
        quality = F.cross_entropy(verdict, torch.stack([good, 1 - good], 1))
        return (weight * match).mean() + quality + 10 * nothing

    def report(step: int, mean: float) -> str:
        numbers = measure(model, tokenizer, emoji, where)
        return " ".join(f"{k} {v:.3f}" for k, v in numbers.items())

    average = training.train(
        model,
        loss_of,
        work / "clip.pt",
        steps=steps,
        learning_rate=learning_rate,
        weight_decay=0.1,
        decay=0.99,
        save_every=100,
        report=report,
    )
    model.load_state_dict(average.weights)
    save_clip(average.weights, folder)
    return measure(model, tokenizer, emoji, where)


@torch.no_grad()
def measure(model: CLIP, tokenizer, emoji: dataset.Emoji, where: torch.device, seed: int = 1) -> dict[str, float]:
    """Held-out numbers: retrieval of the caption among all captions of the same style (top-1, top-5) and the AUC of quality, clean against degraded."""
    model.eval()
    torch.manual_seed(seed)
    indices = emoji.held_out.nonzero().flatten()
    images = emoji.pictures(indices).to(where)
    names = [f"{c}, {s} style" for s in emoji.styles for c in emoji.concepts]
    texts = torch.cat(
        [model.encode_text(tokenizer(names[i : i + 256]).to(where), normalize=True) for i in range(0, len(names), 256)]
    )
    features = model.encode_image(normalise(images), normalize=True)
    target = emoji.style[indices] * len(emoji.concepts) + emoji.concept[indices]
    similar = features @ texts.T
    order = similar.argsort(-1, descending=True).cpu() % len(emoji.concepts)
    right = order == emoji.concept[indices].unsqueeze(1)
    pair = model.encode_text(tokenizer(list(ANTONYMS)).to(where), normalize=True)
    kinds = torch.arange(len(degradations.KINDS)).repeat_interleave(len(images)).to(where)
    bad = degradations.degrade(
        images.repeat(len(degradations.KINDS), 1, 1, 1), torch.full((len(kinds),), 0.5, device=where), kinds
    )
    good_q = quality_probability(model, features, pair)
    bad_q = quality_probability(model, model.encode_image(normalise(bad), normalize=True), pair)
    noise_q = quality_probability(
        model, model.encode_image(normalise(degradations.noise_and_flat(64, dataset.SIZE, where)), normalize=True), pair
    )
    model.train()
    # several captions may share a concept (its styles): the rank of the concept is the rank of its best caption
    first = [len(set(row[: int(hit.float().argmax()) + 1].tolist())) for row, hit in zip(order, right, strict=True)]
    return {
        "top1": float(np.mean([f <= 1 for f in first])),
        "top5": float(np.mean([f <= 5 for f in first])),
        "auc": float((good_q.unsqueeze(1) > bad_q).float().mean()),
        "good": float(good_q.mean()),
        "bad": float(bad_q.mean()),
        "nothing": float(noise_q.mean()),
        "cosine": float(similar.gather(1, target.to(where).unsqueeze(1)).mean()),
    }
