"""One thread for all computing: what visitors wait for in the order of asking, then long jobs' batches.

OpenMP keeps a team of workers for every thread that computes. With more than one team on a processor they
stop waiting actively for each other, and networks of many small operations, such as a few-step denoiser, run
at half their speed. So the threads of the web server hand their work to this one.
"""

import contextvars
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple, TypeVar

T = TypeVar("T")
PATIENCE_S = 4.0
"""While visitors wait, one batch of a long job runs every so many seconds, of all long jobs together."""


class _Asked(NamedTuple):
    function: Callable
    result: Future
    patient: bool
    since: float


class DeviceThread:
    """Runs functions one at a time, first come, first served; what it runs may run more.

    Starts with the first one.
    """

    def __init__(self) -> None:
        self._urgent: deque[_Asked] = deque()
        self._patient: deque[_Asked] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._last_patient = -math.inf

    def run(self, function: Callable[[], T], patient: bool = False) -> T:
        """What the function returns or raises; it sees the caller's context variables. A forked process has
        no such thread and runs it itself.

        patient: a batch of a long job, which lets the others go first, see PATIENCE_S.
        """
        if threading.current_thread() is self._thread or os.getpid() != self._process:
            return function()
        run, result = partial(contextvars.copy_context().run, function), Future()
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="device")
                self._thread.start()
            asked = _Asked(run, result, patient, time.monotonic())
            (self._patient if patient else self._urgent).append(asked)
            self._changed.notify()
        del run, asked
        return result.result()

    def _next(self) -> _Asked:
        with self._changed:
            self._changed.wait_for(lambda: self._urgent or self._patient)
            if self._urgent and not self._overdue():
                return self._urgent.popleft()
            return self._patient.popleft()

    def _overdue(self) -> bool:
        """Whether a batch of a long job has waited for long, and none has run meanwhile."""
        since = max(self._patient[0].since, self._last_patient) if self._patient else math.inf
        return time.monotonic() - since >= PATIENCE_S

    def _work(self) -> None:
        while True:
            asked = self._next()
            try:
                asked.result.set_result(asked.function())
            except BaseException as error:
                asked.result.set_exception(error)
            if asked.patient:
                self._last_patient = time.monotonic()
            del asked  # an idle thread keeps nothing alive
