"""Ask `qsched.hub.worker` for something, and give it up when it gets nowhere."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qsched.hub.errors import Failure, endpoint

PATIENCE = 0.85
"""Of a caller's timeout: what is left is for ending the process."""
START_S = 60.0
"""A process that has not even begun after so long never will."""


def converse(
    call: str,
    timeout: float,
    on_line: Callable[[dict[str, Any]], None] = lambda line: None,
    watched: Path | None = None,
    **asked: Any,
) -> Any:
    """The result of one of the worker's CALLS.

    Args:
        timeout: seconds without any progress until it is given up; its end is the end of the work.
        on_line: called from this thread with every line about progress.
        watched: a folder that grows while another process does the same work, which counts as progress.
    Raises:
        Failure: what went wrong. Whatever on_line raises.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "HF_ENDPOINT": endpoint(),
        "HF_HUB_OFFLINE": "0",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "qsched.hub.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reader.start()
    try:
        process.stdin.write(json.dumps({"call": call} | asked))
        process.stdin.close()
        beat, patience, grown = time.monotonic(), START_S, _bytes(watched)
        while True:
            try:
                text = lines.get(timeout=0.1)
            except queue.Empty:
                if (now := _bytes(watched)) != grown:
                    beat, grown = time.monotonic(), now
                if time.monotonic() - beat > patience:
                    raise Failure(["Silent"]) from None
                continue
            if not text:
                raise Failure(["Ended"], text="the process that talks to it has ended")
            line, beat, patience = json.loads(text), time.monotonic(), PATIENCE * timeout
            if "error" in line:
                raise Failure(**line["error"])
            if "result" in line:
                return line["result"]
            if "done" in line:
                on_line(line)
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


def _read(stdout: Any, lines: queue.SimpleQueue) -> None:
    for line in stdout:
        lines.put(line)
    lines.put("")


def _bytes(folder: Path | None) -> int:
    try:
        return sum(path.stat().st_size for path in folder.iterdir()) if folder else 0
    except OSError:  # not there yet, or a file went while it was looked at
        return 0
