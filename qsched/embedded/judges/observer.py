"""The observer: a second, independent judge for reports only. Nothing is ever optimised against it, and it
conditions nothing.

It differs from the tiny CLIP in what it is (a classifier of concepts with group norms, no text), in its seed
and in what it saw: its images were disturbed in other ways (gamma, dots, pixels, patches cut out; only paler
and slightly turned colours occur in both). Its features are the space of the Frechet distance, its classes
say whether an image is recognised.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from qsched.embedded.data import dataset
from qsched.embedded.data.scenes import Jitter, Mix, Scenes
from qsched.embedded.training import loop as training

FEATURES = 64
WIDTHS = (48, 96, 160, 224)
MIX = Mix(ground=0.3, two_tone=0.1, sized=0.1, two=0, three=0)
SEED = 20_000
CHUNK = 256


class Block(nn.Module):
    """Two 3 x 3 convolutions with group norms and a shortcut, at half the resolution."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, 2, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.GroupNorm(8, after) for _ in range(2))
        self.shortcut = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.silu(self.norms[0](self.first(x)))
        return F.silu(self.norms[1](self.second(inner)) + self.shortcut(F.avg_pool2d(x, 2)))


class Observer(nn.Module):
    """Images (batch, 3, 64, 64) in [0, 1] -> features (batch, 64) -> logits of the concepts."""

    def __init__(self, concepts: Sequence[str]):
        super().__init__()
        self.concepts = list(concepts)
        self.stem = nn.Conv2d(3, WIDTHS[0], 5, 2, 2)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in itertools.pairwise(WIDTHS)))
        self.squeeze = nn.Linear(WIDTHS[-1], FEATURES)
        self.classes = nn.Linear(FEATURES, len(self.concepts))

    def features(self, images: Tensor) -> Tensor:
        """(batch, 64)."""
        return self.squeeze(self.blocks(F.silu(self.stem(2 * images - 1))).mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        return self.classes(F.silu(self.features(images)))

    def columns(self, concepts: Sequence[str]) -> list[int]:
        """Where these concepts are among the logits.

        Raises:
            ValueError: if the observer was not trained on one of them.
        """
        if foreign := sorted(set(concepts) - set(self.concepts)):
            raise ValueError(f"The observer does not know {foreign[0]!r}: train it on this data set.")
        number = {name: i for i, name in enumerate(self.concepts)}
        return [number[name] for name in concepts]


def disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image left alone or changed in one of six ways."""
    count, _, height, width = images.shape
    uniform = lambda *shape: torch.rand(*shape, generator=generator).to(images.device)
    amount = uniform(count, 1, 1, 1)
    grey = images.mean(1, keepdim=True).expand_as(images)
    around = torch.arange(count, device=images.device)
    coarse = F.interpolate(F.avg_pool2d(images, 2), (height, width), mode="nearest")
    dots = torch.where(uniform(count, 1, height, width) < 0.1 * amount, uniform(count, 3, 1, 1), images)
    corner = (uniform(count, 2) * torch.tensor([height, width], device=images.device)).long()
    rows, columns = (torch.arange(n, device=images.device) for n in (height, width))
    inside = lambda axis, index: (
        (axis >= corner[:, index, None]) & (axis < corner[:, index, None] + height // 3)
    )
    patch = inside(rows, 0)[:, None, :, None] & inside(columns, 1)[:, None, None, :]
    options = torch.stack(
        [
            images,
            images + amount * (grey - images),
            images ** torch.exp(1.6 * (amount - 0.5)),
            images + 0.3 * amount * (images.roll(1, 1) - images),
            dots,
            coarse,
            torch.where(patch, uniform(count, 3, 1, 1), images),
        ]
    )
    return options[
        torch.randint(len(options), (count,), generator=generator).to(images.device), around
    ].clamp(0, 1)


def train_observer(
    data: Path, work: Path, *, batch: int = 256, seed: int = SEED, device: str = "auto", **options: Any
) -> dict[str, float]:
    """Train, write work/observer.safetensors (fp16) and return top-1 and top-5 on the held-out pairs.

    Args:
        options: of `training.train`, such as steps and minutes.
    """
    where = training.pick_device(device)
    emoji = dataset.load(data)
    torch.manual_seed(seed)
    model = Observer(emoji.concepts).to(where, memory_format=torch.channels_last).train()
    scenes = Scenes(emoji, emoji.train_indices(), MIX, Jitter(zoom=0.2, turn=20), seed, where)

    def loss_of(step: int) -> Tensor:
        drawn = scenes.draw(batch, step)
        images = disturb(drawn.images.to(where), torch.Generator().manual_seed(seed + step))
        with training.autocast(where):
            logits = model(images.contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(logits.float(), emoji.concept[drawn.first].to(where), label_smoothing=0.1)

    average = training.train(
        model,
        loss_of,
        work / "observer.pt",
        weight_decay=0.05,
        decay=0.998,
        muon=True,
        report=lambda: held_out(model, emoji, where),
        **{"learning_rate": 2e-3} | options,
    )
    half = {name: value.half().contiguous() for name, value in average.weights.items()}
    save_file(half, work / "observer.safetensors", {"concepts": json.dumps(emoji.concepts)})
    with training.averaged(model, average):
        return held_out(model, emoji, where)


def load_observer(path: Path, device: torch.device | str = "cpu") -> Observer:
    """Read what `train_observer` wrote.

    Raises:
        FileNotFoundError: if it was not trained yet; the message holds the command.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `python -m qsched.embedded observer` first.")
    with safe_open(path, "pt") as file:
        model = Observer(json.loads(file.metadata()["concepts"]))
        model.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})
    return model.to(device).eval().requires_grad_(False)


@torch.no_grad()
def observe(model: Observer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (count, 64) and logits (count, concepts), on the CPU, of images (count, 3, 64, 64)
    in [0, 1].
    """
    where = next(model.parameters()).device
    features = torch.cat([model.features(part.to(where)) for part in images.split(CHUNK)])
    return features.cpu(), model.classes(F.silu(features)).cpu()


def held_out(model: Observer, emoji: dataset.Emoji, where: torch.device) -> dict[str, float]:
    """Top-1 and top-5 on the held-out pairs."""
    indices = emoji.held_out.nonzero().flatten()
    _, logits = observe(model, emoji.images_of(indices))
    rank = (logits > logits.gather(1, emoji.concept[indices].unsqueeze(1))).sum(1)
    return {f"top{k}": float((rank < k).float().mean()) for k in (1, 5)}
