"""Write trained weights as the folders that the app loads, and a sheet of sample images to look at."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from qsched.embedded.denoiser import unet as denoiser
from qsched.embedded.denoiser.latent import new_autoencoder, new_latent_unet
from qsched.embedded.report import draw
from qsched.models.base import Backbone

COLUMNS, ZOOM = 8, 2
"""Of the sheet: images in a row, and how much larger they are shown."""


def export_denoiser(weights: dict[str, Tensor], folder: Path) -> None:
    """Save the weights as fp16 in diffusers' layout: unet/ and scheduler/."""
    unet = denoiser.new_unet()
    unet.load_state_dict(weights)
    unet.half().save_pretrained(folder / "unet")
    denoiser.new_scheduler().save_pretrained(folder / "scheduler")


def export_latent(
    denoiser_weights: dict[str, Tensor],
    autoencoder_weights: dict[str, Tensor],
    scaling_factor: float,
    folder: Path,
    clip_folder: Path,
) -> None:
    """Save a latent model as fp16 in diffusers' layout: unet/, vae/ and scheduler/, with a copy of the tiny
    CLIP beside the folder unless there is one.

    Args:
        scaling_factor: what the autoencoder's latents are multiplied with to have unit variance.
    """
    unet = new_latent_unet()
    unet.load_state_dict(denoiser_weights)
    unet.half().save_pretrained(folder / "unet")
    autoencoder = new_autoencoder(len(autoencoder_weights["decoder.layers.0.weight"]), scaling_factor)
    autoencoder.load_state_dict(autoencoder_weights)
    autoencoder.half().save_pretrained(folder / "vae")
    denoiser.new_scheduler().save_pretrained(folder / "scheduler")
    beside = folder.parent / "emoji-clip"
    if not beside.exists():
        shutil.copytree(clip_folder, beside)


def sheet_prompts(concepts: Sequence[str], styles: Sequence[str], count: int = 48) -> list[str]:
    """Prompts spread evenly over the concepts, the styles taking turns."""
    stride = len(concepts) / count
    return [f"{concepts[int(i * stride)]}, {styles[i % len(styles)]} style" for i in range(count)]


def sample_sheet(backbone: Backbone, prompts: Sequence[str], path: Path, steps: int) -> None:
    """Draw every prompt once, from seed 0, and write a captioned contact sheet, in the format that the name
    ends in.
    """
    images = draw(backbone, prompts, steps, 0)
    side, caption = backbone.spec.size * ZOOM, 16
    sheet = Image.new(
        "RGB", (COLUMNS * (side + 4), math.ceil(len(prompts) / COLUMNS) * (side + caption + 4)), "white"
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    for index, (prompt, image) in enumerate(zip(prompts, images, strict=True)):
        x, y = index % COLUMNS * (side + 4), index // COLUMNS * (side + caption + 4)
        tile = Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype("uint8"))
        sheet.paste(tile.resize((side, side), Image.Resampling.BICUBIC), (x + 2, y + 2))
        while font.getlength(prompt) > side:
            prompt = prompt[:-2].rstrip(" ,") + "…"
        pen.text((x + 4, y + side + 3), prompt, fill="black", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True, quality=95)
