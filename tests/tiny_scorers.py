"""Shared by the tests of the scorers: local folders of exactly the Hub's layout with tiny random models of
the same classes.
"""

import hashlib
import json
from pathlib import Path

import open_clip
import pytest
import torch
import torchvision
from fake_hub import FakeHub
from safetensors.torch import save_file

from qsched.scoring.loading import CLIP_B32, CLIP_L14, CLIP_RN50, HPS
from qsched.scoring.lpips import ALEXNET_FILE, CHANNELS, LINEAR

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
VIT = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": TEXT,
}
RN = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": TEXT,
}
PREPROCESS = {
    "mean": open_clip.OPENAI_DATASET_MEAN,
    "std": open_clip.OPENAI_DATASET_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def random_clip(config: dict, seed: int) -> open_clip.CLIP:
    """An open_clip model with random weights, turned so that images and texts lie on the same side (scores
    above 0).
    """
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config).eval().requires_grad_(False)
    cosine = model.encode_image(torch.rand(1, 3, 64, 64)) @ model.encode_text(open_clip.tokenize(["a fox"])).T
    model.text_projection.mul_(cosine.sign().item())
    return model


def random_lpips(seed: int = 0) -> tuple[dict, dict]:
    """AlexNet's weights without its classifier, and the five weightings, as the published files name them."""
    torch.manual_seed(seed)
    with torch.device("meta"):
        shapes = torchvision.models.alexnet(weights=None).features.state_dict(prefix="features.")
    trunk = {
        name: torch.randn(t.shape) * (2 / t[0].numel()) ** 0.5 for name, t in shapes.items() if t.ndim == 4
    }
    trunk |= {name: torch.zeros(t.shape) for name, t in shapes.items() if t.ndim == 1}
    return trunk, {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(CHANNELS)}


def write_scorers(folder: Path) -> Path:
    """All weights that any scorer needs, one folder per repository."""
    for seed, (weights, config) in enumerate(((CLIP_B32, VIT), (CLIP_L14, VIT), (CLIP_RN50, RN))):
        place = folder / weights.folder_name
        place.mkdir(parents=True)
        (place / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESS})
        )
        save_file(random_clip(config, seed).state_dict(), place / "open_clip_model.safetensors")
    for weights in (HPS, LINEAR):
        (folder / weights.folder_name).mkdir()
    (folder / "tiny-hps.json").write_text(json.dumps(VIT))
    state = {name: tensor.half() for name, tensor in random_clip(VIT, 9).state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, folder / HPS.folder_name / HPS.source.files[0])
    trunk, linear = random_lpips()
    torch.save(trunk, folder / LINEAR.folder_name / ALEXNET_FILE)
    torch.save(linear, folder / LINEAR.folder_name / LINEAR.source.files[0])
    return folder


def serve_scorers(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, cache: Path, folder: Path | None = None
) -> None:
    """Put all scorers' weights on a Hub of this machine, and AlexNet on the server it comes from; torch's
    cache is `cache`.

    folder: of `write_scorers`; None gives files that are no weights.
    """
    read = lambda place, name: (
        b"no weights " * 2000 if folder is None else (folder / place / name).read_bytes()
    )
    for weights in (CLIP_B32, CLIP_L14, CLIP_RN50, HPS, LINEAR):
        files = {name: read(weights.folder_name, name) for name in weights.source.files}
        hub.add(weights.source.repo, files | {"README.md": b""})
    trunk = read(LINEAR.folder_name, ALEXNET_FILE)
    name = f"alexnet-owt-{hashlib.sha256(trunk).hexdigest()[:8]}.pth"
    hub.add("torchvision/alexnet", {name: trunk})
    monkeypatch.setattr(
        "qsched.scoring.lpips.ALEXNET", f"{hub.address}/torchvision/alexnet/resolve/main/{name}"
    )
    monkeypatch.setattr("qsched.scoring.lpips.ALEXNET_FILE", name)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(cache))
