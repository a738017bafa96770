"""What every training command shares: an averaged copy of the weights, a learning-rate curve, checkpoints
that survive a kill, a progress bar.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from tqdm import tqdm

from qsched.embedded.training import parallel
from qsched.embedded.training.optimiser import MuonAdamW

SUSPENDED = 5.0
"""A step counts for at most so many usual ones towards a time budget: in one that takes longer, the process
was asleep or starved.
"""


class Average:
    """Exponential moving average of a module's parameters, warmed up so that early steps do not linger."""

    def __init__(self, module: nn.Module, decay: float = 0.999):
        self.decay, self.steps = decay, 0
        self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's present weights."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        names = [n for n, v in self.weights.items() if v.is_floating_point()]
        state = module.state_dict()
        torch._foreach_lerp_([self.weights[n] for n in names], [state[n] for n in names], 1 - decay)


def cosine(step: int, steps: int, peak: float, done: float = 0.0, warm_up: int = 100) -> float:
    """Learning rate at a step: linear warm-up, then a half cosine down to 2 % of the peak.

    done: share of the time budget that is spent; counts where it is ahead of the share of the steps.
    """
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = min(1.0, max(done, (step - warm_up) / max(1, steps - warm_up)))
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def pick_device(name: str = "auto") -> torch.device:
    """ "auto" is CUDA when there is one, else the CPU."""
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def autocast(where: torch.device) -> torch.autocast:
    """bfloat16 where the device computes in it; CPUs without such instructions take eight times as long."""
    able = where.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(where.type, dtype=torch.bfloat16, enabled=able)


def save_checkpoint(path: Path, payload: dict) -> None:
    """Write atomically: a kill leaves the previous checkpoint whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(payload, partial)
    os.replace(partial, path)


def train(
    module: nn.Module,
    loss_of: Callable[[int], Tensor],
    checkpoint: Path,
    *,
    steps: int,
    learning_rate: float,
    minutes: float | None = None,
    weight_decay: float = 0.01,
    decay: float = 0.999,
    muon: bool = False,
    save_minutes: float = 10.0,
    seed: int | None = None,
    beside: nn.Module | None = None,
    report: Callable[[], dict[str, float]] | None = None,
) -> Average:
    """AdamW, or `MuonAdamW`, with a cosine learning rate, resumed from `checkpoint` when it exists; returns
    the averaged weights. Processes of `parallel` take their steps together.

    Beside the checkpoint, NAME.curve.jsonl gets one line per save: step, minutes, mean loss and what report()
    returns of the module with its averaged weights.

    Args:
        loss_of: one batch's loss, by step.
        steps: at most this many optimiser steps.
        minutes: at most this much time, earlier runs included; the learning rate then follows the clock where
            that is ahead of the steps.
        save_minutes: time between two checkpoints.
        seed: with the step, of PyTorch's random numbers, so that a resumed run draws what an uninterrupted
            one does.
        beside: another module that checkpoints hold and restore.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    parameters, options = [p for _, p in named], {"lr": learning_rate, "weight_decay": weight_decay}
    optimiser = (
        MuonAdamW(named, **options) if muon else AdamW(parameters, betas=(0.9, 0.98), fused=True, **options)
    )
    average, first, mean, curve, spent = Average(module, decay), 0, None, [], 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(state["module"])
        if beside is not None:
            beside.load_state_dict(state["beside"])
        optimiser.load_state_dict(state["optimiser"])
        average.weights = {
            name: value.to(average.weights[name].device) for name, value in state["average"].items()
        }
        average.steps, first, curve, spent = (
            state["step"],
            state["step"],
            state["curve"],
            state.get("minutes", 0.0),
        )
    parallel.join(module)
    leads, clock, usual, saved = parallel.rank() == 0, time.monotonic(), None, spent
    bar = tqdm(range(first, steps), initial=first, total=steps, unit="step", mininterval=5, disable=not leads)
    for step in bar:
        now = time.monotonic()
        took, clock = now - clock, now
        if step - first > 3:  # the first ones compile and start
            usual = took if usual is None else usual + 0.05 * (min(took, SUSPENDED * usual) - usual)
            took = min(took, SUSPENDED * usual)
        spent += took / 60
        done = 0.0 if minutes is None else min(1.0, spent / minutes)
        if seed is not None:
            torch.manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1)[0]))
        loss = loss_of(step)
        optimiser.zero_grad()
        loss.backward()
        done = parallel.agree(parameters, done)
        for group in optimiser.param_groups:
            group["lr"] = cosine(step, steps, learning_rate, done)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        average.update(module)
        mean = loss.detach() if mean is None else mean.lerp(loss.detach(), 0.02)
        last = step + 1 == steps or done >= 1
        if leads and (last or spent - saved >= save_minutes):
            saved = spent
            numbers = {}
            if report:
                with averaged(module, average):
                    numbers = report()
            curve.append(
                {"step": step + 1, "minutes": round(spent, 2), "loss": round(float(mean), 5)} | numbers
            )
            payload = {
                "module": module.state_dict(),
                "optimiser": optimiser.state_dict(),
                "average": average.weights,
                "beside": None if beside is None else beside.state_dict(),
            }
            save_checkpoint(checkpoint, payload | {"step": step + 1, "minutes": spent, "curve": curve})
            checkpoint.with_suffix(".curve.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in curve)
            )
            bar.set_postfix_str(" ".join(f"{k} {v:.3f}" for k, v in curve[-1].items() if k != "step"))
        if last:
            break
    return average


@contextmanager
def averaged(module: nn.Module, average: Average) -> Iterator[nn.Module]:
    """The module with its averaged weights and in evaluation mode, for as long as the block lasts."""
    own = {name: value.detach().clone() for name, value in module.state_dict().items()}
    module.load_state_dict(average.weights)
    module.eval()
    try:
        yield module
    finally:
        module.load_state_dict(own)
        module.train()
