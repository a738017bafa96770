"""What every training command shares: an averaged copy of the weights, a learning-rate curve, checkpoints that survive a kill, a progress bar."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm


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


def cosine(step: int, steps: int, peak: float, warm_up: int = 100) -> float:
    """Learning rate at a step: linear warm-up, then a half cosine down to 2 % of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def pick_device(name: str = "auto") -> torch.device:
    """ "auto" is CUDA when there is one, else the CPU."""
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)


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
    weight_decay: float = 0.01,
    decay: float = 0.999,
    save_every: int = 200,
    report: Callable[[int, float], str] | None = None,
) -> Average:
    """AdamW with a cosine learning rate, resumed from `checkpoint` when it exists; returns the averaged weights.

    loss_of(step) computes one batch's loss; report(step, mean loss) may add words to the progress bar at every save.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay)
    average, first, mean, curve = Average(module, decay), 0, None, []
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        average.weights = {name: value.to(average.weights[name].device) for name, value in state["average"].items()}
        average.steps, first, curve = state["step"], state["step"], state["curve"]
    bar = tqdm(range(first, steps), initial=first, total=steps, unit="step", mininterval=5)
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = cosine(step, steps, learning_rate)
        loss = loss_of(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        average.update(module)
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % save_every == 0 or step + 1 == steps:
            curve.append((step + 1, round(mean, 5)))
            save_checkpoint(
                checkpoint,
                {
                    "module": module.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "average": average.weights,
                    "step": step + 1,
                    "curve": curve,
                },
            )
            bar.set_postfix_str(f"loss {mean:.4f} {report(step + 1, mean) if report else ''}")
    return average
