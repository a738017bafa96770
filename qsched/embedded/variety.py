"""What the embedded model does beyond one thing in one style: how much images differ over seeds where the
style is left open, and whether two different things in one scene can both be recognised.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qsched.embedded.data import dataset
from qsched.embedded.data.words import BESIDE, with_article
from qsched.embedded.judges.observer import Observer, observe
from qsched.embedded.report import draw, estimate
from qsched.models.base import Backbone

PROMPTS, SEEDS, STEPS, BEST = 60, 6, 4, 5


def measure(
    backbone: Backbone,
    emoji: dataset.Emoji,
    observer: Observer,
    *,
    styles: Sequence[str] | None = None,
    prompts: int = PROMPTS,
    seeds: int = SEEDS,
) -> dict[str, Any]:
    """Both measures at STEPS steps, each an estimate with its 95 % interval over prompts.

    Args:
        styles: the sets that the model draws (None = all): things are taken from their training images.
        prompts: so many of one thing, and so many scenes of two.
    Returns:
        variety: mean root-mean-square difference, of 1, between two seeds' images of a prompt without a
        style word; between: of images of different prompts. two_things: share of scenes of which both things
        are recognised; two_things_of_art: of scenes composed of the art, what the observer can see at all.
    """
    usable = emoji.train_indices(styles, unseen=False)
    usable = usable[torch.from_numpy(np.random.default_rng(0).permutation(len(usable)))]
    _, places = np.unique(emoji.concept[usable].numpy(), return_index=True)
    shown = usable[torch.from_numpy(np.sort(places))][: 2 * prompts]  # one image of each thing
    things = [with_article(emoji.concepts[int(concept)]) for concept in emoji.concept[shown]]
    drawn = torch.stack([draw(backbone, things[:prompts], STEPS, seed) for seed in range(seeds)])
    one, other = torch.triu_indices(seeds, seeds, 1)
    left, right = shown[0 : len(shown) // 2 * 2 : 2], shown[1::2]
    pairs = torch.stack([emoji.concept[left], emoji.concept[right]], 1)
    asked = [BESIDE[0].format(one=a, other=b) for a, b in zip(things[::2], things[1::2], strict=False)]
    scenes = draw(backbone, asked, STEPS, 0)
    art = beside(emoji.images_of(left), emoji.images_of(right))
    return {
        "prompts": drawn.shape[1],
        "seeds": seeds,
        "steps": STEPS,
        "scenes": len(pairs),
        "variety": estimate(_difference(drawn[one], drawn[other])),
        "between": estimate(_difference(drawn, drawn.roll(1, 1))),
        "two_things": _share(both_recognised(observer, emoji, scenes, pairs)),
        "two_things_of_art": _share(both_recognised(observer, emoji, art, pairs)),
    }


def beside(left: Tensor, right: Tensor) -> Tensor:
    """Images (count, 3, side, side) of two at half their size, side by side on white."""
    side = left.shape[-1]
    out = torch.ones_like(left)
    rows = slice(side // 4, side // 4 + side // 2)
    out[:, :, rows, : side // 2], out[:, :, rows, side // 2 :] = F.avg_pool2d(left, 2), F.avg_pool2d(right, 2)
    return out


@torch.inference_mode()
def both_recognised(observer: Observer, emoji: dataset.Emoji, images: Tensor, pairs: Tensor) -> Tensor:
    """Whether one half of an image, left or right, shows the first thing and the other half the second, each
    among the observer's BEST names; bool (images,).

    Args:
        images: (images, 3, H, W) in [0, 1]. pairs: concepts, (images, 2).
    """
    width, columns = images.shape[-1], observer.columns(emoji.concepts)
    found = []
    for half in (images[..., : width // 2], images[..., width // 2 :]):
        large = F.interpolate(half, scale_factor=2, mode="bicubic").clamp(0, 1)
        logits = observe(observer, large)[1][:, columns]
        ranks = (logits.unsqueeze(1) > logits.gather(1, pairs).unsqueeze(2)).sum(2)
        found.append(ranks < BEST)
    left, right = found
    return (left[:, 0] & right[:, 1]) | (left[:, 1] & right[:, 0])


def markdown(found: dict[str, Any]) -> str:
    """Both measures as sentences."""
    shown = lambda name: "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**found[name])
    return (
        f"Without a style word, images of two seeds differ by {shown('variety')} (root mean square), of "
        f"two prompts by {shown('between')}. Of {found['scenes']} scenes of two things, the share with both "
        f"recognised is {shown('two_things')}; of scenes composed of the art, {shown('two_things_of_art')}."
    )


def _difference(one: Tensor, other: Tensor) -> np.ndarray:
    """Root-mean-square difference of images (..., 3, H, W), float64 (...)."""
    return (one - other).square().flatten(-3).mean(-1).sqrt().double().numpy()


def _share(found: Tensor) -> dict[str, float | None]:
    return estimate(found.double().unsqueeze(0).numpy())
