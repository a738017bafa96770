"""The teacher's training: noise prediction at all noise levels, for sampling in 50 steps and as what the
student is distilled from.
"""

from pathlib import Path

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
    steps: int,
    minutes: float | None = None,
    batch: int = 64,
    learning_rate: float = 1.5e-3,
    compiled: bool = True,
    muon: bool = True,
    start: Path | None = None,
    without_text: float = 0.0,
    save_minutes: float = 10.0,
) -> training.Average:
    """Train the teacher; its checkpoint makes it resumable. Returns the averaged weights.

    Args:
        steps, minutes: whichever is reached first.
        muon: the optimiser; else AdamW.
        start: weights of another denoiser to begin with (`weights.read_weights`), unless there is a
            checkpoint.
        without_text: share of the captions that are replaced by the empty one, for guidance.
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
        steps=steps,
        minutes=minutes,
        learning_rate=learning_rate,
        muon=muon,
        decay=0.999,
        save_every=None,
        save_minutes=save_minutes,
        seed=batches.seed,
        report=lambda: batches.held_out_loss(unet),
    )
