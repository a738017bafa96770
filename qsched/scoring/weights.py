"""Where the scorers' weights come from, and the one sentence when they cannot be had.

`fetch` is the only place that asks the Hub, and `fetch_url` the only one that asks another server, so nothing that a
scoring library would download by itself at construction (without a timeout, into a cache of its own) is ever reached.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.request import urlopen

from qsched.backbones.spec import BackboneError, Source

TIMEOUT = 8.0  # seconds without an answer or progress; with what surrounds it a message comes within 10


class ScorerError(BackboneError):
    """A scorer cannot be had; the message is one clear sentence for the user."""


@dataclass(frozen=True)
class Weights:
    """One repository's files. title: what a sentence calls them; source: its `files` are names, not patterns."""

    title: str
    source: Source

    @property
    def folder_name(self) -> str:
        """The repository's own name, which a local copy's folder has."""
        return self.source.repo.rsplit("/", 1)[-1]


def fetch(weights: Weights, folder: str | Path | None = None, offline: bool | None = None) -> Path:
    """The folder that holds these files: a local copy, else the Hub's cache, else a download.

    Args:
        folder: a folder with local copies, one folder per repository, named like it; nothing else is looked at then.
        offline: True: never ask the Hub; None: as HF_HUB_OFFLINE says.
    Raises:
        ScorerError: one sentence that names what is missing and how to get it, within 10 seconds.
    """
    source = weights.source
    if folder is not None:
        place = Path(folder) / weights.folder_name
        if missing := [name for name in source.files if not (place / name).is_file()]:
            raise ScorerError(f"{weights.title} should be in {place}, where {missing[0]} is missing.")
        return place
    if (cached := _cached(source)) is not None:
        return cached
    command = f"hf download {source.repo} {' '.join(source.files)}"
    if is_offline(offline):
        raise ScorerError(
            f"{weights.title} is not on this machine and the program is offline: run `{command}` while there is a network."
        )
    try:
        place = _download(source)
    except BackboneError as error:
        raise ScorerError(
            f"{weights.title} cannot be had: {str(error).rstrip('.')} (`{command}` gets it, too)."
        ) from error
    if missing := [name for name in source.files if not (place / name).is_file()]:
        raise ScorerError(f"{weights.title} is incomplete: {source.repo} has no {missing[0]}.")
    return place


def fetch_url(title: str, url: str, place: Path, sha256: str, offline: bool | None = None) -> Path:
    """A file at `place`, downloaded from `url` if it is not there yet; whole and checked, or not at all.

    Args:
        sha256: how the file's SHA-256 begins.
    Raises:
        ScorerError: one sentence, within 10 seconds.
    """
    from qsched.hub_session import HubSilent, Watch, supervise

    if place.is_file():
        return place
    if is_offline(offline):
        raise ScorerError(f"{title} is not on this machine and the program is offline: put {url} into {place.parent}.")
    watch, temporary = Watch(), place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        [digest] = supervise([partial(_receive, url, temporary, watch)], watch, TIMEOUT)
        if not digest.startswith(sha256):
            raise ScorerError(f"{title} arrived damaged from {url}: try again later.")
        os.replace(temporary, place)
    except (HubSilent, OSError) as error:
        reason = "no answer" if isinstance(error, HubSilent) else getattr(error, "reason", None) or error
        raise ScorerError(f"{title} cannot be downloaded from {url} ({reason}): try again later.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return place


def is_offline(offline: bool | None = None) -> bool:
    """Whether nothing may be asked of the network: as told, else as HF_HUB_OFFLINE says."""
    from qsched import hub_session

    return hub_session.is_offline() if offline is None else offline


def fingerprint(path: Path) -> str:
    """A short name for a file's contents, which says which local weights judged."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:12]


def _download(source: Source) -> Path:
    from qsched.backbones.hub import fetch as from_hub  # it knows the backbones, and they know this package

    return from_hub(source, timeout=TIMEOUT)


def _cached(source: Source) -> Path | None:
    """The snapshot that has all the files, whichever tool has put it into the Hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    from qsched.hub_session import cache_folder

    find = partial(try_to_load_from_cache, source.repo, cache_dir=cache_folder(), revision=source.revision)
    found = [find(name) for name in source.files]
    return Path(found[0]).parent if all(isinstance(path, str) for path in found) else None


def _receive(url: str, file: Path, watch) -> str:
    """Download to `file`; its SHA-256. Ends early when the watch is stopped."""
    digest = hashlib.sha256()
    with urlopen(url, timeout=TIMEOUT) as answer, file.open("wb") as out:
        while not watch.stopped.is_set() and (block := answer.read1(1 << 20)):
            digest.update(block)
            out.write(block)
            watch.add(len(block))
    return digest.hexdigest()
