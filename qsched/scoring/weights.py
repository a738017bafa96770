"""Where the scorers' weights come from, and the one sentence when they cannot be had.

`fetch` is the only place that asks the Hub, and `fetch_url` the only one that asks another server, so nothing
that a scoring library would download by itself at construction (without a timeout, into a cache of its own)
is ever reached.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from qsched.hub.source import BackboneError, Source

Progress = Callable[[int, int], None]
TIMEOUT = 8.0  # seconds without an answer or progress; with what surrounds it a message comes within 10


class ScorerError(BackboneError):
    """A scorer cannot be had; the message is one clear sentence for the user."""


@dataclass(frozen=True)
class Weights:
    """One repository's files.

    title: what a sentence calls them; source: its `files` are names, not patterns.
    """

    title: str
    source: Source

    @property
    def folder_name(self) -> str:
        """The repository's own name, which a local copy's folder has."""
        return self.source.repo.rsplit("/", 1)[-1]

    @property
    def here(self) -> Path | None:
        """The folder in the Hub's cache that has all the files, whichever tool has put them there."""
        return _cached(self.source)


def fetch(
    weights: Weights,
    folder: str | Path | None = None,
    offline: bool | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """The folder that holds these files: a local copy, else the Hub's cache, else a download.

    Args:
        folder: a folder with local copies, one folder per repository, named like it; nothing else is looked
            at then.
        offline: True: never ask the Hub; None: as HF_HUB_OFFLINE says.
        on_progress: called with (bytes here, bytes in all) while they are fetched.
    Raises:
        ScorerError: one sentence that names what is missing and how to get it, within 10 seconds.
    """
    source = weights.source
    if folder is not None:
        place = Path(folder) / weights.folder_name
        if missing := [name for name in source.files if not (place / name).is_file()]:
            raise ScorerError(f"{weights.title} should be in {place}, where {missing[0]} is missing.")
        return place
    if (cached := weights.here) is not None:
        return cached
    command = f"hf download {source.repo} {' '.join(source.files)}"
    if is_offline(offline):
        raise ScorerError(
            f"{weights.title} is not on this machine and the program is offline: run `{command}` "
            f"while there is a network."
        )
    try:
        place = _download(source, on_progress)
    except BackboneError as error:
        raise ScorerError(
            f"{weights.title} cannot be had: {str(error).rstrip('.')} (`{command}` gets it, too)."
        ) from error
    if missing := [name for name in source.files if not (place / name).is_file()]:
        raise ScorerError(f"{weights.title} is incomplete: {source.repo} has no {missing[0]}.")
    return place


def fetch_url(
    title: str,
    url: str,
    place: Path,
    sha256: str,
    offline: bool | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """A file at `place`, downloaded from `url` if it is not there yet; whole and checked, or not at all.

    What a broken download has brought is kept beside it, and the next call fetches only the rest.

    Args:
        sha256: how the file's SHA-256 begins.
        on_progress: called with (bytes here, bytes in all) while it is fetched, once its size is known.
    Raises:
        ScorerError: one sentence, within 10 seconds.
    """
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    from qsched.hub.session import HubSilent, TransferState, supervise

    if place.is_file():
        return place
    if is_offline(offline):
        raise ScorerError(
            f"{title} is not on this machine and the program is offline: put {url} into {place.parent}."
        )
    watch, begun, lock = (
        TransferState(),
        place.with_name(f".{place.name}.incomplete"),
        place.with_name(f".{place.name}.lock"),
    )
    kept = begun.stat().st_size if begun.is_file() else 0
    told: list[int] = []

    def tick() -> None:
        if on_progress and watch.total:
            for done in [watch.done] if told else [kept, watch.done]:  # first of all what is here already
                told.append(done)
                on_progress(done, watch.total)

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock, timeout=TIMEOUT):
            try:
                if place.is_file():  # another process has brought it meanwhile
                    return place
                [digest] = supervise([partial(_receive, url, begun, watch)], watch, TIMEOUT, tick)
                if not digest.startswith(sha256):
                    begun.unlink()
                    raise ScorerError(f"{title} arrived damaged from {url}: try again later.")
                os.replace(begun, place)
            finally:
                lock.unlink(missing_ok=True)
                if begun.is_file() and not begun.stat().st_size:
                    begun.unlink()
    except (HubSilent, OSError, Timeout) as error:
        known = {HubSilent: "no answer", Timeout: "another process is at it"}.get(type(error))
        reason = known or getattr(error, "reason", None) or error
        raise ScorerError(f"{title} cannot be downloaded from {url} ({reason}): try again later.") from error
    return place


def is_offline(offline: bool | None = None) -> bool:
    """Whether nothing may be asked of the network: as told, else as HF_HUB_OFFLINE says."""
    from qsched.hub import session as hub_session

    return hub_session.is_offline() if offline is None else offline


def fingerprint(path: Path) -> str:
    """A short name for a file's contents, which says which local weights judged."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:12]


def _download(source: Source, on_progress: Progress | None) -> Path:
    from qsched.hub.fetch import fetch as from_hub  # it knows the backbones, and they know this package

    return from_hub(source, on_progress=on_progress, timeout=TIMEOUT)


def _cached(source: Source) -> Path | None:
    """The snapshot that has all the files, whichever tool has put it into the Hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    from qsched.hub.session import cache_folder

    find = partial(try_to_load_from_cache, source.repo, cache_dir=cache_folder(), revision=source.revision)
    found = [find(name) for name in source.files]
    return Path(found[0]).parent if all(isinstance(path, str) for path in found) else None


def _receive(url: str, file: Path, watch) -> str:
    """Download to `file`, after what it has already; the SHA-256 of all.

    Ends early when the watch is stopped.
    """
    digest = hashlib.sha256()
    with file.open("a+b") as out:
        out.seek(0)
        while block := out.read(1 << 20):
            digest.update(block)
            watch.beat()
        have = out.tell()
        try:
            answer = urlopen(
                Request(url, headers={"Range": f"bytes={have}-"} if have else {}), timeout=TIMEOUT
            )
        except HTTPError as error:
            if have and error.code == 416:  # nothing is left to fetch, or what is here is too long
                return digest.hexdigest()
            raise
        with answer:
            if have and answer.status != 206:  # the server knows no ranges
                out.truncate(0)
                digest, have = hashlib.sha256(), 0
            length = int(answer.headers.get("Content-Length") or 0)
            watch.done, watch.total = have, have + length if length else 0
            while not watch.stopped.is_set() and (block := answer.read1(1 << 20)):
                digest.update(block)
                out.write(block)
                watch.add(len(block))
        if watch.done < watch.total and not watch.stopped.is_set():
            raise OSError(f"the connection broke after {watch.done} of {watch.total} bytes")
    return digest.hexdigest()
