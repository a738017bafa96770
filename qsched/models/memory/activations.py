"""How much memory a forward pass needs besides the weights, found by running it on the meta device.

A tensor on the meta device has a shape and no memory, but its life is real: it is made, used and dropped in
the same order as on a GPU. Adding up the bytes of those alive gives the peak in a second, without the machine
that would run it. Attention is counted as the fused kernels do it, which never hold the matrix of all pairs.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_activation_bytes(module: nn.Module, run: Callable[[], Any]) -> int:
    """The most bytes that tensors made by `run` hold at one time; the module's own weights are not counted.

    Args:
        module: on the meta device.
        run: calls the module, without arguments; its inputs must be on the meta device, too.
    """
    own = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    with torch.no_grad(), _FusedAttention(), _Alive(own) as alive:
        run()
    return alive.peak


class _Alive(TorchDispatchMode):
    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known, self.now, self.peak = known, 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.known:
                storage = tensor.untyped_storage()
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


class _FusedAttention(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            query, value = args[0] if args else kwargs["query"], args[2] if len(args) > 2 else kwargs["value"]
            return query.new_empty((*query.shape[:-1], value.shape[-1]))
        return function(*args, **kwargs)
