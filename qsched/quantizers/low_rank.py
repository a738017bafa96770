"""A packed layer with a small branch in full precision beside it (arXiv 2411.05007, SVDQuant).

    W diag(s) = L1 L2 + R,   y = L1 L2 (x / s) + Q(R) Q(x / s)

with L1 L2 the best approximation of rank r. What is rounded, weights and activations alike, is multiplied by
the smaller residual R. A convolution is the matrix (out, in * k * k): L2 is a convolution of the same kernel
into r channels, L1 a 1x1 convolution.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qsched.quantization import PackedLayer

OVERSAMPLING, ITERATIONS = 16, 6


class LowRankLayer(nn.Module):
    """residual(x * smooth) + up(down(x)): a Linear or Conv2d split into a packed residual and a branch of
    rank r.

    Args:
        layer: nn.Linear, or nn.Conv2d with groups = 1.
        rank: r, below the smaller side of the weight matrix.
        divisors: s, what the residual's input channels are divided by, shape (in channels,); None is 1 for
            all.
        pack: makes the packed layer from a float one of the same kind.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, divisors: Tensor | None,
                 pack: Callable[[nn.Module], PackedLayer]) -> None:  # fmt: skip
        super().__init__()
        weight = layer.weight.detach()
        shape, dtype, where = weight.shape, weight.dtype, weight.device
        s = torch.ones(shape[1], device=where) if divisors is None else divisors.to(where, torch.float32)
        s = s.view(-1, *[1] * (weight.dim() - 2))
        with torch.inference_mode(False), torch.no_grad():
            smoothed = weight.float() * s
            up, down = factors(smoothed.flatten(1), rank)
            # the residual is what the stored factors leave over, so that their own rounding costs nothing
            up, down = up.to(dtype).contiguous(), (down.view(rank, *shape[1:]) / s).to(dtype).contiguous()
            branch = (up.float() @ down.float().flatten(1)).view(shape)
            layer.weight = nn.Parameter(((weight.float() - branch) * s).to(dtype), requires_grad=False)
            self.residual = pack(layer)
            self.smooth = nn.Parameter((1 / s).to(dtype), requires_grad=False)
        if isinstance(layer, nn.Linear):
            self.down = nn.Linear(shape[1], rank, bias=False, device="meta")
            self.up = nn.Linear(rank, shape[0], bias=False, device="meta")
        else:
            self.down = nn.Conv2d(shape[1], rank, layer.kernel_size, layer.stride, layer.padding,
                layer.dilation,
                                  bias=False, padding_mode=layer.padding_mode, device="meta")  # fmt: skip
            self.up = nn.Conv2d(rank, shape[0], 1, bias=False, device="meta")
        self.down.weight = nn.Parameter(down, requires_grad=False)
        self.up.weight = nn.Parameter(up.view(self.up.weight.shape), requires_grad=False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """x as the original layer takes it; the output has its shape and the dtype of x."""
        return self.residual(x * self.smooth) + self.up(self.down(x))

    def extra_repr(self) -> str:
        return f"rank={len(self.down.weight)}"


def factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """up (rows, rank) and down (rank, columns), whose product is the best approximation of this rank to a
    float32 matrix.

    Subspace iteration (Halko et al. 2011, algorithm 4.4) from a fixed start: a full decomposition of the
    widest layers of SDXL takes minutes on a CPU, this takes a second and is as good to some per mille.
    """
    columns = min(rank + OVERSAMPLING, *matrix.shape)
    start = torch.randn(matrix.shape[1], columns, generator=torch.Generator().manual_seed(0)).to(
        matrix.device
    )
    basis = torch.linalg.qr(matrix @ start).Q
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    u, s, v = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return basis @ u[:, :rank] * root, root[:, None] * v[:rank]
