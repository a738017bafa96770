"""Where the scorers' weights come from, and the one sentence when they cannot be had.

`fetch` is the only place that asks the Hub, and `fetch_url` the only one that asks another server, so nothing
that a scoring library would download by itself at construction (without a timeout, into a cache of its own)
is ever reached.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qsched.hub.errors import Failure, cache_folder, is_offline
from qsched.hub.fetch import fetch as from_hub
from qsched.hub.process import converse
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
        place = from_hub(source, on_progress=on_progress, timeout=TIMEOUT)
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

    Args:
        sha256: how the file's SHA-256 begins.
        on_progress: called with (bytes here, bytes in all) while it is fetched, once its size is known.
    Raises:
        ScorerError: one sentence, soon after the server falls silent.
    """
    if place.is_file():
        return place
    if is_offline(offline):
        raise ScorerError(
            f"{title} is not on this machine and the program is offline: put {url} into {place.parent}."
        )

    def show(line: dict) -> None:
        if on_progress and line["total"]:
            on_progress(line["done"], line["total"])

    try:
        converse("file", TIMEOUT, show, url=url, place=str(place), sha256=sha256)
    except Failure as failure:
        reason = "no answer" if "Silent" in failure.kinds else failure.reason
        if "invalid hash" in reason:
            raise ScorerError(f"{title} arrived damaged or in part from {url}: try again later.") from failure
        raise ScorerError(
            f"{title} cannot be downloaded from {url} ({reason}): try again later."
        ) from failure
    finally:
        for partial in place.parent.glob(f"{place.name}.*.partial"):
            partial.unlink(missing_ok=True)
    return place


def fingerprint(path: Path) -> str:
    """A short name for a file's contents, which says which local weights judged."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:12]


def _cached(source: Source) -> Path | None:
    """The snapshot that has all the files, whichever tool has put it into the Hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    find = partial(try_to_load_from_cache, source.repo, cache_dir=cache_folder(), revision=source.revision)
    found = [find(name) for name in source.files]
    return Path(found[0]).parent if all(isinstance(path, str) for path in found) else None
