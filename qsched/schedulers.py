"""Q-Sched as drop-in diffusers schedulers: two multiplications in front of the stock step.

    x_{i+1} = Phi_i(c_x[i] * x_i, c_eps[i] * E_Q(x_i, t_i))        (arXiv 2509.01624)

Phi_i is a stock diffusers scheduler, called and not copied. The coefficients live in the scheduler's config,
so they are saved, loaded and pushed with it:

    pipe.scheduler = QSchedTCDScheduler.from_config(pipe.scheduler.config, c_x=[1.07, 1.0], c_eps=[0.92, 1.0])

This file needs only torch and diffusers: copy it into any project.

Which coefficient belongs to which step: entry i goes with entry i of the timesteps that `set_timesteps`
makes, that is, with a noise level, just as diffusers indexes its own sigmas. A run that begins later
(`begin_index`, image-to-image with a `strength`, timesteps that were cut or set by hand) takes for each of
its timesteps the coefficient of that place; a timestep between two places gets what lies between theirs.

A scheduler is saved with a copy of this file, so that a pipeline that was saved with it loads anywhere,
without this project, by `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`.
"""

import functools
import inspect
import os
import shutil
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    SchedulerMixin,
    TCDScheduler,
)
from torch import Tensor


def validate(value: float | Sequence[float] | Tensor, name: str = "c_x") -> float | list[float] | Tensor:
    """Check a coefficient before the number of steps is known.

    Args:
        value: a number, a sequence of numbers, or a tensor of shape (steps,) or (steps, batch).
        name: what to call it in an error, "c_x" or "c_eps".
    Returns:
        A float, a list of floats (both fit for JSON) or, for a tensor, a float32 tensor on the CPU.
    Raises:
        ValueError: for anything else, and unless every number is finite and greater than 0 in float32.
    """
    if isinstance(value, Tensor) and value.ndim:
        if value.ndim > 2:
            raise ValueError(
                f"{name} must have the shape (steps,) or (steps, batch), not {tuple(value.shape)}."
            )
        value = value.detach().to("cpu", torch.float32, copy=True)
        _check_range(value, name)
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        numbers = [_number(item, name) for item in value]
        _check_range(torch.tensor(numbers, dtype=torch.float32), name)
        return numbers
    number = _number(value, name)
    _check_range(torch.tensor([number], dtype=torch.float32), name)
    return number


def _number(value: Any, name: str) -> float:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} must be a number or a list of numbers, but {value!r} is neither.")
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _check_range(values: Tensor, name: str) -> None:
    if values.numel() == 0:
        raise ValueError(
            f"{name} is empty: give one number, two numbers (first and last step) or one per step."
        )
    bad = values[~(torch.isfinite(values) & (values > 0))]
    if bad.numel():
        raise ValueError(f"{name} must be finite and greater than 0, but it holds {bad[0].item():g}.")


def expand(value: float | Sequence[float] | Tensor, steps: int, name: str = "c_x") -> Tensor:
    """One coefficient per step.

    Args:
        value: a number (the same at every step), two numbers (a straight line from the first step to the
            last; with one step only the first counts), `steps` numbers, or a tensor of shape (steps,) or
            (steps, batch).
        steps: the number of steps of the schedule, at least 1.
        name: what to call it in an error, "c_x" or "c_eps".
    Returns:
        float32 tensor on the CPU, of shape (steps,), or (steps, batch) for such a tensor.
    Raises:
        ValueError: if the value is not valid (see `validate`) or does not fit the number of steps.
    """
    if steps < 1:
        raise ValueError(f"{name} cannot be spread over {steps} steps: at least 1 is needed.")
    value = validate(value, name)
    if isinstance(value, float):
        return torch.full((steps,), value, dtype=torch.float32)
    if isinstance(value, Tensor):
        if len(value) != steps:
            raise ValueError(f"{name} has {len(value)} rows, but the schedule has {_counted(steps)}.")
        return value
    if len(value) == 2:
        return torch.linspace(*value, steps, dtype=torch.float64).to(torch.float32)
    if len(value) != steps:
        raise ValueError(
            f"{name} has {len(value)} value{'s' * (len(value) > 1)}, but the schedule has {_counted(steps)}: "
            f"give one number, two numbers (first and last step) or one per step."
        )
    return torch.tensor(value, dtype=torch.float64).to(torch.float32)


def _counted(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


def between(values: Tensor, place: float) -> Tensor:
    """The entry at a place, a straight line between two entries: (steps, ...) -> (...)."""
    first = int(place)
    return values[first] if first == place else torch.lerp(values[first], values[first + 1], place - first)


def scale(tensor: Tensor, coefficient: Tensor, name: str = "c_x") -> Tensor:
    """Multiply a batch by one coefficient, or by one per sample.

    The product is taken in float32 at least and rounded once, so half precision does not round the
    coefficient itself (bfloat16 knows nothing between 1 and 1.0078) and a sample's result does not depend on
    its batch.

    Args:
        tensor: (batch, ...), for example (batch, channels, height, width) or (batch, tokens, channels).
        coefficient: float32 on the CPU, shape () or (batch,).
    Returns:
        Same shape, dtype and device as `tensor`; `tensor` itself if every coefficient is 1.
    Raises:
        ValueError: if there are several coefficients and not one per sample.
    """
    if bool((coefficient == 1).all()):
        return tensor
    if coefficient.ndim and len(coefficient) not in (1, len(tensor)):
        raise ValueError(f"{name} has {len(coefficient)} columns, but the batch has {len(tensor)} samples.")
    coefficient = coefficient.to(tensor.device).reshape(-1, *[1] * (tensor.ndim - 1))
    return (tensor * coefficient).to(tensor.dtype)


MODULE = "schedulers"
"""Under this name a saved pipeline finds the copy of this file beside the scheduler's config."""


class QSchedMixin:
    """Adds c_x and c_eps to a stock scheduler: `class MyQSched(QSchedMixin, StockScheduler)`.

    The stock class needs diffusers' step-index life-cycle (`timesteps`, `step_index`, `_init_step_index`).

    Args:
        c_x: factor of the noisy sample; a number, two numbers (a straight line from the first step to the
            last, drawn anew for every step count) or one number per step. At 1 the scheduler is the stock
            one, bit for bit.
        c_eps: factor of the prediction, likewise.
    Raises:
        ValueError: if a coefficient is not valid; from `set_timesteps` and `step` if it does not fit the step
            count.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the forwarding methods the stock signatures: diffusers decides by `inspect.signature` what to
        pass.
        """
        super().__init_subclass__(**kwargs)
        if QSchedMixin not in cls.__bases__:
            return
        for name in ("__init__", "set_timesteps", "step"):
            method = _with_signature_of(getattr(super(), name), getattr(QSchedMixin, name))
            setattr(cls, name, method)

    def __init__(
        self,
        *args: Any,
        c_x: float | Sequence[float] = 1.0,
        c_eps: float | Sequence[float] = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.__module__ = MODULE  # on the object: what a pipeline notes in its model_index.json
        self._path: Tensor | None = None
        # diffusers leaves out, when it loads a config, what a decorated __init__ noted as "not passed"; the
        # coefficients are registered here, so they count as chosen even where they were left at 1.
        self.register_to_config(c_x=1.0, c_eps=1.0)
        self.set_coefficients(c_x, c_eps)

    def set_coefficients(
        self, c_x: float | Sequence[float] | Tensor, c_eps: float | Sequence[float] | Tensor
    ) -> None:
        """Replace both coefficients; takes effect at the next step.

        Args:
            c_x: a number or a sequence goes into the config. A tensor of shape (steps,), or (steps, batch)
                with one column per sample, is used until the next call and never saved: the config keeps its
                last value.
            c_eps: likewise.
        Raises:
            ValueError: if either is not valid; then neither changes.
        """
        values = {"c_x": validate(c_x, "c_x"), "c_eps": validate(c_eps, "c_eps")}
        self._run_time = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        self.register_to_config(
            **{name: value for name, value in values.items() if name not in self._run_time}
        )

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """The stock `set_timesteps`; then check that the coefficients fit the step count.

        Raises:
            ValueError: if a per-step coefficient has another length.
        """
        stock = super().set_timesteps
        stock(*args, **kwargs)
        self._path = self.timesteps
        given = inspect.signature(stock).bind(*args, **kwargs)
        # LCM and TCD: the same number of steps, from a later start
        if given.arguments.get("strength", 1.0) != 1.0:
            given.arguments["strength"] = 1.0
            stock(*given.args, **given.kwargs)
            self._path = self.timesteps
            stock(*args, **kwargs)
        for name in ("c_x", "c_eps"):
            self._expanded(name)

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """The stock `save_pretrained`, with a copy of this file beside the config."""
        if not os.path.isfile(save_directory):  # the stock method knows best what to say
            os.makedirs(save_directory, exist_ok=True)
            shutil.copyfile(__file__, os.path.join(save_directory, f"{MODULE}.py"))
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """One Q-Sched step: scale prediction and sample, then the stock step (arXiv 2509.01624).

        Args:
            model_output: E_Q(x_t, t), shape (batch, channels, height, width) or (batch, tokens, channels).
            timestep: one of `self.timesteps`.
            sample: x_t, same shape.
        Raises:
            ValueError: if the coefficients do not fit the step count or the batch.
        """
        if self.step_index is None:
            try:
                self._init_step_index(timestep)
            except IndexError:  # not a timestep of this schedule; the stock step knows best what to say
                return super().step(model_output, timestep, sample, *args, **kwargs)
        model_output, sample = self.rescaled(model_output, sample, self._place())
        return super().step(model_output, timestep, sample, *args, **kwargs)

    def rescaled(self, model_output: Tensor, sample: Tensor, place: float) -> tuple[Tensor, Tensor]:
        """c_eps times the prediction and c_x times the sample, at a place on the path of timesteps."""
        return (
            scale(model_output, between(self._expanded("c_eps"), place), "c_eps"),
            scale(sample, between(self._expanded("c_x"), place), "c_x"),
        )

    def _expanded(self, name: str) -> Tensor:
        # Never stored: a ramp that is drawn anew cannot outlive a change of the step count.
        path = self.timesteps if self._path is None else self._path
        return expand(self._run_time.get(name, self.config[name]), len(path), name)

    def _place(self) -> float:
        """Where the present timestep lies on the path, as an index; the last one for a step after the end."""
        index = min(self.step_index, len(self.timesteps) - 1)
        if self._path is None or self._path is self.timesteps:
            return index
        path, timestep = self._path.tolist(), self.timesteps[index].item()
        later = sum(entry > timestep for entry in path)  # paths descend
        if later == len(path):
            return later - 1
        if later == 0 or path[later] == timestep:
            return later
        return later - 1 + (path[later - 1] - timestep) / (path[later - 1] - path[later])


def _with_signature_of(stock: Any, forward: Any) -> Any:
    """`forward` with the signature of `stock` plus its own keyword-only parameters (c_x, c_eps)."""

    @functools.wraps(forward)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs)

    own = [p for p in inspect.signature(forward).parameters.values() if p.kind is p.KEYWORD_ONLY]
    signature = inspect.signature(stock)
    method.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *own])
    return method


class QSchedLCMScheduler(QSchedMixin, LCMScheduler):
    """diffusers' LCMScheduler with c_x and c_eps (LCM)."""


class QSchedTCDScheduler(QSchedMixin, TCDScheduler):
    """diffusers' TCDScheduler with c_x and c_eps (PCM, TCD)."""


class QSchedEulerAncestralDiscreteScheduler(QSchedMixin, EulerAncestralDiscreteScheduler):
    """diffusers' EulerAncestralDiscreteScheduler with c_x and c_eps (SDXL-Turbo)."""


class QSchedFlowMatchEulerDiscreteScheduler(QSchedMixin, FlowMatchEulerDiscreteScheduler):
    """diffusers' FlowMatchEulerDiscreteScheduler with c_x and c_eps (FLUX.1-schnell)."""


TWINS: dict[type, type] = {
    LCMScheduler: QSchedLCMScheduler,
    TCDScheduler: QSchedTCDScheduler,
    EulerAncestralDiscreteScheduler: QSchedEulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler: QSchedFlowMatchEulerDiscreteScheduler,
}
"""Stock scheduler class -> its Q-Sched twin."""


def with_coefficients(
    scheduler: SchedulerMixin,
    c_x: float | Sequence[float] | Tensor = 1.0,
    c_eps: float | Sequence[float] | Tensor = 1.0,
) -> SchedulerMixin:
    """The Q-Sched twin of a scheduler: a new object with the same config and these coefficients.

    Args:
        scheduler: one of the four stock schedulers (the class itself, not a subclass, whose own step would be
            lost), or one that has coefficients already, which are replaced.
        c_x: as for `QSchedMixin.set_coefficients`.
        c_eps: likewise.
    Raises:
        TypeError: if there is no twin; the message lists the supported schedulers.
        ValueError: if a coefficient is not valid.
    """
    kind = type(scheduler)
    # a saved pipeline brings classes of its own copy
    again = {twin.__name__: twin for twin in TWINS.values()}
    twin = kind if isinstance(scheduler, QSchedMixin) else TWINS.get(kind) or again.get(kind.__name__)
    if twin is None:
        supported = ", ".join(stock.__name__ for stock in TWINS)
        raise TypeError(f"{type(scheduler).__name__} has no Q-Sched twin; supported are {supported}.")
    return twin.from_config(scheduler.config, c_x=c_x, c_eps=c_eps)
