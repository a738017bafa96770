"""Latent-consistency-style distillation of the denoiser into a student for 1 to 8 steps (Luo et al. 2023, arXiv 2310.04378, without guidance).

The student must give the same picture from both ends of one teacher step: f(x_t, t) is pulled towards the averaged student's f(x_s, s), where x_s is the
teacher's DDIM step from x_t to s = t - 20 (the schedule's 50 original steps). A text and a style nearly determine an emoji, so a second term keeps the
student anchored to the true picture; without it the targets drift during a short run.
"""

from pathlib import Path

import torch
from torch import Tensor

from qsched.embedded import denoiser, training
from qsched.embedded.denoiser import LAST, Batches, new_unet, picture, pseudo_huber

SKIP = denoiser.SCHEDULE["num_train_timesteps"] // 50
ANCHOR = 0.5


def distil(
    data: Path,
    clip_folder: Path,
    work: Path,
    *,
    steps: int,
    batch: int = 64,
    learning_rate: float = 3e-4,
    seed: int = 0,
    device: str = "auto",
    compiled: bool = True,
) -> training.Average:
    """Train the student from work/denoiser.pt; checkpoints in work/student.pt. Returns the averaged weights.

    Raises:
        FileNotFoundError: if there is no teacher yet.
    """
    teacher_file = work / "denoiser.pt"
    if not teacher_file.exists():
        raise FileNotFoundError(f"{teacher_file} is missing: run `python -m qsched.embedded denoiser` first.")
    where = training.pick_device(device)
    torch.manual_seed(seed)
    batches = Batches(data, clip_folder, where, seed + 1)
    weights = torch.load(teacher_file, map_location="cpu", weights_only=True)["average"]
    unets = [new_unet() for _ in range(3)]
    for unet in unets:
        unet.load_state_dict(weights)
        unet.to(where, memory_format=torch.channels_last)
    student, average_student, teacher = unets
    forward, target_forward, teacher_forward = (torch.compile(unet) if compiled else unet for unet in unets)
    for unet in (average_student, teacher):
        unet.requires_grad_(False)

    def loss_of(step: int) -> Tensor:
        clean, states, pooled = batches.draw(batch)
        noise = torch.randn_like(clean)
        timesteps = SKIP * torch.randint(2, LAST // SKIP + 2, (batch,), device=where) - 1
        noisy, alpha, sigma = batches.noised(clean, noise, timesteps)
        earlier = timesteps - SKIP
        with torch.autocast(where.type, dtype=torch.bfloat16):
            with torch.no_grad():
                epsilon = teacher_forward(noisy, timesteps, states, class_labels=pooled, return_dict=False)[0].float()
                alpha_s, sigma_s = batches.levels(earlier)
                moved = alpha_s * picture(noisy, epsilon, alpha, sigma) + sigma_s * epsilon
                at_target = target_forward(moved, earlier, states, class_labels=pooled, return_dict=False)[0].float()
                target = picture(moved, at_target, alpha_s, sigma_s)
            predicted = forward(noisy, timesteps, states, class_labels=pooled, return_dict=False)[0]
        drawn = picture(noisy, predicted.float(), alpha, sigma)
        with torch.no_grad():
            for slow, fast in zip(average_student.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, 0.05)
        return (pseudo_huber(drawn - target) + ANCHOR * pseudo_huber(drawn - clean)).mean()

    return training.train(
        student, loss_of, work / "student.pt", steps=steps, learning_rate=learning_rate, decay=0.995, save_every=100
    )
