"""Talking to the Hugging Face Hub: where it is, whether it may be asked, how long to wait, and its refusals
in words.

huggingface_hub retries with growing pauses, waits without limit in some calls and falls back to whatever is
cached in others. Here nothing is retried that got no answer, a thread that gets nowhere is given up on, and
every failure is one sentence. Endpoint, cache and offline mode are read when they are needed, not at import.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants

# of a caller's timeout: first the socket gives up, then the watch over all
SOCKET_SHARE, WATCH_SHARE = 0.7, 0.85
SLOWEST = 16 << 10  # bytes per timeout; less is no progress
LOGIN = "log in with `hf auth login`"


class HubSilent(Exception):
    """Nothing arrived for too long."""


class Refused(Exception):
    """The Hub answered with an error status; code is its X-Error-Code, where it sends one."""

    def __init__(self, status: int, code: str = ""):
        super().__init__(f"status {status} {code}".strip())
        self.status, self.code = status, code


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT, or huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it downloads: HF_HUB_CACHE, or hub/ in HF_HOME."""
    return Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE).expanduser()


def is_offline() -> bool:
    """Whether the environment forbids asking the Hub (HF_HUB_OFFLINE=1)."""
    return constants.is_offline_mode() or os.environ.get("HF_HUB_OFFLINE", "").upper() in (
        "1",
        "ON",
        "YES",
        "TRUE",
    )


class TransferState:
    """Shared by the threads that talk to the Hub and the one that waits for them: progress, and the order to
    stop.

    done, total: bytes so far and in all, set by whoever starts the work.
    """

    def __init__(self, done: int = 0, total: int = 0):
        self.done, self.total, self.stopped = done, total, threading.Event()
        self._lock, self._fresh, self._beat = threading.Lock(), 0, time.monotonic()

    def beat(self) -> None:
        """Something was achieved."""
        self._beat = time.monotonic()

    def add(self, count: int) -> None:
        """Bytes arrived (or, negative, had to be thrown away)."""
        with self._lock:
            self.done += count
            self._fresh += max(count, 0)
            if self._fresh >= SLOWEST:
                self._fresh = 0
                self.beat()

    def idle(self) -> float:
        """Seconds since something was achieved."""
        return time.monotonic() - self._beat


def supervise(
    work: Sequence[Callable[[], Any]],
    watch: TransferState,
    timeout: float,
    tick: Callable[[], None] | None = None,
) -> list[Any]:
    """Run each piece of work in a thread of its own; returns their results in order.

    Whatever ends the wait (the first failure, silence, Ctrl-C, an error in tick) also tells the threads to
    stop.

    Args:
        watch: a fresh one; it is stopped when this returns.
        tick: called from this thread, up to 20 times a second and once at the end.
    Raises:
        HubSilent: the watch has felt no beat for most of `timeout` seconds; whatever a piece of work raises.
    """
    results, failures, wake = [None] * len(work), [], threading.Event()

    def run(index: int) -> None:
        try:
            results[index] = work[index]()
        except BaseException as error:
            failures.append(error)
        wake.set()

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(work))]
    watch.beat()
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not failures:
            if watch.idle() > WATCH_SHARE * timeout:
                raise HubSilent
            if tick is not None:
                tick()
            wake.wait(0.05)
            wake.clear()
        if failures:
            raise failures[0]
        if tick is not None:
            tick()
    finally:
        watch.stopped.set()
        until = time.monotonic() + 0.05 * timeout
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
    return results


def kinds(error: BaseException) -> set[str]:
    """Names of an error's classes: huggingface_hub has changed its HTTP library, whose class names stayed."""
    return {cls.__name__ for cls in type(error).__mro__}


def as_refusal(error: BaseException) -> Refused | None:
    """The refusal behind an error of huggingface_hub, if the Hub answered at all."""
    if isinstance(error, Refused):
        return error
    response = getattr(error, "response", None)
    if response is None:
        return None
    return Refused(response.status_code, response.headers.get("X-Error-Code") or "")


def explain(error: BaseException, repo: str, revision: str | None = None, kept: str = "") -> str:
    """One sentence for the user about a failed conversation with the Hub.

    Args:
        kept: what to add where the connection failed in the middle.
    """
    where = endpoint()
    if refusal := as_refusal(error):
        return _explain_refusal(refusal, repo, revision, where)
    names = kinds(error)
    if "OfflineModeIsEnabled" in names:
        return f"{repo} is not asked for, since HF_HUB_OFFLINE is set."
    if names & {"HubSilent", "TimeoutException"}:
        return f"The Hub at {where} does not answer; try again later{kept}."
    if "ConnectError" in names or "ProxyError" in names:
        return f"The Hub at {where} cannot be reached: {reason(error)}."
    if names & {"TransportError", "StreamError"}:
        return f"The connection to the Hub at {where} broke: {reason(error)}; try again{kept}."
    if isinstance(error, OSError) and error.strerror:
        return (
            f"The cache in {cache_folder()} cannot be written: {error.strerror} (HF_HOME chooses "
            f"another folder)."
        )
    return f"The Hub at {where} gave an answer about {repo} that makes no sense: {reason(error)}."


def reason(error: BaseException) -> str:
    """The first line of an error, without its number."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line.partition("] ")[2].rstrip(".") if line.startswith("[Errno") else line.rstrip(".")


def _explain_refusal(refusal: Refused, repo: str, revision: str | None, where: str) -> str:
    status, code = refusal.status, refusal.code
    if code == "GatedRepo":
        return f"{repo} is gated: {LOGIN} and accept its licence at {where}/{repo}."
    if code == "RevisionNotFound":
        return f"{repo} has no revision {revision or 'main'}."
    if status == 401 or code == "RepoNotFound":
        return (
            f"The Hub at {where} shows no {repo}: check the name, or {LOGIN} if it is private or gated "
            f"(then accept its licence at {where}/{repo})."
        )
    if status == 403:
        return (
            f"The Hub at {where} denies access to {repo}: {LOGIN} and, if it is gated, accept its "
            f"licence at {where}/{repo}."
        )
    if status == 404:
        return f"The Hub at {where} has no {repo}" + (f" with revision {revision}." if revision else ".")
    if status == 429:
        return f"The Hub at {where} is asked too often; try again in a few minutes."
    if status >= 500:
        return f"The Hub at {where} has a problem of its own (status {status}); try again later."
    return f"The Hub at {where} refuses {repo} (status {status})."
