"""Latent-consistency distillation of the teacher into a student for 1 to 8 steps (Luo et al. 2023, arXiv
2310.04378, without guidance).

The student must give the same image from both ends of one teacher step: f(x_t, t) is pulled towards the
averaged student's f(x_s, s), where x_s is the teacher's DDIM step from x_t to s = t - 20 (the schedule's 50
original steps). Where a caption nearly determines the image, a second term keeps the student anchored to the
true one; without it the targets drift during a short run.
"""

from pathlib import Path

import torch
from torch import Tensor

from qsched.embedded.denoiser import unet as denoiser
from qsched.embedded.denoiser.batches import STYLES, Batches
from qsched.embedded.denoiser.unet import LAST, image, new_unet, noise_in, pseudo_huber, to_train
from qsched.embedded.training import loop as training
from qsched.embedded.training import parallel

SKIP = denoiser.SCHEDULE["num_train_timesteps"] // 50
ANCHOR = 0.3  # weight of the distance to the true image beside the distance to the target
TARGET_DECAY = 0.95


def distil(
    data: Path,
    clip_folder: Path,
    work: Path,
    *,
    steps: int,
    minutes: float | None = None,
    batch: int = 64,
    learning_rate: float = 3e-4,
    seed: int = 0,
    device: str = "auto",
    compiled: bool = True,
    styles: tuple[str, ...] = STYLES,
    workers: int = 0,
    save_every: int = 100,
) -> training.Average:
    """Train the student from work/denoiser.pt; checkpoints in work/student.pt. Returns the averaged weights.

    Args:
        steps, minutes: whichever is reached first. workers: processes that draw the scenes.
    Raises:
        FileNotFoundError: if there is no teacher yet.
    """
    teacher_file = work / "denoiser.pt"
    if not teacher_file.exists():
        raise FileNotFoundError(f"{teacher_file} is missing: run `python -m qsched.embedded denoiser` first.")
    where = training.pick_device(device)
    seed = parallel.own_seed(seed)
    torch.manual_seed(seed)
    batches = Batches(data, clip_folder, where, seed + 1, styles, workers)
    weights = torch.load(teacher_file, map_location="cpu", weights_only=True)["average"]
    unets = [new_unet() for _ in range(3)]
    for unet in unets:
        unet.load_state_dict(weights)
        to_train(unet, where)
    student, slow, teacher = unets
    forward, slow_forward, teacher_forward = (torch.compile(unet) if compiled else unet for unet in unets)
    for unet in (slow, teacher):
        unet.requires_grad_(False)
    resumed = (work / "student.pt").exists()

    @torch.no_grad()
    def follow(share: float) -> None:
        for behind, ahead in zip(slow.parameters(), student.parameters(), strict=True):
            behind.lerp_(ahead, share)

    def loss_of(step: int) -> Tensor:
        nonlocal resumed
        if resumed:  # the checkpoint was loaded after this function was made
            follow(1.0)
            resumed = False
        clean, states, pooled = batches.draw(batch, step)
        noise = torch.randn_like(clean)
        # noised() adds the last one
        timesteps = SKIP * torch.randint(2, LAST // SKIP + 1, (batch,), device=where) - 1
        noisy, timesteps, alpha, sigma = batches.noised(clean, noise, timesteps)
        earlier = timesteps - SKIP
        with torch.autocast(where.type, dtype=torch.bfloat16):
            with torch.no_grad():
                epsilon = teacher_forward(noisy, timesteps, states, class_labels=pooled, return_dict=False)[
                    0
                ].float()
                alpha_s, sigma_s = batches.levels(earlier)
                implied = image(noisy, epsilon, alpha, sigma)
                moved = alpha_s * implied + sigma_s * noise_in(noisy, epsilon, timesteps)
                at_target = slow_forward(moved, earlier, states, class_labels=pooled, return_dict=False)[
                    0
                ].float()
                target = image(moved, at_target, alpha_s, sigma_s)
            predicted = forward(noisy, timesteps, states, class_labels=pooled, return_dict=False)[0]
        drawn = image(noisy, predicted.float(), alpha, sigma)
        follow(1 - TARGET_DECAY)
        return (pseudo_huber(drawn - target) + ANCHOR * pseudo_huber(drawn - clean)).mean()

    return training.train(
        student,
        loss_of,
        work / "student.pt",
        steps=steps,
        minutes=minutes,
        learning_rate=learning_rate,
        muon=True,
        decay=0.995,
        save_every=save_every,
        report=lambda: batches.held_out_loss(student),
    )
