"""Which modules lie on the device: as many as its memory holds, the one that is used now always among them.

What `memory.plan` foresees as arithmetic happens here: modules that were used longest ago are moved to main
memory until the next one fits, and one that never fits as a whole is run block by block.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qsched.hub.source import BackboneError
from qsched.models.memory.plan import outer_blocks

HOST = torch.device("cpu")


class DoesNotFit(BackboneError, torch.OutOfMemoryError):
    """The device ran out of memory; the message is one sentence with what would fit."""


class Residency:
    """Moves modules on and off a device.

    Args:
        device: where modules run. budget: bytes there for weights and activations; None = no limit, nothing
            is moved off.
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
        self._explain, self._mover = explain, move
        self._there: list[weakref.ref[nn.Module]] = []
        self._seen_to_fit: set[tuple] = set()

    @property
    def there(self) -> list[nn.Module]:
        """The modules that lie on the device, the one used last at the end."""
        return [module for module in (reference() for reference in self._there) if module is not None]

    @contextmanager
    def using(self, module: nn.Module, work: int = 0, instead_of: Sequence[nn.Module] = ()) -> Iterator[None]:
        """Inside the block the module can be run on the device.

        Args:
            work: bytes of activations that the block needs.
            instead_of: modules that leave before any other where there is no room; the rest in order of their
                last use.
        Raises:
            DoesNotFit: if the device runs out of memory all the same.
        """
        try:
            if self.budget is not None and not self._fits(module, work):
                self._make_room(module, work, instead_of)
                if _bytes(module) + work > self.budget and outer_blocks(module):
                    self.park(module)
                    with self._streaming(module):
                        yield
                    return
            if not any(other is module for other in self.there):
                self._move(module, self.device)
            self._there = [weakref.ref(other) for other in self.there if other is not module] + [
                weakref.ref(module)
            ]
            yield
        except DoesNotFit:
            raise
        except torch.OutOfMemoryError as error:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            raise DoesNotFit(self._explain()) from error

    def has_room(self, size: int, *modules: nn.Module) -> bool:
        """Whether so many bytes fit besides these modules and what lies there, without moving
        anything off.
        """
        return self.budget is None or _bytes(*self.there, *modules) + size <= self.budget

    def park(self, module: nn.Module) -> None:
        """Move a module off the device, if it is there."""
        if any(other is module for other in self.there):
            self._move(module, HOST)
            self._there = [weakref.ref(other) for other in self.there if other is not module]

    def park_all(self) -> None:
        """Move everything off the device, for another backbone to use it."""
        for module in self.there:
            self.park(module)

    def _move(self, module: nn.Module, device: torch.device) -> None:
        self._seen_to_fit.clear()
        self._mover(module, device)

    def _fits(self, module: nn.Module, work: int) -> bool:
        """Whether a module that is there already can be run without another leaving; known without counting
        if it was the last time, since a drag asks for the same few modules at every step and counting one
        takes milliseconds."""
        there = self.there
        if not any(other is module for other in there):
            return False
        case = (self.budget, work, *sorted(map(id, there)))
        if case not in self._seen_to_fit and _bytes(*there) + work <= self.budget:
            self._seen_to_fit.add(case)
        return case in self._seen_to_fit

    def _make_room(self, module: nn.Module, work: int, first: Sequence[nn.Module]) -> None:
        others = [other for other in self.there if other is not module]
        others.sort(key=lambda other: all(other is not one for one in first))
        while others and _bytes(module, *others) + work > self.budget:
            self.park(others.pop(0))

    @contextmanager
    def _streaming(self, module: nn.Module) -> Iterator[None]:
        """Everything but the blocks lies on the device; each block comes when it is called and leaves after
        it.
        """
        blocks = outer_blocks(module)
        inside = {id(part) for block in blocks for part in block.modules()}
        rest = [part for part in module.modules() if id(part) not in inside and not any(part.children())]

        def before(block: nn.Module, args: object) -> None:
            self._move(block, self.device)

        def after(block: nn.Module, args: object, output: object) -> None:
            self._move(block, HOST)

        hooks = [block.register_forward_pre_hook(before) for block in blocks]
        hooks += [block.register_forward_hook(after) for block in blocks]
        try:
            for part in rest:
                self._move(part, self.device)
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._move(module, HOST)


def _bytes(*modules: nn.Module) -> int:
    """Bytes of the modules' tensors; what several of them share counts once."""
    tensors = [t for m in modules for t in m.state_dict(keep_vars=True).values() if isinstance(t, Tensor)]
    return sum({(t.device, t.data_ptr() or id(t), t.nbytes): t.nbytes for t in tensors}.values())
