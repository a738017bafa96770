"""The Hub's files in the cache: which snapshot is complete, and how a finished file gets its name there.

The layout is huggingface_hub's own (blobs, snapshots, refs), so that every tool finds the files. Beside them,
in qsched/COMMIT.json, stands which files that commit has: without such a list nobody can tell a part from the
whole.
"""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import huggingface_hub
from huggingface_hub.utils import filter_repo_objects

from qsched.hub.session import cache_folder
from qsched.hub.source import Source
from qsched.hub.transfer import RemoteFile, partial_path

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
COMMIT = re.compile(r"[0-9a-f]{40}")
LISTS = "qsched"  # the folder of the lists


def storage_of(repo: str) -> Path:
    """The folder of a repository in huggingface_hub's cache."""
    return cache_folder() / ("models--" + repo.replace("/", "--"))


def complete_snapshot(source: Source) -> Path | None:
    """The snapshot that has all that the source asks for, if there is one."""
    storage = storage_of(source.repo)
    for commit in _commits(storage, source.revision or "main"):
        folder = storage / "snapshots" / commit
        wanted = select(_listed(source.repo, commit), source)
        if wanted and all(has(folder / path, size) for path, size in wanted.items()):
            return folder
    return None


def _commits(storage: Path, revision: str) -> Iterator[str]:
    """The commits that a revision may stand for, the likeliest first."""
    if COMMIT.fullmatch(revision):
        yield revision
        return
    try:
        noted = (storage / "refs" / revision).read_text("utf-8").strip()
    except (OSError, ValueError):
        noted = ""
    if COMMIT.fullmatch(noted):
        yield noted
    # the branch may have moved on since another part came
    for path in sorted((storage / LISTS).glob("*.json")):
        if revision in _manifest(path)["revisions"]:
            yield path.stem


def _manifest(path: Path) -> dict:
    try:
        data = json.loads(path.read_text("utf-8"))
        return {
            "revisions": list(data["revisions"]),
            "files": {str(k): int(v) for k, v in data["files"].items()},
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"revisions": [], "files": {}}


def _listed(repo: str, commit: str) -> dict[str, int]:
    """Path and size of every file of a commit, as noted here or by huggingface_hub; nothing if nobody has."""
    files = _manifest(storage_of(repo) / LISTS / f"{commit}.json")["files"]
    if not files and hasattr(huggingface_hub, "get_cached_repo_tree"):
        try:
            tree = huggingface_hub.get_cached_repo_tree(repo, revision=commit, cache_dir=cache_folder())
            files = {file.path: file.size for file in tree}
        except Exception:  # no listing, or one of another version
            files = {}
    return files


def select(files: Mapping[str, int], source: Source) -> dict[str, int]:
    """Those of a commit's files that a source asks for."""
    paths = filter_repo_objects(files, allow_patterns=list(source.files) or None)
    return {path: files[path] for path in paths}


def has(path: Path, size: int) -> bool:
    """Whether a file is there in its full size; only verified ones bear these names."""
    return size_of(path) == size


def size_of(path: Path) -> int:
    """Bytes of a file, -1 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def link(blob: Path, pointer: Path) -> None:
    """Give a verified file its name in a snapshot."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:  # a file system without symbolic links
        try:
            os.link(blob, pointer)
        except OSError:
            shutil.copyfile(blob, pointer)


def arrived(storage: Path, file: RemoteFile) -> int:
    """How many bytes of a file are here already."""
    blob = storage / "blobs" / file.checksum
    return file.size if has(blob, file.size) else max(0, min(size_of(partial_path(blob)), file.size))


def note(storage: Path, revision: str, commit: str, sizes: dict[str, int]) -> None:
    """Write down what the commit consists of and which revision it was."""
    path = storage / LISTS / f"{commit}.json"
    revisions = sorted({revision, *_manifest(path)["revisions"]})
    _write(path, json.dumps({"revisions": revisions, "files": sizes}, indent=1))
    if not COMMIT.fullmatch(revision):
        _write(storage / "refs" / revision, commit)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)


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
    for file, size, _ in files:
        digest.update(f"{file.relative_to(root).as_posix()}\0{size}\0".encode())
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:12]
