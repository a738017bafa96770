"""Weights from the Hugging Face Hub: fetched once, resumed, verified, and never taken for complete when they
are not.

    folder = fetch(Source("SimianLuo/LCM_Dreamshaper_v7", ("unet/*.safetensors", "*.json")))
    revision_of(folder)  # the commit hash

Files lie in huggingface_hub's own cache in its own layout (blobs, snapshots, refs), so that every tool finds
them. Beside them, in qsched/COMMIT.json, stands which files that commit has: a snapshot counts as complete
when all that a source asks for are there in full size, and a file gets its name only after its checksum was
right.
"""

import errno
import queue
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import huggingface_hub
from filelock import Timeout
from huggingface_hub.utils import WeakFileLock, build_hf_headers, validate_repo_id

from qsched.hub.cache import (
    COMMIT,
    LISTS,
    arrived,
    complete_snapshot,
    has,
    link,
    note,
    revision_of,
    select,
    size_of,
    storage_of,
)
from qsched.hub.session import (
    SOCKET_SHARE,
    HubSilent,
    TransferState,
    cache_folder,
    endpoint,
    explain,
    is_offline,
    supervise,
)
from qsched.hub.source import OWNERS, BackboneError, Source
from qsched.hub.transfer import Damaged, RemoteFile, download
from qsched.version import __version__
from qsched.words import size

__all__ = ["fetch", "is_ready", "revision_of"]

PARALLEL = 4  # files at once
Progress = Callable[[int, int], None]


def fetch(
    source: Source, *, offline: bool | None = None, on_progress: Progress | None = None, timeout: float = 10
) -> Path:
    """The folder that holds a source's files: a local folder as it is, else the Hub's snapshot, downloaded if
    need be.

    A snapshot that is complete in the cache is used without asking the Hub. What a broken download has
    brought is kept, and the next call fetches only the rest. Calls for the same repository wait for one
    another, also across processes.

    Args:
        offline: True: do not ask the Hub; None: as HF_HUB_OFFLINE says.
        on_progress: called from this thread with (bytes here, bytes in all): at the start, up to 20 times a
            second, and at the end; not at all if nothing has to be fetched.
        timeout: seconds without any progress until it gives up.
    Raises:
        BackboneError: one sentence, whatever went wrong.
    """
    folder = Path(source.repo).expanduser()
    if folder.is_dir():
        return folder
    check_names(source)
    if (found := complete_snapshot(source)) is not None:
        return found
    if is_offline() if offline is None else offline:
        raise BackboneError(
            f"{source.repo} is not here in full, and the Hub is not asked (offline): run "
            f"`{_pull_command(source)}` where there is a network."
        )
    try:
        return _download(source, on_progress or (lambda done, total: None), timeout)
    except (HubSilent, OSError) as error:
        raise _in_words(error, source) from error


def is_ready(source: Source) -> bool:
    """Whether `fetch` would return at once, without asking the Hub."""
    if Path(source.repo).expanduser().is_dir():
        return True
    try:
        check_names(source)
    except BackboneError:
        return False
    return complete_snapshot(source) is not None


def _in_words(error: Exception, source: Source) -> BackboneError:
    if isinstance(error, Damaged):
        return BackboneError(f"{source.repo}: {error}; try again.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BackboneError(_disk_full(source, "the rest"))
    return BackboneError(explain(error, source.repo, source.revision, kept=" (what has arrived is kept)"))


def _speaking(source: Source, work: Callable[[], Any]) -> Callable[[], Any]:
    """The same work, whose failures are sentences."""

    def run() -> Any:
        try:
            return work()
        except Exception as error:
            raise _in_words(error, source) from error

    return run


def check_names(source: Source) -> None:
    """Refuse what can be neither a folder here nor a repository.

    Raises:
        BackboneError: one sentence.
    """
    try:
        validate_repo_id(source.repo)
    except ValueError:
        raise BackboneError(
            f"{source.repo} is neither a folder nor the name of a repository (OWNER/NAME) on the Hub."
        ) from None
    if not _stays_inside(source.revision or "main"):
        raise BackboneError(f"{source.revision!r} cannot be a revision of {source.repo}.")


def _stays_inside(path: str) -> bool:
    parts = PurePosixPath(path)
    return bool(path.strip()) and not parts.is_absolute() and ".." not in parts.parts and "\\" not in path


def _pull_command(source: Source) -> str:
    known = [OWNERS[source.repo]] if source.repo in OWNERS else []
    place = f"{source.repo}@{source.revision}" if source.revision else source.repo
    if known and not source.revision:
        return f"python -m qsched pull {known[0]}"
    return f"python -m qsched pull {known[0] if known else 'ID'} --source {place}"


def _download(source: Source, on_progress: Progress, timeout: float) -> Path:
    ask = _speaking(source, partial(_ask, source, SOCKET_SHARE * timeout))
    [(commit, listing)] = supervise([ask], TransferState(), timeout)
    sizes = {path: file.size for path, file in listing.items()}
    wanted = select(sizes, source)
    if not wanted:
        raise BackboneError(
            f"{source.repo} has none of the files that are needed: {', '.join(source.files) or 'it is empty'}."  # noqa: E501
        )
    groups: dict[str, list[RemoteFile]] = {}  # of equal files, such as the tokenizers of SDXL, one is fetched
    for path in sorted(wanted, key=lambda path: -wanted[path]):
        groups.setdefault(listing[path].checksum, []).append(listing[path])
    storage, total = storage_of(source.repo), sum(files[0].size for files in groups.values())
    for folder in ("blobs", LISTS):  # a ref or a snapshot that is only begun would mislead other tools
        (storage / folder).mkdir(parents=True, exist_ok=True)
    with _alone(source, timeout, lambda here: on_progress(min(here, total), total)):
        snapshot = storage / "snapshots" / commit
        missing = [
            group for group in groups.values() if not all(has(snapshot / f.path, f.size) for f in group)
        ]
        rest = sum(group[0].size - arrived(storage, group[0]) for group in missing)
        if rest > shutil.disk_usage(storage).free:
            raise BackboneError(_disk_full(source, size(rest)))
        todo = queue.SimpleQueue()
        for group in missing:
            todo.put(group)
        watch = TransferState(total - rest, total)
        on_progress(watch.done, total)  # first of all what is here already
        work = _speaking(source, partial(_work, source, commit, todo, SOCKET_SHARE * timeout, watch))
        supervise(
            [work] * min(PARALLEL, len(missing)), watch, timeout, lambda: on_progress(watch.done, total)
        )
        note(storage, source.revision or "main", commit, sizes)
    return snapshot


def _ask(source: Source, timeout: float) -> tuple[str, dict[str, RemoteFile]]:
    """The commit that a source's revision stands for now, and all its files."""
    api = huggingface_hub.HfApi(endpoint=endpoint(), library_name="qsched", library_version=__version__)
    info = api.model_info(source.repo, revision=source.revision, files_metadata=True, timeout=timeout)
    files = {}
    for entry in info.siblings or ():
        size = entry.lfs.size if entry.lfs else entry.size
        checksum = entry.lfs.sha256 if entry.lfs else entry.blob_id
        if (
            not _stays_inside(entry.rfilename)
            or size is None
            or not re.fullmatch(r"[0-9a-f]{40,64}", checksum or "")
        ):
            raise ValueError(f"the entry of {entry.rfilename!r} is not one of a file")
        files[entry.rfilename] = RemoteFile(entry.rfilename, size, checksum, bool(entry.lfs))
    if not COMMIT.fullmatch(info.sha or ""):
        raise ValueError("it names no commit")
    return info.sha, files


def _work(source: Source, commit: str, todo: queue.SimpleQueue, timeout: float, watch: TransferState) -> None:
    """Fetch files until none is left: one of several such threads."""
    storage, headers = (
        storage_of(source.repo),
        build_hf_headers(library_name="qsched", library_version=__version__),
    )
    while not watch.stopped.is_set():
        try:
            group = todo.get_nowait()
        except queue.Empty:
            return
        blob = storage / "blobs" / group[0].checksum
        if not has(blob, group[0].size):
            url = f"{endpoint()}/{source.repo}/resolve/{commit}/{quote(group[0].path)}"
            download(url, group[0], blob, headers, timeout, watch)
        for pointer in (storage / "snapshots" / commit / file.path for file in group):
            if not has(pointer, group[0].size):
                link(blob, pointer)


@contextmanager
def _alone(source: Source, timeout: float, tick: Callable[[int], None]) -> Iterator[None]:
    """Only one download per repository; others wait as long as it gets on.

    tick: called with the bytes on disk.
    """
    storage, seen, since = storage_of(source.repo), -1, time.monotonic()
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(WeakFileLock(storage / LISTS / "lock", timeout=0.2))
                break
            except Timeout:
                here = sum(max(0, size_of(path)) for path in (storage / "blobs").iterdir())
            if here != seen:
                seen, since = here, time.monotonic()
                tick(here)
            elif time.monotonic() - since > 0.8 * timeout:
                raise BackboneError(
                    f"Another process has begun to download {source.repo} and gets nowhere; end it or wait."
                )
        yield


def _disk_full(source: Source, need: str) -> str:
    free = shutil.disk_usage(cache_folder()).free
    return (
        f"The disk is too full for {need} of {source.repo}: {size(free)} are free in {cache_folder()} "
        f"(HF_HOME chooses another folder)."
    )
