"""A small memory for results that are expensive to make and cheap to keep."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """The latest `limit` results by key.

    Threads may share it; two that ask for the same new key both make it.
    """

    def __init__(self, limit: int):
        self._limit, self._lock, self._kept = limit, threading.Lock(), OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result for a key, made if it is not there; nobody waits while another makes one."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        return made
