"""Shared by the scheduler tests: the four stock families, a stand-in denoiser, one run, the expected
coefficients.
"""

import numpy as np
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    TCDScheduler,
)

from qsched import schedulers

# Stock class and the settings of the models that are run with it (LCM, PCM, SDXL-Turbo, FLUX.1-schnell).
FAMILIES = {
    "lcm": (LCMScheduler, {}),
    "tcd": (TCDScheduler, {"clip_sample": True}),
    "euler-ancestral": (EulerAncestralDiscreteScheduler, {"timestep_spacing": "trailing"}),
    "flow-match": (FlowMatchEulerDiscreteScheduler, {"shift": 3.0}),
}
SHAPE = (3, 4, 8, 8)


def make(family, **settings):
    """A stock scheduler of one family."""
    scheduler_class, defaults = FAMILIES[family]
    return scheduler_class(**{**defaults, **settings})


def twin_class(stock):
    """The Q-Sched class that belongs to a stock scheduler, by name."""
    return getattr(schedulers, f"QSched{type(stock).__name__}")


def model(x, t):
    """A stand-in for the denoiser: a fixed function of sample and timestep, each sample on its own."""
    return torch.sin(2 * x + float(t) / 500) + 0.3 * x.roll(1, dims=-1)


def trajectory(scheduler, steps, rows=None, first=0, begin=None, dtype=torch.float32, shape=SHAPE):
    """Every latent of one run; with `rows`, a (c_x, c_eps) per step, the scaling happens here.

    `first` leaves out the steps before it, as image-to-image does; `begin` is what the pipeline then
    announces.
    """
    scheduler.set_timesteps(steps)
    if begin is not None:
        scheduler.set_begin_index(begin)
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    latents = []
    for index, t in list(enumerate(scheduler.timesteps))[first:]:
        has_input_scale = hasattr(scheduler, "scale_model_input")
        prediction = model(scheduler.scale_model_input(x, t) if has_input_scale else x, t)
        if rows is not None:
            x, prediction = rows[index][0] * x, rows[index][1] * prediction
        x = scheduler.step(prediction, t, x, generator=generator, return_dict=False)[0].to(dtype)
        latents.append(x)
    return latents


def assert_same(left, right):
    """Two runs are equal bit for bit."""
    assert len(left) == len(right) > 0
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def rows(c_x, c_eps, steps):
    """The expected coefficients of each step, worked out without the code under test."""

    def spread(value):
        if isinstance(value, float):
            return [value] * steps
        return np.linspace(*value, steps).tolist() if len(value) == 2 else value

    return list(zip(spread(c_x), spread(c_eps), strict=True))
