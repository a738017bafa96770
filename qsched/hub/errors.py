"""Where the Hugging Face Hub is, whether it may be asked, and its refusals in one sentence each."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants

LOGIN = "log in with `hf auth login`"
FULL = (errno.ENOSPC, errno.EDQUOT)


class Failure(Exception):
    """What went wrong in a conversation.

    Args:
        kinds: the names of the error's classes; ("Silent",) if nothing arrived for too long.
        status, code: what the Hub answered, if it did: the HTTP status and its X-Error-Code.
        errno: of an OSError.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        status: int | None = None,
        code: str | None = None,
        errno: int | None = None,
        text: str = "",
    ):
        super().__init__(text)
        self.kinds, self.status, self.code, self.errno, self.text = set(kinds), status, code, errno, text

    @property
    def reason(self) -> str:
        """The first line of the error, without its number."""
        line = next(iter(self.text.strip().splitlines()), "") or "no reason given"
        return (line.partition("] ")[2] if line.startswith("[Errno") else line).rstrip(".")


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT, or huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it downloads: HF_HUB_CACHE, or hub/ in HF_HOME."""
    return Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE).expanduser()


def is_offline(offline: bool | None = None) -> bool:
    """Whether the Hub may not be asked: as told, else as HF_HUB_OFFLINE says."""
    if offline is not None:
        return offline
    told = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return told or constants.is_offline_mode()


def explain(failure: Failure, repo: str, revision: str | None = None, kept: str = "") -> str:
    """One sentence for the user; kept: what to add where an answer failed to come."""
    where, kinds, status, code = endpoint(), failure.kinds, failure.status, failure.code
    page = f"{where}/{repo}"
    if "Silent" in kinds or "TimeoutException" in kinds:
        return f"The Hub at {where} does not answer; try again later{kept}."
    if code == "GatedRepo":
        return f"{repo} is gated: {LOGIN} and accept its licence at {page}."
    if code == "RevisionNotFound":
        return f"{repo} has no revision {revision or 'main'}."
    if status == 401 or code == "RepoNotFound":
        return (
            f"The Hub at {where} shows no {repo}: check the name, or {LOGIN} if it is private or gated "
            f"(then accept its licence at {page})."
        )
    if status == 403:
        return f"The Hub at {where} denies access to {repo}: {LOGIN} and accept its licence at {page}."
    if status == 404:
        return f"The Hub at {where} has no {repo}" + (f" with revision {revision}." if revision else ".")
    if status == 429:
        return f"The Hub at {where} is asked too often; try again in a few minutes."
    if status is not None and status >= 500:
        return f"The Hub at {where} has a problem of its own (status {status}); try again later."
    if status is not None:
        return f"The Hub at {where} refuses {repo} (status {status})."
    if kinds & {"ConnectError", "ProxyError"}:
        return f"The Hub at {where} cannot be reached: {failure.reason}."
    if kinds & {"TransportError", "StreamError"}:
        return f"The connection to the Hub at {where} broke: {failure.reason}; try again."
    if "LookupError" in kinds and "KeyError" not in kinds:
        return f"{failure.reason}."
    if failure.errno in FULL:
        return f"The disk is too full for {repo} (HF_HOME chooses another folder than {cache_folder()})."
    if failure.errno is not None:
        return (
            f"The cache in {cache_folder()} cannot be written: {os.strerror(failure.errno)} (HF_HOME chooses "
            "another folder)."
        )
    return f"The Hub at {where} gave an answer about {repo} that makes no sense: {failure.reason}."
