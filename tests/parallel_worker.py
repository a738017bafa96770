"""One of several processes that train a line together, started by torchrun from test_embedded.py:
parallel_worker.py FOLDER.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from qsched.embedded.training import loop as training
from qsched.embedded.training import parallel


def halves():
    """Inputs (2, 32, 4), one half for each process."""
    return torch.randn(2, 32, 4, generator=torch.Generator().manual_seed(0))


def fit(inputs, folder):
    """Weights after ten steps on these inputs."""
    model = nn.Linear(4, 1)
    loss_of = lambda step: (model(inputs) - inputs.sum(-1, keepdim=True)).pow(2).mean()
    training.train(model, loss_of, folder / "x.pt", steps=10, learning_rate=0.1)
    return model.state_dict()


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), parallel.rank()
    torch.manual_seed(parallel.own_seed(0))
    torch.save(fit(halves()[rank], folder), folder / f"{rank}.pt")
