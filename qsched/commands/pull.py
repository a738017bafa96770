"""`pull`: fetch a backbone's files from the Hub; broken off, the same command goes on where it stopped."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsched.commands import Interrupted, Result
from qsched.commands.output import megabytes

if TYPE_CHECKING:
    from qsched.backbones.spec import Source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The backbone's id, and where else its files may come from."""
    parser.add_argument("id", metavar="ID", help="which backbone, see `backbones`")
    parser.add_argument("--source", metavar="HUB_ID", help="another repository of the same family, such as a fine-tune")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit (default: the backbone's own)")
    parser.add_argument("--offline", action="store_true", help="only check that everything is here")


def online(args: argparse.Namespace) -> bool:
    """Whether this command may ask the Hub."""
    return not args.offline


def run(args: argparse.Namespace) -> Result:
    """Fetch all sources of the backbone, and say what came and where it lies."""
    from qsched.backbones import SPECS

    if args.id not in SPECS:
        raise ValueError(f"Unknown backbone {args.id!r}; known are {', '.join(SPECS)}.")
    spec = SPECS[args.id]
    if args.source:
        spec = spec.at(args.source)
    if args.revision:
        spec = replace(spec, revision=args.revision)
    remote = [source for source in spec.sources() if not Path(source.repo).is_dir()]
    if remote:
        fetched = [_fetch(source, args.offline) for source in remote]
        text = "\n".join(_told(part) for part in fetched)
    elif args.source:
        fetched, text = [], f"{args.source} is a folder on this machine: there is nothing to download."
    else:
        fetched, text = [], f"{spec.id} ships with the app: there is nothing to download."
    count = sum(part["downloaded_bytes"] for part in fetched)
    return Result({"id": spec.id, "downloaded_bytes": count, "ready": True, "sources": fetched, "message": text}, text)


def _fetch(source: "Source", offline: bool) -> dict[str, Any]:
    """One source, with a progress bar on a terminal."""
    from tqdm import tqdm

    from qsched.backbones.hub import fetch, revision_of

    first: list[int] = []
    with tqdm(desc=source.repo, unit="B", unit_scale=True, disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            first.append(done) if not first else None
            bar.total, bar.n = total, done
            bar.refresh()

        try:
            folder = fetch(source, offline=offline or None, on_progress=show)
        except KeyboardInterrupt:
            raise Interrupted("Interrupted; what has arrived is kept: the same command goes on.") from None
        came = bar.n - first[0] if first else 0
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "repo": source.repo, "revision": revision_of(folder), "folder": str(folder), "files": len(files),
        "bytes": sum(path.stat().st_size for path in files), "downloaded_bytes": came,
    }  # fmt: skip


def _told(part: dict[str, Any]) -> str:
    came = f"{megabytes(part['downloaded_bytes'])} fetched" if part["downloaded_bytes"] else "nothing to fetch"
    return (
        f"{part['repo']} at {part['revision'][:12]} is complete ({part['files']} files, {megabytes(part['bytes'])}; {came}) "
        f"in {part['folder']}"
    )
