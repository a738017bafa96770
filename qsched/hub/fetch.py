"""Weights from the Hugging Face Hub, in huggingface_hub's own cache.

folder = fetch(Source("SimianLuo/LCM_Dreamshaper_v7", ("unet/*.safetensors", "*.json")))
revision_of(folder)  # the commit hash
"""

import hashlib
import re
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from qsched.hub.errors import Failure, cache_folder, explain, is_offline
from qsched.hub.process import converse
from qsched.hub.source import OWNERS, BackboneError, Source
from qsched.words import size

__all__ = ["fetch", "is_ready", "revision_of"]

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
COMMIT = re.compile(r"[0-9a-f]{40}")
KEPT = " (the files that have arrived are kept)"
Progress = Callable[[int, int], None]
_one_at_a_time: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def fetch(
    source: Source, *, offline: bool | None = None, on_progress: Progress | None = None, timeout: float = 10
) -> Path:
    """The folder that holds a source's files: a local folder as it is, else the Hub's snapshot, downloaded if
    need be.

    A snapshot that is complete in the cache is used without asking the Hub. Of a download that broke off the
    files that were finished are kept. Calls for the same repository wait for one another.

    Args:
        offline: True: do not ask the Hub; None: as HF_HUB_OFFLINE says.
        on_progress: called from this thread with (bytes here, bytes in all); not at all if nothing has to be
            fetched.
        timeout: seconds without any progress until it gives up.
    Raises:
        BackboneError: one sentence, whatever went wrong.
    """
    folder = Path(source.repo).expanduser()
    if folder.is_dir():
        return folder
    check_names(source)
    with _one_at_a_time[source.repo]:
        if (found := _complete(source)) is not None:
            return found
        if is_offline(offline):
            raise BackboneError(
                f"{source.repo} is not here in full, and the Hub is not asked (offline): run "
                f"`{_pull_command(source)}` where there is a network."
            )
        return _download(source, on_progress or (lambda done, total: None), timeout)


def _download(source: Source, on_progress: Progress, timeout: float) -> Path:
    cache = cache_folder()
    blobs = cache / f"models--{source.repo.replace('/', '--')}" / "blobs"

    def show(line: dict[str, Any]) -> None:
        if line.get("rest", 0) > (free := shutil.disk_usage(_existing(cache)).free):
            need = f"{size(line['rest'])} of {source.repo}"
            raise BackboneError(
                f"The disk is too full for {need}: {size(free)} are free in {cache} (HF_HOME chooses another "
                "folder)."
            )
        on_progress(line["done"], line["total"])

    try:
        asked = {"repo": source.repo, "revision": source.revision, "files": list(source.files)}
        asked |= {"cache": str(cache), "blobs": str(blobs)}
        return Path(converse("snapshot", timeout, show, blobs, **asked))
    except Failure as failure:
        raise BackboneError(explain(failure, source.repo, source.revision, KEPT)) from failure


def is_ready(source: Source) -> bool:
    """Whether `fetch` would return at once, without asking the Hub."""
    if Path(source.repo).expanduser().is_dir():
        return True
    try:
        check_names(source)
    except BackboneError:
        return False
    return _complete(source) is not None


def _complete(source: Source) -> Path | None:
    """The snapshot in the cache that has all that the source asks for, if there is one."""
    where = {"revision": source.revision, "cache_dir": cache_folder()}
    try:
        # without the list of a commit's files nobody can tell a part of it from the whole
        huggingface_hub.get_cached_repo_tree(source.repo, **where)
        return Path(
            huggingface_hub.snapshot_download(
                source.repo, allow_patterns=list(source.files) or None, local_files_only=True, **where
            )
        )
    except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError, OSError, ValueError):
        return None


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
    revision = PurePosixPath(source.revision or "main")
    if revision.is_absolute() or ".." in revision.parts or "\\" in str(revision):
        raise BackboneError(f"{source.revision!r} cannot be a revision of {source.repo}.")


def _pull_command(source: Source) -> str:
    owner = OWNERS.get(source.repo)
    if owner and not source.revision:
        return f"python -m qsched pull {owner}"
    place = f"{source.repo}@{source.revision}" if source.revision else source.repo
    return f"python -m qsched pull {owner or 'ID'} --source {place}"


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def revision_of(path: str | Path) -> str:
    """What identifies the weights in a folder (or a file): the commit of a Hub snapshot, else a hash of all
    its weights.
    """
    path = Path(path).absolute()
    for folder in (path, *path.parents):
        if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name):
            return folder.name
    files = (
        [path]
        if path.is_file()
        else sorted(p for p in path.rglob("*") if p.suffix in WEIGHTS and p.is_file())
    )
    return _hash(path, tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=64)
def _hash(root: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, length, _ in files:
        digest.update(f"{file.relative_to(root).as_posix()}\0{length}\0".encode())
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:12]
