"""One thread for all computing, in the order of asking.

OpenMP keeps a team of workers for every thread that computes. With more than one team on a processor they
stop waiting actively for each other, and networks of many small operations, such as a few-step denoiser, run
at half their speed. So the threads of the web server hand their work to this one.
"""

import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class DeviceThread:
    """Runs functions one at a time, first come, first served; what it runs may run more.

    Starts with the first one.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Callable, Future]] = SimpleQueue()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def run(self, function: Callable[[], T]) -> T:
        """What the function returns or raises; it sees the caller's context variables. A forked process has
        no such thread and runs it itself."""
        if threading.current_thread() is self._thread or os.getpid() != self._process:
            return function()
        with self._guard:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="device")
                self._thread.start()
        context, result = contextvars.copy_context(), Future()
        self._jobs.put((lambda: context.run(function), result))
        return result.result()

    def _work(self) -> None:
        while True:
            job, result = self._jobs.get()
            try:
                result.set_result(job())
            except BaseException as error:
                result.set_exception(error)
            del job, result  # an idle thread keeps nothing alive
