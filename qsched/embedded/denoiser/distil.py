"""Latent-consistency distillation of the teacher into a student for 1 to 8 steps (Luo et al. 2023, arXiv
2310.04378).

The student must give the same image from both ends of one teacher step: f(x_t, t) is pulled towards the
averaged student's f(x_s, s), where x_s is the teacher's DDIM step from x_t to s = t - 20 (the schedule's 50
original steps), guided away from what the teacher draws without a text. Where a caption nearly determines
the image, a second term keeps the student anchored to the true one; without it the targets drift during a
short run. A caption that leaves the style open has several true images: there the term would ask for their
mean, so it is left out, and the noise decides.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qsched.embedded.denoiser import unet as denoiser
from qsched.embedded.denoiser.batches import Batches
from qsched.embedded.denoiser.unet import LAST, image, noise_in, pseudo_huber, to_train
from qsched.embedded.training import loop as training
from qsched.embedded.training.weights import read_weights

SKIP = denoiser.SCHEDULE["num_train_timesteps"] // 50
ANCHOR = 0.3  # weight of the distance to the true image beside the distance to the target
TARGET_DECAY = 0.95


def distil(
    batches: Batches,
    teacher: Path,
    checkpoint: Path,
    *,
    batch: int = 64,
    compiled: bool = True,
    guidance: float = 0.0,
    anchor: float = ANCHOR,
    **options: Any,
) -> training.Average:
    """Train the student; its checkpoint makes it resumable. Returns the averaged weights.

    Args:
        teacher: its weights (`weights.read_weights`).
        guidance: w of E + w (E - E without text), the teacher's prediction; 0 asks the teacher once.
        anchor: weight of the distance to the true image.
        options: of `training.train`, such as steps and minutes.
    Raises:
        FileNotFoundError: if there is no teacher yet.
    """
    if not teacher.exists() and teacher.suffix == ".pt":
        raise FileNotFoundError(f"{teacher} is missing: run `python -m qsched.embedded denoiser` first.")
    where = batches.where
    torch.manual_seed(batches.seed)
    weights = read_weights(teacher)
    unets = [batches.new_unet() for _ in range(3)]
    for unet in unets:
        unet.load_state_dict(weights)
        to_train(unet, where)
    student, slow, guide = unets
    forward, slow_forward, guide_forward = (torch.compile(unet) if compiled else unet for unet in unets)
    for unet in (slow, guide):
        unet.requires_grad_(False)
    no_states, no_pooled = batches.encode([""])

    @torch.no_grad()
    def guided(noisy: Tensor, timesteps: Tensor, states: Tensor, pooled: Tensor) -> Tensor:
        ask = lambda *text: guide_forward(noisy, timesteps, text[0], class_labels=text[1], return_dict=False)[
            0
        ].float()
        found = ask(states, pooled)
        if guidance:
            found = found + guidance * (found - ask(no_states.expand_as(states), no_pooled.expand_as(pooled)))
        return found

    def loss_of(step: int) -> Tensor:
        drawn = batches.draw(batch, step)
        clean, states, pooled = drawn.clean, drawn.states, drawn.pooled
        noise = torch.randn_like(clean)
        # noised() adds the last one
        timesteps = SKIP * torch.randint(2, LAST // SKIP + 1, (batch,), device=where) - 1
        noisy, timesteps, alpha, sigma = batches.noised(clean, noise, timesteps)
        earlier = timesteps - SKIP
        with training.autocast(where):
            with torch.no_grad():
                epsilon = guided(noisy, timesteps, states, pooled)
                alpha_s, sigma_s = batches.levels(earlier)
                implied = image(noisy, epsilon, alpha, sigma)
                moved = alpha_s * implied + sigma_s * noise_in(noisy, epsilon, timesteps)
                at_target = slow_forward(moved, earlier, states, class_labels=pooled, return_dict=False)[
                    0
                ].float()
                target = image(moved, at_target, alpha_s, sigma_s)
            predicted = forward(noisy, timesteps, states, class_labels=pooled, return_dict=False)[0]
        found = image(noisy, predicted.float(), alpha, sigma)
        with torch.no_grad():
            for behind, ahead in zip(slow.parameters(), student.parameters(), strict=True):
                behind.lerp_(ahead, 1 - TARGET_DECAY)
        return (pseudo_huber(found - target) + anchor * drawn.styled * pseudo_huber(found - clean)).mean()

    return training.train(
        student,
        loss_of,
        checkpoint,
        decay=0.995,
        seed=batches.seed,
        beside=slow,
        report=lambda: batches.held_out_loss(student),
        **{"learning_rate": 3e-4, "muon": True} | options,
    )
