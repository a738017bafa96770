"""A lock that everybody gets in the order of asking.

With an ordinary lock, a search that lets go of the device after every batch and asks again at once would mostly get it
again at once: whoever waits has to wake up first.
"""

import threading
from collections import deque


class Turns:
    """A re-entrant lock, first come, first served; a context manager."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()
        self._owner: int | None = None
        self._depth = 0

    def __enter__(self) -> "Turns":
        me = threading.get_ident()
        with self._guard:
            if self._owner in (None, me):
                self._owner = me
                self._depth += 1
                return self
            turn = threading.Event()
            self._waiting.append((me, turn))
        turn.wait()  # whoever leaves has already made this thread the owner
        return self

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._depth -= 1
            if self._depth == 0:
                self._owner = None
                if self._waiting:
                    self._owner, turn = self._waiting.popleft()
                    self._depth = 1
                    turn.set()
