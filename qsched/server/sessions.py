"""What each browser session is looking at: plain CPU data, kept within a limit of bytes."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary

from qsched.comparison.result import Comparison
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.slices import Slice
from qsched.scoring import K_DEFAULT
from qsched.server.history import History

SESSIONS = 256
SESSION_BYTES = 48 * 10**6
"""What one session holds at most: its comparison (up to 32 MB, for images of 1024 pixels) and older Q-Sched
images.
"""
ALL_SESSIONS_BYTES = 3 * 10**9
"""What all sessions hold at most; beyond it, as beyond SESSIONS, those that have rested longest are
forgotten.
"""


@dataclass(frozen=True)
class Session:
    """What one browser tab looks at; k weighs the quality in every JAQ it is shown. backbone: a name of
    `named`.

    map: the surface beside its images.
    history: Q-Sched columns of this comparison at coefficients that it had before. version: grows with every
    change, so that the page knows the newest of several answers.
    """

    backbone: str
    comparison: Comparison
    k: float = K_DEFAULT
    map: Slice | None = field(default=None, compare=False)
    history: History = field(default_factory=History, compare=False)
    version: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of everything it holds."""
        return self.comparison.nbytes + self.history.nbytes

    @property
    def room(self) -> int:
        """Bytes that it may hold besides its comparison."""
        return SESSION_BYTES - self.comparison.nbytes

    def at(self, coefficients: Coefficients) -> Comparison | None:
        """The comparison with other coefficients, if their image is still here."""
        column = self.history.get(coefficients)
        return replace(self.comparison, coefficients=coefficients, qsched=column) if column else None


class Sessions:
    """The sessions of one app by their hash, safe to ask from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Session] = OrderedDict()
        self._versions = itertools.count(1)
        self._turns: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._held))

    def get(self, session: str) -> Session | None:
        """What a session looks at, None if nothing yet."""
        return self._held.get(session)

    def keep(self, session: str, backbone: str, comparison: Comparison) -> None:
        """Let a session look at a comparison; those that have rested longest are forgotten for it."""
        with self._lock:
            held = self._held.get(session)  # its k may have changed while the device was busy
            same = held and (held.backbone, held.comparison.naive) == (backbone, comparison.naive)
            history = held.history if same else History()
            k, map = held.k if held else K_DEFAULT, held.map if same else None
            new = Session(backbone, comparison, k, map, history, next(self._versions))
            history.add(comparison.coefficients, comparison.qsched, new.room)
            self._held[session] = new
            self._held.move_to_end(session)
            total = sum(one.nbytes for one in self._held.values())
            while len(self._held) > SESSIONS or (total > ALL_SESSIONS_BYTES and len(self._held) > 1):
                _, oldest = self._held.popitem(last=False)
                total -= oldest.nbytes

    def show_map(self, session: str, comparison: Comparison, map: Slice | None) -> bool:
        """Keep the surface that a session is shown; False if it looks at other settings by now."""
        with self._lock:
            held = self._held.get(session)
            if held is None or held.comparison.naive is not comparison.naive:
                return False
            self._held[session] = replace(held, map=map)
            return True

    def weigh(self, session: str, k: float) -> Session | None:
        """The session with another k: stored scores are weighed anew, nothing is computed on the device. None
        if the session is unknown."""
        with self._lock:
            held = self._held.get(session)
            if held is not None:
                self._held[session] = held = replace(held, k=k, version=next(self._versions))
            return held

    def forget(self, session: str) -> None:
        """Free what a closed tab held."""
        with self._lock:
            self._held.pop(session, None)

    def turn(self, session: str) -> threading.Lock:
        """A lock for whatever one session has to do in the order of asking, while others go on."""
        with self._lock:
            return self._turns.setdefault(session, threading.Lock())
