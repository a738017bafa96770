"""One file from the Hub, whole and verified or not at all, resumed where an earlier attempt stopped.

huggingface_hub writes each attempt to a file of its own and deletes it on failure, so that a broken
connection or a killed process costs the whole file, which may have 24 GB; and it does not compare checksums.
Hence these 100 lines.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_session

from qsched.hub.session import Refused, TransferState, kinds

BLOCK = 1 << 20


class Damaged(Exception):
    """What arrived is not what the Hub lists."""


class Stopped(Exception):
    """Another part of the download failed, or the user has had enough."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub lists it. checksum: sha256 of the content (lfs), else the SHA-1 that git gives it."""

    path: str
    size: int
    checksum: str
    lfs: bool

    def hasher(self) -> Any:
        """A fresh hash that ends at `checksum` after the whole content."""
        return hashlib.sha256() if self.lfs else hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)


def partial_path(blob: Path) -> Path:
    """Where the bytes that have arrived so far are kept."""
    return blob.with_name(blob.name + ".incomplete")


def download(
    url: str, file: RemoteFile, blob: Path, headers: Mapping[str, str], timeout: float, watch: TransferState
) -> None:
    """Fetch `file` from `url` to `blob`; the partial file beside it survives every failure but a wrong
    checksum.

    The bytes already in the partial file count as done in `watch`.

    Args:
        timeout: seconds to wait for the socket.
    Raises:
        Refused, Damaged, Stopped, OSError, and what the HTTP library raises.
    """
    partial = partial_path(blob)
    while True:
        with open(partial, "a+b") as out:
            digest, kept = _read_back(file, out, watch)
            digest = _receive(url, file, out, digest, headers, timeout, watch)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() == file.checksum:
            os.replace(partial, blob)
            return
        partial.unlink()
        watch.add(-file.size)
        if not kept:  # else the damage may be in what an earlier attempt left: once more from the start
            raise Damaged(f"{file.path} arrived with a wrong checksum")


def _read_back(file: RemoteFile, out: Any, watch: TransferState) -> tuple[Any, int]:
    """The hash of what an earlier attempt has left, and how many bytes that was."""
    digest, kept = file.hasher(), os.fstat(out.fileno()).st_size
    if kept > file.size:
        out.truncate(0)
        watch.add(-min(kept, file.size))
        kept = 0
    out.seek(0)
    while block := out.read(BLOCK):
        digest.update(block)
        watch.beat()
        _go_on(watch)
    return digest, kept


def _receive(
    url: str,
    file: RemoteFile,
    out: Any,
    digest: Any,
    headers: Mapping[str, str],
    timeout: float,
    watch: TransferState,
) -> Any:
    """Append the rest, in several requests if the connection breaks; returns the hash of all bytes."""
    best = -1
    while (have := out.seek(0, os.SEEK_END)) < file.size:
        if have <= best:  # the last request brought nothing
            raise Damaged(f"{file.path} arrived cut off after {have} of {file.size} bytes")
        best = have
        asked = (
            dict(headers) | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        )
        try:
            with get_session().stream(
                "GET", url, headers=asked, timeout=timeout, follow_redirects=True
            ) as answer:
                if answer.status_code >= 400 and answer.status_code != 416:
                    raise Refused(answer.status_code, answer.headers.get("X-Error-Code") or "")
                if have and answer.status_code == 200:  # the server knows no ranges
                    out.truncate(0)
                    watch.add(-have)
                    digest, have = file.hasher(), 0
                for block in answer.iter_bytes() if answer.status_code < 400 else ():
                    _go_on(watch)
                    have += len(block)
                    if have > file.size:
                        raise Damaged(f"{file.path} is larger than the {file.size} bytes that the Hub lists")
                    out.write(block)
                    digest.update(block)
                    watch.add(len(block))
        except Exception as error:
            out.flush()
            broke = kinds(error) & {"NetworkError", "RemoteProtocolError"}
            if not broke or out.seek(0, os.SEEK_END) <= best:
                raise
    watch.beat()
    return digest


def _go_on(watch: TransferState) -> None:
    if watch.stopped.is_set():
        raise Stopped
