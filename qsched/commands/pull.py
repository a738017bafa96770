"""`pull`: fetch a backbone's files and its scorer's; broken off, the same command goes on where
it stopped.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsched.commands.options import add_scorer
from qsched.commands.result import Interrupted, Result
from qsched.words import size

if TYPE_CHECKING:
    from qsched.models.parts import Part


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The backbone's id, and where else its files may come from."""
    parser.add_argument("id", metavar="ID", help="which backbone, see `backbones`")
    parser.add_argument(
        "--source",
        metavar="HUB_ID",
        help="another repository of the same family, such as a fine-tune (ID@REVISION pins it)",
    )
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit (default: the backbone's own)"
    )
    add_scorer(parser)
    parser.add_argument("--offline", action="store_true", help="only check that everything is here")


def online(args: argparse.Namespace) -> bool:
    """Whether this command may ask the Hub."""
    return not args.offline


def run(args: argparse.Namespace) -> Result:
    """Fetch all parts of the backbone and of its scorer, and say what came and where it lies."""
    from qsched.models.parts import PHOTO_SCORER, remote_parts
    from qsched.models.registry import SPECS

    if args.id not in SPECS:
        raise ValueError(f"Unknown backbone {args.id!r}; known are {', '.join(SPECS)}.")
    spec = SPECS[args.id]
    if args.source:
        spec = spec.at(args.source)
    if args.revision:
        spec = replace(spec, revision=args.revision)
    fetched = [_fetch(part, args.offline) for part in remote_parts(spec, args.scorer or PHOTO_SCORER)]
    lines = [_summary(part) for part in fetched]
    if not fetched or (args.source and Path(args.source).expanduser().is_dir()):
        here = (
            f"{args.source} is a folder on this machine" if args.source else f"{spec.id} ships with the app"
        )
        lines.insert(0, f"{here}: there is nothing to download" + (" of it." if fetched else "."))
    if args.revision:
        lines.append(f"`--source {spec.source}@{args.revision}` uses it.")
    text = "\n".join(lines)
    count = sum(part["downloaded_bytes"] for part in fetched)
    return Result(
        {"id": spec.id, "downloaded_bytes": count, "ready": True, "sources": fetched, "message": text}, text
    )


def _fetch(part: "Part", offline: bool) -> dict[str, Any]:
    """One part, with a progress bar on a terminal."""
    from tqdm import tqdm

    from qsched.hub.fetch import revision_of

    first: list[int] = []
    with tqdm(desc=part.name, unit="B", unit_scale=True, disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            first.append(done) if not first else None
            bar.total, bar.n = total, done
            bar.refresh()

        try:
            place = part.fetch(offline=offline or None, on_progress=show)
        except KeyboardInterrupt:
            raise Interrupted("Interrupted; what has arrived is kept: the same command goes on.") from None
        came = bar.n - first[0] if first else 0
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    return {
        "repo": part.name, "revision": revision_of(place),
        "folder": str(place.parent if place.is_file() else place),
        "files": len(files), "bytes": sum(path.stat().st_size for path in files), "downloaded_bytes": came,
    }  # fmt: skip


def _summary(part: dict[str, Any]) -> str:
    came = f"{size(part['downloaded_bytes'])} fetched" if part["downloaded_bytes"] else "nothing to fetch"
    count = "1 file" if part["files"] == 1 else f"{part['files']} files"
    return (
        f"{part['repo']} at {part['revision'][:12]} is complete ({count}, {size(part['bytes'])}; {came}) "
        f"in {part['folder']}"
    )
