"""Shared by the tests that run the embedded model: loaded once per test process, on the CPU."""

import functools
from contextlib import contextmanager

import torch
from torch import Tensor

from qsched import load_backbone
from qsched.models.base import Backbone
from qsched.presets import Preset
from qsched.quiet import quiet
from qsched.sampling.coefficients import Coefficients
from qsched.surfaces.surface import Surface

PROMPTS = ["red apple, glossy style", "fox, flat style", "pizza, classic style"]


@functools.cache
def embedded() -> Backbone:
    """The backbone that ships with the app."""
    quiet()  # loading imports what warns, and some tests read stderr
    return load_backbone("emoji-lcm", device="cpu")


@contextmanager
def counted(backbone: Backbone):
    """Counts denoiser evaluations inside the block: .calls of any denoiser, .full of the
    full-precision one.
    """

    class Count:
        calls = full = 0

    count, before = Count(), backbone.calls

    def seen(module, args):
        if module is backbone.denoiser:  # a quantized copy that is made meanwhile has copied this hook
            count.full += len(args[0])

    hook = backbone.denoiser.register_forward_pre_hook(seen)
    try:
        yield count
    finally:
        hook.remove()
        count.calls = backbone.calls - before


def make_preset(**changes) -> Preset:
    """A small preset for the embedded model."""
    fields = dict(
        backbone="emoji-lcm",
        revision=embedded().revision,
        bits="w4a8",
        steps=2,
        shape="ramp",
        coefficients=Coefficients.ramp(1.1, 0.9),
        surface=Surface(
            (0.9, 1.1), (0.9, 1.1), [[[20.0], [21.0]], [[22.0], [23.0]]], [[[0.1], [0.2]], [[0.3], [0.4]]]
        ),
        prompts=["penguin, classic style"],
        provenance={"seeds": [0]},
    )
    return Preset(**(fields | changes))


def grey_levels(one: Tensor, other: Tensor) -> Tensor:
    """Differences of images in [0, 1] as 8-bit grey levels."""
    return ((one * 255).round() - (other * 255).round()).abs()


def drift(one: Tensor, other: Tensor) -> float:
    """Mean difference in grey levels. Quantized runs of other batch sizes drift by about one: a float sum
    that differs in its last bit can move a rounded activation by a whole step."""
    return float((one - other).abs().mean()) * 255


def jumps(one: Tensor, other: Tensor) -> float:
    """Share of the channel values that differ by more than one grey level."""
    return float((grey_levels(one, other) > 1).float().mean())


def stock_image(backbone: Backbone, prompt: str, steps: int, seed: int) -> Tensor:
    """One image the way diffusers' LatentConsistencyModelPipeline makes it, written out:

    (1, 3, H, W) in [0, 1].
    """
    scheduler = type(backbone.scheduler).from_config(backbone.scheduler.config)
    generator = torch.manual_seed(seed)
    condition = backbone.encode([prompt])
    scheduler.set_timesteps(steps)
    latents = torch.randn((1, *backbone.latent_shape), generator=generator) * scheduler.init_noise_sigma
    with torch.inference_mode():
        for t in scheduler.timesteps:
            noise = backbone.denoiser(
                latents,
                t,
                encoder_hidden_states=condition.embeds,
                class_labels=condition.pooled,
                return_dict=False,
            )[0]
            latents, denoised = scheduler.step(noise, t, latents, generator=generator, return_dict=False)
    return backbone.decode(denoised)
