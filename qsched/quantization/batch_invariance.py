"""Make a quantized denoiser's images independent of the batch they are computed in, on the CPU.

Integer products are exact, and the layers in between treat every image alike. What differs is the kept float
layers: a matrix product of one or of a few rows adds up in another order than one of many, and a convolution
of one image in another than one of several. A last bit is enough to flip a rounding in the next layer, and
flips multiply: whole grey levels in the end. So these layers never see such sizes.
"""

import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 16
"""Rows of a matrix product come in multiples of this."""
IMAGES = 4
"""Fewest images of a convolution."""


class SteadyLinear(nn.Linear):
    """nn.Linear whose rows do not depend on how many there are."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features)."""
        if x.device.type != "cpu":
            return super().forward(x)
        rows = x.reshape(-1, x.shape[-1])
        padded = F.pad(rows, (0, 0, 0, -len(rows) % ROWS))
        return super().forward(padded)[: len(rows)].reshape(*x.shape[:-1], -1)


class SteadyConv2d(nn.Conv2d):
    """nn.Conv2d whose images do not depend on how many there are."""

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, in_channels, height, width) -> (batch, out_channels, ...)."""
        if x.device.type != "cpu" or len(x) >= IMAGES:
            return super().forward(x)
        return super().forward(F.pad(x, (0, 0, 0, 0, 0, 0, 0, IMAGES - len(x))))[: len(x)]


def make_batch_invariant(module: nn.Module) -> None:
    """Change the float Linear and Conv2d layers inside a module in place; weights and state_dict stay as they
    are.
    """
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = SteadyLinear
        elif type(layer) is nn.Conv2d:
            layer.__class__ = SteadyConv2d
