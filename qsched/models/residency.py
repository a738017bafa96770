"""Which modules lie on the device: as many as fit, the one that is used now always among them.

Those that were used longest ago are moved to main memory until the next one fits; a denoiser that never fits
as a whole runs block by block, by diffusers' group offloading.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from diffusers.hooks import HookRegistry, apply_group_offloading
from torch import nn

from qsched.quantization import stored_bytes

HOST = torch.device("cpu")


def move(module: nn.Module, device: torch.device) -> None:
    """module.to(device), outside inference mode, where torchao's tensors could not become parameters."""
    with torch.inference_mode(False):
        module.to(device)


class Residency:
    """Moves modules on and off a device.

    Args:
        device: where modules run. free: bytes that can be had there now; None = no limit, nothing is moved
            off. move: how a module is moved.
    """

    def __init__(
        self,
        device: torch.device,
        free: Callable[[], int] | None = None,
        move: Callable[[nn.Module, torch.device], None] = move,
    ):
        self.device, self.free, self._move = device, free, move
        self.budget = free() if free else None
        """Bytes for all weights and activations together; None = no limit."""
        self.there: WeakKeyDictionary[nn.Module, None] = WeakKeyDictionary()
        """What lies on the device, the one used last at the end."""

    @contextmanager
    def using(self, module: nn.Module, work: int = 0, blocks: bool = False) -> Iterator[None]:
        """Inside the block the module can be run on the device.

        Args:
            work: bytes of activations that the block needs.
            blocks: it may come block by block where even alone it is too large.
        """
        if self.bring(module, work, blocks):
            yield
            return
        with torch.inference_mode(False), torch.no_grad():  # weights moved in inference mode stay in it
            apply_group_offloading(module, self.device, num_blocks_per_group=1)
            try:
                yield
            finally:
                HookRegistry.check_if_exists_or_initialize(module).remove_hook("group_offloading")
                self._move(module, HOST)

    def bring(self, module: nn.Module, work: int = 0, optional: bool = False) -> bool:
        """Lay a module on the device with so many bytes free besides. False if it is left in main memory,
        since it is optional and even alone too large.

        Raises:
            torch.OutOfMemoryError: it did not fit all the same; nothing of it stays there.
        """
        if self.free and not self._make_room(module, work) and optional:
            self.park(module)
            return False
        if module not in self.there:
            try:
                self._move(module, self.device)
            except torch.OutOfMemoryError:
                self._move(module, HOST)
                raise
        self.there.pop(module, None)
        self.there[module] = None
        return True

    def park(self, module: nn.Module) -> None:
        """Move a module off the device, if it is there."""
        if module in self.there:
            del self.there[module]
            self._move(module, HOST)

    def park_all(self) -> None:
        """Move everything off the device, for another backbone to use it."""
        for module in list(self.there):
            self.park(module)

    def _make_room(self, module: nn.Module, work: int) -> bool:
        need = work + (0 if module in self.there else stored_bytes(module, None))
        for other in [other for other in self.there if other is not module]:
            if self.free() >= need:
                return True
            self.park(other)
        return self.free() >= need
