"""A tiny random latent model of the embedded family, saved by diffusers, for tests of what runs one."""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny, LCMScheduler, UNet2DConditionModel

from qsched.models.registry import ASSETS

LATENT_CHANNELS, SIDE, FACTOR, TEXT_WIDTH = 8, 8, 4, 256


def write_latent_model(folder: Path, **changes) -> Path:
    """A folder emoji-latent of 32 px images with the shipped emoji-clip beside it; returns it.

    Args:
        changes: of the autoencoder's config.
    """
    torch.manual_seed(0)
    widths = (16, 16, 16)
    model = folder / "emoji-latent"
    UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=TEXT_WIDTH,
    ).save_pretrained(model / "unet")
    autoencoder = {
        "latent_channels": LATENT_CHANNELS,
        "encoder_block_out_channels": widths,
        "decoder_block_out_channels": widths,
        "num_encoder_blocks": (1, 1, 1),
        "num_decoder_blocks": (1, 1, 1),
        "scaling_factor": 0.8,
    }
    AutoencoderTiny(**autoencoder | changes).save_pretrained(model / "vae")
    LCMScheduler(clip_sample=False, set_alpha_to_one=True).save_pretrained(model / "scheduler")
    if not (folder / "emoji-clip").exists():
        (folder / "emoji-clip").symlink_to(ASSETS / "emoji-clip", target_is_directory=True)
    return model
