"""Several processes that train one denoiser on different batches, their gradients averaged:

    torchrun --standalone --nproc-per-node 2 -m qsched.embedded denoiser ...      or distil

On a CPU, a process with one thread per core does more than one process with many threads (OMP_NUM_THREADS=1
is torchrun's default); with several GPUs each process takes its own. Without torchrun there is one process,
and nothing here does anything.
"""

import os
from collections.abc import Sequence

import torch
from torch import distributed, nn

APART = 1_000_003
"""Between the seeds of two processes, so that none repeats what another draws."""


def rank() -> int:
    """The number of this process among those that train together; 0 is the one that reports and saves."""
    return int(os.environ.get("RANK", 0))


def size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def own_seed(seed: int) -> int:
    """This process's seed."""
    return seed + APART * rank()


def join(module: nn.Module) -> None:
    """Meet the other processes, and give all of them the first one's weights."""
    if size() == 1:
        return
    if not distributed.is_initialized():
        cuda = next(module.parameters()).is_cuda
        distributed.init_process_group("nccl" if cuda else "gloo")
    for value in module.state_dict().values():
        distributed.broadcast(value, 0)


@torch.no_grad()
def agree(parameters: Sequence[nn.Parameter], done: float) -> float:
    """Average the gradients over the processes, and what each thinks is done of the time budget; returns the
    latter.
    """
    if size() == 1:
        return done
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), gradients[0].new_full((1,), done)])
    distributed.all_reduce(flat)
    *averaged, done = (flat / size()).split([*(gradient.numel() for gradient in gradients), 1])
    torch._foreach_copy_(gradients, [a.view_as(g) for a, g in zip(averaged, gradients, strict=True)])
    return float(done)
