"""The few-step loop: encode once, denoise with a diffusers scheduler, decode; arranged so that work can be
shared.

The coefficients act after a prediction (x_{i+1} = Phi_i(c_x x_i, c_eps E_Q(x_i, t_i)), arXiv 2509.01624), so
the first prediction of a trajectory does not depend on them: it is computed once and handed to every
candidate as `first`. Start noise and step noise are drawn on the CPU with one generator per image, so that an
image depends neither on the device nor on the batch it was computed in.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from qsched.models.base import Backbone, Condition
from qsched.sampling.coefficients import Coefficients, stack
from qsched.sampling.estimates import clean_estimate
from qsched.schedulers import with_coefficients


def images_per_batch(device: torch.device) -> int:
    """A batch that wastes no device: large on an accelerator, small enough for a processor's cache on one."""
    return 16 if device.type == "cpu" else 64


@dataclass(frozen=True)
class Noise:
    """All randomness of a batch of trajectories: start (batch, C, H, W) and, per image, the state of the
    generator that draws the step noise.
    """

    start: Tensor
    states: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.start)

    def select(self, indices: Sequence[int]) -> "Noise":
        """The noise of these images, in this order, repeats allowed."""
        return Noise(self.start[list(indices)], tuple(self.states[i] for i in indices))

    @classmethod
    def join(cls, noises: Sequence["Noise"]) -> "Noise":
        """Several batches as one."""
        return cls(
            torch.cat([noise.start for noise in noises]),
            tuple(state for noise in noises for state in noise.states),
        )

    def generators(self) -> list[torch.Generator]:
        """Fresh generators, one per image: the same step noise is replayed each time they are asked for."""
        out = []
        for state in self.states:
            generator = torch.Generator("cpu")
            generator.set_state(state)
            out.append(generator)
        return out


def draw_noise(shape: tuple[int, int, int], seed: int, prompt_indices: Sequence[int]) -> Noise:
    """Start noise for each prompt index, seeded from (seed, index): index 0 uses the seed itself, so one
    prompt equals diffusers' `manual_seed(seed)`.
    """
    starts, states = [], []
    for index in prompt_indices:
        generator = torch.Generator("cpu").manual_seed((seed + index * 1_000_003) % 2**63)
        starts.append(torch.randn(shape, generator=generator))
        states.append(generator.get_state())
    return Noise(torch.stack(starts), tuple(states))


def prepare_scheduler(
    backbone: Backbone, steps: int, coefficients: Coefficients | Sequence[Coefficients] | None
) -> SchedulerMixin:
    """A fresh scheduler with its timesteps set; a sequence gives one set of coefficients per image of the
    batch.
    """
    scheduler = copy.deepcopy(backbone.scheduler)
    if coefficients is not None:
        single = isinstance(coefficients, Coefficients)
        scheduler = with_coefficients(
            scheduler, *((coefficients.c_x, coefficients.c_eps) if single else (1.0, 1.0))
        )
        if not single:
            scheduler.set_coefficients(*stack(list(coefficients), steps))
    backbone.set_timesteps(scheduler, steps)
    return scheduler


def start_latents(backbone: Backbone, scheduler: SchedulerMixin, noise: Noise) -> Tensor:
    """x_T (batch, C, H, W) on the backbone's device."""
    sigma = float(getattr(scheduler, "init_noise_sigma", 1.0))  # flow matching starts at the noise itself
    return (noise.start * sigma).to(backbone.device, backbone.dtype)


def scaled(scheduler: SchedulerMixin, latents: Tensor, timestep: Tensor) -> Tensor:
    """What the denoiser sees of x_t."""
    has_input_scale = hasattr(scheduler, "scale_model_input")
    return scheduler.scale_model_input(latents, timestep) if has_input_scale else latents


def decode(backbone: Backbone, latents: Tensor, tiny: bool = False) -> Tensor:
    """Latents (batch, C, H, W) to images (batch, 3, height, width) in [0, 1], by the full or the tiny
    decoder.
    """
    return backbone.decode(latents, tiny=True) if tiny else backbone.decode(latents)


@torch.inference_mode()
def first_prediction(
    backbone: Backbone, condition: Condition, noise: Noise, steps: int, denoiser: nn.Module | None = None
) -> Tensor:
    """E(x_T, t_0): the one call that all candidates share, (batch, C, H, W)."""
    scheduler = prepare_scheduler(backbone, steps, None)
    latents = start_latents(backbone, scheduler, noise)
    return backbone.predict(
        scaled(scheduler, latents, scheduler.timesteps[0]), scheduler.timesteps[0], condition, denoiser
    )


@torch.inference_mode()
def sample(
    backbone: Backbone,
    condition: Condition,
    noise: Noise,
    steps: int,
    coefficients: Coefficients | Sequence[Coefficients] | None = None,
    denoiser: nn.Module | None = None,
    first: Tensor | None = None,
    estimates: list[Tensor] | None = None,
) -> Tensor:
    """Run the trajectory and return the final latents (batch, C, H, W).

    Args:
        condition, noise: of the same batch size.
        coefficients: one for all, one per image, or None for the stock scheduler.
        denoiser: None for full precision.
        first: the prediction at the first step, if it is known; saves one call.
        estimates: a list that gets each step's estimate of x_0, (batch, C, H, W).
    """
    scheduler = prepare_scheduler(backbone, steps, coefficients)
    return denoise(
        backbone,
        condition,
        scheduler,
        start_latents(backbone, scheduler, noise),
        noise.generators(),
        denoiser,
        first,
        estimates=estimates,
    )


@torch.inference_mode()
def denoise(
    backbone: Backbone,
    condition: Condition,
    scheduler: SchedulerMixin,
    latents: Tensor,
    generators: list[torch.Generator],
    denoiser: nn.Module | None = None,
    prediction: Tensor | None = None,
    begin: int = 0,
    end: int | None = None,
    estimates: list[Tensor] | None = None,
) -> Tensor:
    """The steps begin to end (None = the last one) of a prepared scheduler: x_begin to x_end, both (batch, C,
    H, W).

    prediction: E(x_begin, t_begin), if it is known; saves one call. estimates: as for `sample`.
    """
    known = prediction

    def predict(index: int, latents: Tensor, seen: Tensor, timestep: Tensor) -> Tensor:
        nonlocal known
        found = backbone.predict(seen, timestep, condition, denoiser) if known is None else known
        known = None
        if estimates is not None:
            estimates.append(clean_estimate(scheduler, index, found, latents))
        return found

    return walk(backbone, scheduler, latents, generators, predict, begin, end)


def walk(
    backbone: Backbone,
    scheduler: SchedulerMixin,
    latents: Tensor,
    generators: list[torch.Generator],
    predict: Callable[[int, Tensor, Tensor, Tensor], Tensor],
    begin: int = 0,
    end: int | None = None,
) -> Tensor:
    """The loop itself: x_begin to x_end, both (batch, C, H, W), with a prepared scheduler.

    predict: gives the prediction (batch, C, H, W) for (index of the step, x_t, what the denoiser sees of it,
        timestep).
    """
    if begin:
        scheduler.set_begin_index(begin)
    options = {"generator": generators, "return_dict": False, **backbone.spec.step_options}
    for index, timestep in enumerate(scheduler.timesteps[begin:end], begin):
        prediction = predict(index, latents, scaled(scheduler, latents, timestep), timestep)
        latents = scheduler.step(prediction, timestep, latents, **options)[0]
    return latents
