"""Downloads and uploads in a process of their own, for `qsched.hub.process`.

huggingface_hub and torch.hub retry with growing pauses and wait without limit in some calls; a process that
gets nowhere can be killed, a thread cannot. It reads one request from stdin, a JSON object whose "call" is
one of CALLS, and writes lines of JSON: {"ready"}, {"done", "total", "rest"} as bytes arrive, then {"result"}
or {"error"}.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import filter_repo_objects
from tqdm import tqdm

from qsched.version import __version__

CHUNK = 256 << 10
"""Bytes between two signs of life."""
ABANDONED_S = 3600.0
"""A partial file that nobody has written to for so long was left by a process that was killed."""


def say(**line: Any) -> None:
    """One line to the process that waits."""
    print(json.dumps(line), flush=True)


class Lines(tqdm):
    """A progress bar that is lines on stdout; counted: bytes that need not be downloaded, and all bytes."""

    counted = 0, 0

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(
            *args, **kwargs | {"file": open(os.devnull, "w"), "disable": False, "mininterval": 0.1}
        )

    def display(self, *_args: Any, **_kwargs: Any) -> None:
        """Say how many bytes are here."""
        if self.unit == "B":
            cached, total = self.counted
            total = total or self.total or 0
            say(done=min(cached + int(self.n), total), total=total)


def snapshot(repo: str, revision: str | None, files: list[str], cache: str, blobs: str) -> str:
    """Download a repository's files into huggingface_hub's cache; the snapshot's folder.

    blobs: the cache's folder of the repository's contents.
    """
    api = HfApi(library_name="qsched", library_version=__version__)
    info = api.model_info(repo, revision=revision, files_metadata=True)
    listed = {entry.rfilename: entry for entry in info.siblings or ()}
    wanted = [listed[name] for name in filter_repo_objects(listed, allow_patterns=files or None)]
    if not wanted:
        raise LookupError(
            f"{repo} has none of the files that are needed: {', '.join(files) or 'it is empty'}"
        )
    sizes = {e.lfs.sha256 if e.lfs else e.blob_id: e.lfs.size if e.lfs else e.size for e in wanted}
    cached = sum(size for name, size in sizes.items() if (Path(blobs) / name).is_file())
    for partial in Path(blobs).glob("*.incomplete"):
        if time.time() - partial.stat().st_mtime > ABANDONED_S:
            partial.unlink(missing_ok=True)
    Lines.counted = cached, sum(sizes.values())
    say(done=cached, total=Lines.counted[1], rest=Lines.counted[1] - cached)
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    # by the branch's name, so that it is noted which commit the branch stands for
    return huggingface_hub.snapshot_download(
        repo, revision=revision, allow_patterns=files or None, cache_dir=cache, tqdm_class=Lines,
        library_name="qsched", library_version=__version__,
    )  # fmt: skip


def file(url: str, place: str, sha256: str) -> str:
    """Download one file, whole and with the right hash or not at all; its path."""
    from torch import hub

    hub.tqdm = Lines
    say(done=0, total=0)
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    hub.download_url_to_file(url, place, hash_prefix=sha256)
    return place


def push(folder: str, repo: str, kind: str, private: bool, title: str, token: str) -> str:
    """Upload a folder to a repository, which is made if need be; the address of the commit.

    kind: "model" or "space".
    """
    api = HfApi(token=token, library_name="qsched", library_version=__version__)
    sdk = {"space_sdk": "gradio"} if kind == "space" else {}
    api.create_repo(repo, repo_type=kind, private=True if private else None, exist_ok=True, **sdk)
    say(done=0, total=0)
    return str(api.upload_folder(repo_id=repo, repo_type=kind, folder_path=folder, commit_message=title))


CALLS = {"snapshot": snapshot, "file": file, "push": push}


def described(error: BaseException) -> dict[str, Any]:
    """What `qsched.hub.errors.explain` needs of an error."""
    if type(error).__name__ in ("LocalEntryNotFoundError", "IncompleteSnapshotError") and error.__cause__:
        error = error.__cause__
    response = getattr(error, "response", None)
    return {
        "kinds": [cls.__name__ for cls in type(error).__mro__],
        "status": getattr(response, "status_code", None),
        "code": response.headers.get("X-Error-Code") if response is not None else None,
        "errno": getattr(error, "errno", None),
        "text": str(error),
    }


def main() -> None:
    """Answer the one request on stdin."""
    asked = json.load(sys.stdin)
    call = CALLS[asked.pop("call")]
    if call is file:
        import torch.hub  # noqa: F401 - takes seconds on a busy machine, in which nothing else happens
    say(ready=True)
    try:
        say(result=call(**asked))
    except Exception as error:
        say(error=described(error))


if __name__ == "__main__":
    main()
