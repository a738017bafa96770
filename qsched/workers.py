"""Who works on a search and is still alive: one pulse per process, in the study itself.

Every process counts up a number under its own name while it works. Another process that has seen the number stand still
for GRACE seconds of its own clock takes the work over, so no two clocks are ever compared. Of a process on the same
machine the operating system knows at once whether it is gone.
"""

import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

INTERVAL = 5.0
"""Seconds between two beats."""
GRACE = 60.0
"""Seconds without a beat after which a process counts as dead."""
KEY = "pulse "


def this_worker() -> str:
    """A name for this process that no other has: machine, process and its start."""
    process = psutil.Process()
    return f"{_machine()}:{process.pid}:{process.create_time():.2f}:{uuid.uuid4().hex[:8]}"


def _machine() -> str:
    """The machine and the process namespace: what a process id is unique in."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8])
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return "/".join(parts)


def known_dead(worker: str) -> bool:
    """Whether this machine knows that a worker is gone; False for one on another machine."""
    machine, _, rest = worker.partition(":")
    if machine != _machine():
        return False
    pid, start = rest.split(":")[:2]
    try:
        process = psutil.Process(int(pid))
        return abs(process.create_time() - float(start)) > 1 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Pulse:
    """Beats in a thread of its own while the block runs: `beat(key, count)` every INTERVAL seconds.

    A beat that fails is skipped: what matters will fail in the open, where it is reported.
    """

    def __init__(self, worker: str, beat: Callable[[str, int], None]):
        self._key, self._beat = KEY + worker, beat
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="pulse")

    def __enter__(self) -> "Pulse":
        self._beat(self._key, 0)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        count = 0
        while not self._stop.wait(INTERVAL):
            count += 1
            with suppress(Exception):
                self._beat(self._key, count)


class Watch:
    """Remembers when each worker's pulse was last seen to change."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float]] = {}

    def is_dead(self, worker: str, pulses: Mapping[str, object]) -> bool:
        """Whether a worker has stopped, given the study's current attributes."""
        if known_dead(worker):
            return True
        count, now = pulses.get(KEY + worker), time.monotonic()
        known, since = self._seen.get(worker, (None, now))
        if worker not in self._seen or count != known:
            self._seen[worker] = count, now
            return False
        return now - since > GRACE
