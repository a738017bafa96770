"""Which modules lie on the device: as many as its memory holds, the one that is used now always among them.

What `memory.plan` foresees as arithmetic happens here: modules that were used longest ago are moved to main memory
until the next one fits, and one that never fits as a whole is run block by block.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from qsched.backbones.memory import outer_blocks
from qsched.backbones.spec import BackboneError
from qsched.quantization import stored_bytes

HOST = torch.device("cpu")


class DoesNotFit(BackboneError, torch.OutOfMemoryError):
    """The device ran out of memory; the message is one sentence with what would fit."""


class Residency:
    """Moves modules on and off a device.

    Args:
        device: where modules run. budget: bytes there for weights and activations; None = no limit, nothing is moved off.
        explain: the sentence for DoesNotFit. move: how a module is moved.
    """

    def __init__(
        self,
        device: torch.device,
        budget: int | None,
        explain: Callable[[], str] = lambda: "The device ran out of memory.",
        move: Callable[[nn.Module, torch.device], object] = lambda module, device: module.to(device),
    ):
        self.device, self.budget = device, budget
        self._explain, self._move = explain, move
        self._there: list[weakref.ref[nn.Module]] = []

    @property
    def there(self) -> list[nn.Module]:
        """The modules that lie on the device, the one used last at the end."""
        return [module for module in (reference() for reference in self._there) if module is not None]

    @contextmanager
    def using(self, module: nn.Module, work: int = 0) -> Iterator[None]:
        """Inside the block the module can be run on the device.

        Args:
            work: bytes of activations that the block needs.
        Raises:
            DoesNotFit: if the device runs out of memory all the same.
        """
        try:
            if self.budget is not None:
                need = _bytes(module) + work
                self._make_room(need, module)
                if need > self.budget and outer_blocks(module):
                    self.park(module)
                    with self._streaming(module):
                        yield
                    return
            if not any(other is module for other in self.there):
                self._move(module, self.device)
            self._there = [weakref.ref(other) for other in self.there if other is not module] + [weakref.ref(module)]
            yield
        except DoesNotFit:
            raise
        except torch.OutOfMemoryError as error:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            raise DoesNotFit(self._explain()) from error

    def has_room(self, size: int) -> bool:
        """Whether so many bytes fit besides what lies there, without moving anything off."""
        return self.budget is None or sum(map(_bytes, self.there)) + size <= self.budget

    def park(self, module: nn.Module) -> None:
        """Move a module off the device, if it is there."""
        if any(other is module for other in self.there):
            self._move(module, HOST)
            self._there = [weakref.ref(other) for other in self.there if other is not module]

    def park_all(self) -> None:
        """Move everything off the device, for another backbone to use it."""
        for module in self.there:
            self.park(module)

    def _make_room(self, need: int, module: nn.Module) -> None:
        others = [other for other in self.there if other is not module]
        while others and sum(map(_bytes, others)) + need > self.budget:
            self.park(others.pop(0))

    @contextmanager
    def _streaming(self, module: nn.Module) -> Iterator[None]:
        """Everything but the blocks lies on the device; each block comes when it is called and leaves after it."""
        blocks = outer_blocks(module)
        inside = {id(part) for block in blocks for part in block.modules()}
        rest = [part for part in module.modules() if id(part) not in inside and not any(part.children())]

        def come(block: nn.Module, args: object) -> None:
            self._move(block, self.device)

        def leave(block: nn.Module, args: object, output: object) -> None:
            self._move(block, HOST)

        hooks = [block.register_forward_pre_hook(come) for block in blocks]
        hooks += [block.register_forward_hook(leave) for block in blocks]
        try:
            for part in rest:
                self._move(part, self.device)
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._move(module, HOST)


def _bytes(module: nn.Module) -> int:
    return stored_bytes(module, None)
