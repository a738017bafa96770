"""Where the scorers' weights come from, and the one sentence when they cannot be had.

`fetch` is the only place that asks the Hub, and `fetch_url` the only one that asks another server, so nothing that a
scoring library would download by itself at construction (without a timeout, into a cache of its own) is ever reached.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from qsched.backbones.spec import BackboneError

TIMEOUT = 8.0  # seconds for an answer; with what surrounds it a message comes within 10


class ScorerError(BackboneError):
    """A scorer cannot be had; the message is one clear sentence for the user."""


@dataclass(frozen=True)
class Weights:
    """One repository's files; `repo`, `files`, `revision` and `bytes` are what `backbones.spec.Source` holds.

    title: what a sentence calls them.
    """

    title: str
    repo: str
    files: tuple[str, ...]
    revision: str | None = None
    bytes: int = 0

    @property
    def folder_name(self) -> str:
        """The repository's own name, which a local copy's folder has."""
        return self.repo.rsplit("/", 1)[-1]


def fetch(weights: Weights, folder: str | Path | None = None, offline: bool | None = None) -> Path:
    """The folder that holds these files: a local copy, else the Hub's cache, else a download.

    Args:
        folder: a folder with local copies, one folder per repository, named like it; nothing else is looked at then.
        offline: never ask the Hub; None asks it unless HF_HUB_OFFLINE is set.
    Raises:
        ScorerError: one sentence that names what is missing and how to get it, within 10 seconds.
    """
    if folder is not None:
        place = Path(folder) / weights.folder_name
        if missing := [name for name in weights.files if not (place / name).is_file()]:
            raise ScorerError(f"{weights.title} should be in {place}, where {missing[0]} is missing.")
        return place
    if (cached := _cached(weights)) is not None:
        return cached
    if is_offline(offline):
        raise ScorerError(
            f"{weights.title} is not on this machine and the program is offline: run `{_command(weights)}` "
            "while there is a network."
        )
    from huggingface_hub import snapshot_download  # fails at once where hf_hub_download retries for 23 s

    try:
        place = Path(
            snapshot_download(
                weights.repo, revision=weights.revision, allow_patterns=list(weights.files), etag_timeout=TIMEOUT
            )
        )
    except Exception as error:  # the client raises its own errors, httpx's, requests' and the system's
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise ScorerError(
            f"{weights.title} cannot be downloaded from {weights.repo} ({reason}): try again later, or copy it with "
            f"`{_command(weights)}`."
        ) from error
    if missing := [name for name in weights.files if not (place / name).is_file()]:
        raise ScorerError(f"{weights.title} is incomplete: {weights.repo} has no {missing[0]}.")
    return place


def fetch_url(title: str, url: str, place: Path, sha256: str, offline: bool | None = None) -> Path:
    """A file at `place`, downloaded from `url` if it is not there yet; whole and checked, or not at all.

    Args:
        sha256: how the file's SHA-256 begins.
    Raises:
        ScorerError: one sentence.
    """
    if place.is_file():
        return place
    if is_offline(offline):
        raise ScorerError(f"{title} is not on this machine and the program is offline: put {url} into {place.parent}.")
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    digest = hashlib.sha256()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with urlopen(url, timeout=TIMEOUT) as answer, temporary.open("wb") as file:
            while block := answer.read(1 << 20):
                digest.update(block)
                file.write(block)
        if not digest.hexdigest().startswith(sha256):
            raise ScorerError(f"{title} arrived damaged from {url}: try again later.")
        os.replace(temporary, place)
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise ScorerError(f"{title} cannot be downloaded from {url} ({reason}): try again later.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return place


def is_offline(offline: bool | None = None) -> bool:
    """Whether nothing may be asked of the network: as told, else as HF_HUB_OFFLINE says."""
    if offline is not None:
        return offline
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def fingerprint(path: Path) -> str:
    """A short name for a file's contents, which says which local weights judged."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:12]


def _cached(weights: Weights) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(weights.repo, name, revision=weights.revision) for name in weights.files]
    if not all(isinstance(path, str) for path in found):
        return None
    return Path(found[0]).parents[weights.files[0].count("/")]


def _command(weights: Weights) -> str:
    return f"hf download {weights.repo} {' '.join(weights.files)}"
