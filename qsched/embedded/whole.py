"""All of it in one command with a time budget, made for an hour's loan of a GPU: damage, CLIP, observer,
teacher, student of the pixel model, one after the other.

Each stage gets its share of the minutes and resumes from its checkpoints, so a second call with more minutes
goes on where the first one ended.
"""

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from qsched.embedded.data import dataset
from qsched.embedded.denoiser import distil, teacher
from qsched.embedded.denoiser.batches import STYLES, PixelBatches
from qsched.embedded.judges import clip_training, damage, observer
from qsched.embedded.training import loop as training
from qsched.embedded.training.weights import split_file

SHARES = {"clip": 0.3, "observer": 0.08, "denoiser": 0.42, "distil": 0.2}
"""Of the minutes."""
GPU_BATCHES = {"clip": 1024, "observer": 1024, "denoiser": 512, "distil": 512}
CPU_BATCHES = {"clip": 256, "observer": 256, "denoiser": 64, "distil": 64}


def run(
    work: Path,
    clip_folder: Path,
    model: Path,
    minutes: float,
    *,
    device: str = "auto",
    steps: int = 10**6,
    batch: int | None = None,
    prompts: int = 320,
    seed: int = 0,
    photographs: bool = False,
) -> dict[str, Any]:
    """Run every stage; `work` holds emoji.npz and gets the checkpoints, `clip_folder` the CLIP.

    Args:
        model: diffusers folder of an earlier model: it draws the damage and the teacher begins with its
            weights; a folder emoji-clip beside it starts the CLIP.
        steps: at most so many per stage. batch: None takes what suits the device. prompts: for the damage.
        photographs: begin the CLIP's image tower with ImageNet weights, and let the denoiser learn from their
            features too.
    Returns:
        The CLIP's and the observer's measures and the last line of each denoiser's curve.
    """
    data, gpu = work / "emoji.npz", training.pick_device(device).type == "cuda"
    if not (work / "damage.npz").exists():
        from qsched.load import load_backbone

        backbone = load_backbone("emoji-lcm", device=device, source=str(model))
        asked = damage.known_prompts(dataset.load(data), damage.GROUPS, STYLES, prompts)
        damage.save(damage.make(backbone, asked), work / "damage.npz")

    def options(stage: str) -> dict[str, Any]:
        return {
            "steps": steps,
            "minutes": minutes * SHARES[stage],
            "batch": batch or (GPU_BATCHES if gpu else CPU_BATCHES)[stage],
        }

    workers = max(1, (os.cpu_count() or 2) - 2) if gpu else 0
    judged = {"device": device, "workers": workers}

    before = model.parent / "emoji-clip"
    begin = {"start": before} if before.is_dir() else {}
    learn = {"compiled": gpu or steps > 1000, "photographs": photographs}
    out = {
        "clip": clip_training.train_clip(
            data, clip_folder, work, seed=seed, **begin, **learn, **judged, **options("clip")
        ),
        "observer": observer.train_observer(data, work, **judged, **options("observer")),
    }
    where, file = training.pick_device(device), work / "denoiser.pt"
    batches = [PixelBatches(data, clip_folder, where, seed + i, STYLES, workers) for i in range(2)]
    teacher.train_denoiser(batches[0], file, start=model, **learn, **options("denoiser"))
    compiled = learn["compiled"]
    distil.distil(batches[1], file, work / "student.pt", compiled=compiled, **options("distil"))
    for name in ("denoiser", "student"):
        out[name] = torch.load(work / f"{name}.pt", map_location="cpu", weights_only=True)["curve"][-1]
    return out


def copy_weights(work: Path, folder: Path) -> list[Path]:
    """The averaged weights of teacher and student as fp16, in parts of at most PART bytes; returns the files.

    `cat` joins the parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in ("denoiser", "student"):
        average = torch.load(work / f"{name}.pt", map_location="cpu", weights_only=True)["average"]
        half = {n: v.half().contiguous() if v.is_floating_point() else v for n, v in average.items()}
        path = folder / f"{name}.safetensors"
        save_file(half, path)
        files += split_file(path)
    return files
