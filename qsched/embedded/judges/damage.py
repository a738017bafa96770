"""Real damage for the judge to learn from and to be measured on: images that quantized copies of the denoiser
make, kept as a file.

For every prompt one image at full precision, one per bit-width, and one at full precision under random
coefficients: a search may drive a model there, so the judge has to know what it looks like. All start from
the same noise. Their root-mean-square difference to the first is the error that the judge's quality score is
compared with.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from qsched.embedded.data.dataset import Emoji, lot
from qsched.models.base import Backbone
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.loop import draw_noise, sample

BITS = ("w8a8", "w4a8", "w4a4", "w3a8", "w2a8")
FULL, BENT = "full precision", "bent"
KINDS = (FULL, *BITS, BENT)
STEPS = (1, 2, 4, 8)
TEST_SHARE = 0.25
GROUPS = ("animals-nature", "food-drink")
"""What the model that draws the damage was trained on."""
BATCH = 32


@dataclass
class Damage:
    """The images: images uint8 (prompts, kinds, 3, 64, 64), kinds as in KINDS; error float32 (prompts,
    kinds), root-mean-square difference to full precision in [0, 1]; steps int64 (prompts,); test bool
    (prompts,), prompts that training may not see.
    """

    images: Tensor
    error: Tensor
    steps: Tensor
    test: Tensor
    prompts: list[str]

    def images_of(self, prompts: Tensor, kinds: Tensor) -> Tensor:
        """Images as float32 (count, 3, 64, 64) in [0, 1] for pairs of indices."""
        return self.images[prompts, kinds].float() / 255


def known_prompts(emoji: Emoji, groups: tuple[str, ...], styles: tuple[str, ...], count: int) -> list[str]:
    """Captions of the pairs that a model was trained on, spread evenly over the concepts; as many as there
    are, up to `count`.
    """
    fits = [
        i
        for i in range(len(emoji.images))
        if emoji.groups[emoji.concept[i]] in groups and emoji.styles[emoji.style[i]] in styles
    ]
    fits = sorted(fits, key=lambda i: lot(emoji.caption(i)))[:count]
    return [emoji.caption(i) for i in sorted(fits)]


@torch.inference_mode()
def make(backbone: Backbone, prompts: list[str], seed: int = 0) -> Damage:
    """Draw the images; prompts take turns with 1, 2, 4 and 8 steps."""
    rng = np.random.default_rng(seed)
    steps = [STEPS[i % len(STEPS)] for i in range(len(prompts))]
    size = backbone.spec.size
    images = torch.empty(len(prompts), len(KINDS), 3, size, size, dtype=torch.uint8)
    bent = [Coefficients.constant(*rng.uniform(0.75, 1.3, 2)) for _ in prompts]
    for column, kind in enumerate(tqdm(KINDS, desc="damage", unit="kind")):
        denoiser = backbone.quantized(Quantization(kind)).module if kind in BITS else None
        for count in STEPS:
            of = [i for i, n in enumerate(steps) if n == count]
            for index in (of[b : b + BATCH] for b in range(0, len(of), BATCH)):
                condition = backbone.encode([prompts[i] for i in index])
                noise = draw_noise(backbone.latent_shape, seed, index)
                coefficients = [bent[i] for i in index] if kind == BENT else None
                latents = sample(backbone, condition, noise, count, coefficients, denoiser)
                images[index, column] = (backbone.decode(latents).cpu() * 255).round().to(torch.uint8)
    total = images.float() / 255
    error = (total - total[:, :1]).pow(2).flatten(2).mean(-1).sqrt()
    test = torch.tensor([lot(f"damage|{p}") < TEST_SHARE for p in prompts])
    return Damage(images, error, torch.tensor(steps), test, prompts)


def save(damage: Damage, path: Path) -> None:
    """Write the images as one .npz file."""
    arrays = {name: getattr(damage, name).numpy() for name in ("images", "error", "steps", "test")}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays, prompts=np.array(damage.prompts))


def load(path: Path) -> Damage:
    """Read what `save` wrote.

    Raises:
        FileNotFoundError: if it was not made yet; the message holds the command.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `python -m qsched.embedded damage` first.")
    with np.load(path) as data:
        arrays = {name: torch.from_numpy(data[name]) for name in ("images", "error", "steps", "test")}
        return Damage(**arrays, prompts=data["prompts"].tolist())
