"""The teacher's training: noise prediction at all noise levels, for sampling in 50 steps and as what the
student is distilled from.

Where a caption leaves open how a thing is drawn, the loss on pixels asks for the mean of all drawings: edges
go soft and thin lines vanish. A second loss therefore compares the image in the early features of a network
that was trained on photographs (`imagenet.Likeness`).
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from qsched.embedded.denoiser.batches import STYLES, Batches
from qsched.embedded.denoiser.unet import LAST, image, new_unet, pseudo_huber, to_train
from qsched.embedded.training import loop as training
from qsched.embedded.training import parallel
from qsched.embedded.training.imagenet import Likeness
from qsched.models.emoji import pixels

LIKENESS = 0.03
"""Weight of the second loss: on images that training has seen, the two are then about equal."""


def draw_timesteps(count: int, where: torch.device | str) -> Tensor:
    """Timesteps from 1 to LAST, (count,), as likely as they are high: below the middle x_t shows the image,
    and seen and held-out ones cost the same.
    """
    return (LAST * torch.rand(count, device=where).sqrt()).ceil().long().clamp(min=1)


def start_from(checkpoint: Path, unet: torch.nn.Module) -> int:
    """Load another denoiser, a checkpoint (its averaged weights) or a diffusers folder; returns how many
    tensors fitted. Those of other shapes stay as they are.
    """
    if checkpoint.is_dir():
        weights = load_file(checkpoint / "unet" / "diffusion_pytorch_model.safetensors")
    else:
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["average"]
    own = unet.state_dict()
    fitting = {
        name: value for name, value in weights.items() if name in own and own[name].shape == value.shape
    }
    unet.load_state_dict(fitting, strict=False)
    return len(fitting)


def train_denoiser(
    data: Path,
    clip_folder: Path,
    work: Path,
    *,
    steps: int,
    minutes: float | None = None,
    batch: int = 64,
    learning_rate: float = 1.5e-3,
    seed: int = 0,
    device: str = "auto",
    compiled: bool = True,
    start: Path | None = None,
    styles: tuple[str, ...] = STYLES,
    photographs: bool = False,
    workers: int = 0,
    save_every: int = 250,
) -> training.Average:
    """Train the teacher; checkpoints in work/denoiser.pt make it resumable. Returns the averaged weights.

    Args:
        steps, minutes: whichever is reached first. workers: processes that draw the scenes.
        start: checkpoint or diffusers folder of another denoiser to begin with, unless there is one in
            `work`.
        photographs: add the loss on features, which needs ImageNet weights (`imagenet.weights`).
    """
    where = training.pick_device(device)
    seed = parallel.own_seed(seed)
    torch.manual_seed(seed)
    batches = Batches(data, clip_folder, where, seed, styles, workers)
    unet = new_unet()
    if start is not None:
        start_from(start, unet)
    to_train(unet, where)
    forward = torch.compile(unet) if compiled else unet
    compare = Likeness().to(where, memory_format=torch.channels_last) if photographs else None

    def loss_of(step: int) -> Tensor:
        clean, states, pooled = batches.draw(batch, step)
        noise, timesteps = torch.randn_like(clean), draw_timesteps(batch, where)
        noisy, timesteps, alpha, sigma = batches.noised(clean, noise, timesteps)
        with torch.autocast(where.type, dtype=torch.bfloat16):
            predicted = forward(noisy, timesteps, states, class_labels=pooled, return_dict=False)[0]
        drawn = image(noisy, predicted.float(), alpha, sigma)
        loss = pseudo_huber(drawn - clean).mean()
        if compare is not None:
            loss = loss + LIKENESS * compare(pixels(drawn), pixels(clean)).mean()
        return loss

    return training.train(
        unet,
        loss_of,
        work / "denoiser.pt",
        steps=steps,
        minutes=minutes,
        learning_rate=learning_rate,
        muon=True,
        decay=0.999,
        save_every=save_every,
        report=lambda: batches.held_out_loss(unet),
    )
