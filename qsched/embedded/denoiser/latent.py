"""The latent model's two networks: a tiny autoencoder (128 px to 8 x 16 x 16) and a denoiser on its latents.

No layer is started as an identity. In the pixel model such a layer carries x_t to the output, and quantizing
it made nearly all of the error.
"""

from diffusers import AutoencoderTiny, UNet2DConditionModel

CHANNELS = 8
SIDE = 16
WIDTHS, HEADS, NORM_GROUPS = (96, 160, 256), (3, 5, 8), 8
WIDTH = 48
"""Channels of the autoencoder: the decoder takes 21 ms an image on two CPU cores; with 64 channels, 30 ms."""


def new_latent_unet(text_width: int = 256) -> UNet2DConditionModel:
    """The denoiser, 20.3 M parameters, with cross-attention to the text at 8 x 8 and 4 x 4."""
    return UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=HEADS,
        norm_num_groups=NORM_GROUPS,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="projection",
        projection_class_embeddings_input_dim=text_width,
    )


def new_autoencoder(width: int = WIDTH, scaling_factor: float = 1.0) -> AutoencoderTiny:
    """The autoencoder, 0.95 M parameters at the default width.

    Args:
        scaling_factor: what brings its latents to unit variance; the denoiser works on latents times this.
    """
    return AutoencoderTiny(
        latent_channels=CHANNELS,
        encoder_block_out_channels=(width,) * 4,
        decoder_block_out_channels=(width,) * 4,
        num_encoder_blocks=(1, 1, 2, 2),
        num_decoder_blocks=(3, 2, 1, 1),
        scaling_factor=scaling_factor,
    )
