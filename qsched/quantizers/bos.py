"""The text's first token kept out of the activation quantizer (arXiv 2405.17873, BOS-aware quantization)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qsched.quantization import PackedLayer


class BosLinear(nn.Module):
    """A packed Linear on tokens whose first one is always the same: (batch, tokens, in) -> (batch, tokens,
    out).

    CLIP's text towers are causal, so that the state of the beginning-of-sequence token does not depend on the
    prompt, and it is some eighty times larger than the others. One activation scale over all tokens is then
    spent on a row that carries no information. Its output is a constant: it is computed once in full
    precision and put in front of what the packed layer makes of the other tokens.

    Args:
        packed: the layer for the other tokens.
        row: the constant output (out,); it is stored as any other weight.
    """

    def __init__(self, packed: PackedLayer, row: Tensor) -> None:
        super().__init__()
        self.rest = packed
        with torch.inference_mode(False):  # what is made in inference mode could not be loaded into
            self.row = nn.Parameter(row.detach().clone(), requires_grad=False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, tokens, in) with the constant token first."""
        row = self.row.to(x.dtype).expand(x.shape[0], 1, -1)
        return torch.cat([row, self.rest(x[:, 1:])], dim=1)


def constant_output(linear: nn.Linear, token: Tensor) -> Tensor:
    """The full-precision output (out,) of a Linear for one token (in,), in the layer's dtype."""
    weight, bias = linear.weight.detach(), linear.bias
    row = F.linear(
        token.to(weight.device, torch.float32), weight.float(), None if bias is None else bias.float()
    )
    return row.to(weight.dtype)
