"""The teacher's training: noise prediction at all noise levels, for sampling in 50 steps and as what the
student is distilled from.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qsched.embedded.denoiser.batches import Batches
from qsched.embedded.denoiser.unet import LAST, image, pseudo_huber, to_train
from qsched.embedded.training import loop as training
from qsched.embedded.training.weights import start_from


def draw_timesteps(count: int, where: torch.device | str) -> Tensor:
    """Timesteps from 1 to LAST, (count,), as likely as they are high: below the middle x_t shows the image,
    and seen and held-out ones cost the same.
    """
    return (LAST * torch.rand(count, device=where).sqrt()).ceil().long().clamp(min=1)


def train_denoiser(
    batches: Batches,
    checkpoint: Path,
    *,
    batch: int = 64,
    compiled: bool = True,
    start: Path | None = None,
    without_text: float = 0.0,
    **options: Any,
) -> training.Average:
    """Train the teacher; its checkpoint makes it resumable. Returns the averaged weights.

    Args:
        start: weights of another denoiser to begin with (`weights.read_weights`), unless there is a
            checkpoint.
        without_text: share of the captions that are replaced by the empty one, for guidance.
        options: of `training.train`, such as steps and minutes.
    """
    where = batches.where
    torch.manual_seed(batches.seed)
    unet = batches.new_unet()
    if start is not None and not checkpoint.exists():
        start_from(start, unet)
    to_train(unet, where)
    forward = torch.compile(unet) if compiled else unet

    def loss_of(step: int) -> Tensor:
        drawn = batches.without_text(batches.draw(batch, step), without_text)
        clean = drawn.clean
        noise, timesteps = torch.randn_like(clean), draw_timesteps(batch, where)
        noisy, timesteps, alpha, sigma = batches.noised(clean, noise, timesteps)
        with training.autocast(where):
            predicted = forward(noisy, timesteps, drawn.states, class_labels=drawn.pooled, return_dict=False)[
                0
            ]
        found = image(noisy, predicted.float(), alpha, sigma)
        return pseudo_huber(found - clean).mean()

    return training.train(
        unet,
        loss_of,
        checkpoint,
        seed=batches.seed,
        report=lambda: batches.held_out_loss(unet),
        **{"learning_rate": 1.5e-3, "muon": True} | options,
    )
