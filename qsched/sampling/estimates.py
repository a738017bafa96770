"""What each step of a trajectory believes the finished image to be: the x_0 that its prediction implies."""

from diffusers import LCMScheduler, TCDScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from qsched.schedulers import QSchedMixin


def clean_estimate(scheduler: SchedulerMixin, index: int, prediction: Tensor, sample: Tensor) -> Tensor:
    """x_0 as step `index` of a scheduler sees it, with the coefficients of that step applied.

    Args:
        scheduler: one of the four stock schedulers or its Q-Sched twin, with its timesteps set.
        prediction, sample: E(x_t, t) and x_t, (batch, C, H, W).
    Returns:
        (batch, C, H, W).
    Raises:
        ValueError: a kind of prediction that no backbone here makes.
    """
    if isinstance(scheduler, QSchedMixin):
        prediction, sample = scheduler.rescaled(prediction, sample, index)
    if isinstance(scheduler, LCMScheduler | TCDScheduler):
        alpha = scheduler.alphas_cumprod[int(scheduler.timesteps[index])].sqrt().item()
        sigma = (1 - alpha**2) ** 0.5
    else:  # Euler and flow matching: x_t = x_0 + sigma * prediction
        alpha, sigma = 1.0, scheduler.sigmas[index].item()
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind != "epsilon":
        raise ValueError(f"The scheduler's prediction_type is {kind!r}; only 'epsilon' is known.")
    return (sample - sigma * prediction) / alpha
