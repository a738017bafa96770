"""A bank of encoded scenes on disk, so that training the latent denoiser only trains: nothing is drawn,
composed or encoded in its steps, but the captions' tokens go through the (small) text tower.

latents.npy, tokens.npy and styled.npy are memory-mapped, with one row a scene. bank.json is written after
every part: a bank that was killed while it was made goes on where it was. Its scaling factor, which brings
latents to unit variance, is that of the first part.
"""

import json
import os
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.lib.format import open_memmap
from torch import Tensor
from tqdm import tqdm

from qsched.embedded.data import dataset
from qsched.embedded.data.scenes import Scenes
from qsched.embedded.denoiser.autoencoder import load_trained
from qsched.embedded.denoiser.batches import MIX, Batch, Batches, drawn_styles, names_style
from qsched.embedded.denoiser.latent import CHANNELS, SIDE, new_latent_unet
from qsched.embedded.judges import clip
from qsched.embedded.training import loop as training
from qsched.models.base import hash_files

PART = 256
"""Scenes that are drawn and encoded together."""
MEMBERS = {"latents": np.float16, "tokens": np.int16, "styled": np.bool_}


def _revision(data: Path, clip_folder: Path, autoencoder: Path) -> dict[str, str]:
    """What a bank belongs to: hashes of data set, tokenizer and autoencoder."""
    files = {"data": data, "tokenizer": clip_folder / "tokenizer.json", "autoencoder": autoencoder}
    return {name: hash_files(path) for name, path in files.items()}


@torch.inference_mode()
def build(
    data: Path,
    clip_folder: Path,
    autoencoder_file: Path,
    folder: Path,
    *,
    count: int,
    seed: int = 0,
    device: str = "auto",
) -> dict:
    """Draw, encode and store so many scenes; returns what bank.json says.

    Args:
        autoencoder_file: its weights (`weights.read_weights`), as one file.
    Raises:
        FileNotFoundError: there is no autoencoder yet.
    """
    if not autoencoder_file.exists():
        raise FileNotFoundError(
            f"{autoencoder_file} is missing: run `python -m qsched.embedded autoencoder` first."
        )
    where, emoji = training.pick_device(device), dataset.load(data)
    autoencoder = load_trained(autoencoder_file)
    styles, revision = drawn_styles(emoji), _revision(data, clip_folder, autoencoder_file)
    info = {"count": count, "seed": seed, "revision": revision}
    tokenizer = clip.load_clip(clip_folder, emoji)[1]
    autoencoder.to(where, memory_format=torch.channels_last)
    scenes = Scenes(emoji, emoji.train_indices(styles, unseen=False), mix=MIX, seed=seed, where=where)
    folder.mkdir(parents=True, exist_ok=True)
    manifest, done = folder / "bank.json", 0
    if manifest.exists():
        before = json.loads(manifest.read_text())
        done, factor = before.pop("done"), before.pop("scaling_factor")
        done = done if before == info else 0
    shapes = {"latents": (CHANNELS, SIDE, SIDE), "tokens": (clip.CONTEXT_LENGTH,), "styled": ()}
    arrays = {
        name: open_memmap(
            folder / f"{name}.npy", "r+" if done else "w+", kind, (count, *shapes[name]) if not done else None
        )
        for name, kind in MEMBERS.items()
    }
    for begin in tqdm(range(done, count, PART), desc="bank", unit=f"x{PART} scenes", mininterval=5):
        rows = slice(begin, min(begin + PART, count))
        drawn = scenes.draw(rows.stop - begin, begin)
        images = (drawn.images * 2 - 1).contiguous(memory_format=torch.channels_last)
        with training.autocast(where):
            latents = autoencoder.encoder(images).float()
        if begin == 0:
            factor = 1 / float(latents.std())
        arrays["latents"][rows] = latents.half().cpu().numpy()
        arrays["tokens"][rows] = tokenizer(drawn.captions).numpy()
        arrays["styled"][rows] = names_style(drawn.captions, styles).numpy()
        for array in arrays.values():
            array.flush()
        _write(manifest, info | {"scaling_factor": factor, "done": rows.stop})
    return json.loads(manifest.read_text())


def _write(manifest: Path, info: dict) -> None:
    partial = manifest.with_suffix(".partial")
    partial.write_text(json.dumps(info, indent=1) + "\n")
    os.replace(partial, manifest)


class LatentBatches(Batches):
    """Scenes of a bank as latents of unit variance (count, 8, 16, 16).

    Args:
        folder: of the bank. autoencoder_file: the one that it was made with.
    Raises:
        FileNotFoundError: there is no finished bank.
        ValueError: it was made with another data set, tokenizer or autoencoder.
    """

    def __init__(
        self,
        data: Path,
        clip_folder: Path,
        where: torch.device,
        seed: int,
        folder: Path,
        autoencoder_file: Path,
    ):
        manifest = folder / "bank.json"
        info = json.loads(manifest.read_text()) if manifest.exists() else {"done": 0, "count": 1}
        if info["done"] < info["count"]:
            raise FileNotFoundError(
                f"There is no finished bank in {folder}: run `python -m qsched.embedded bank` first."
            )
        if info["revision"] != _revision(data, clip_folder, autoencoder_file):
            raise ValueError(f"{folder} was made with another data set, tokenizer or autoencoder.")
        super().__init__(data, clip_folder, where, seed)
        self.factor = info["scaling_factor"]
        self.latents, self.tokens, self.styled = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in MEMBERS
        )
        self.autoencoder = load_trained(autoencoder_file).to(where)

    def new_unet(self) -> UNet2DConditionModel:
        return new_latent_unet()

    @torch.no_grad()
    def to_latents(self, images: Tensor) -> Tensor:
        return self.autoencoder.encoder(images * 2 - 1) * self.factor

    def draw(self, count: int, step: int) -> Batch:
        rows = np.random.default_rng((self.seed, step)).integers(len(self.latents), size=count)
        latents, tokens, styled = (
            torch.from_numpy(array[rows]) for array in (self.latents, self.tokens, self.styled)
        )
        clean = latents.to(self.where).float().contiguous(memory_format=torch.channels_last) * self.factor
        return Batch(clean, *self.encode_tokens(tokens.long()), styled.to(self.where))
