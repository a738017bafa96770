"""`space`: publish this app as a Hugging Face Space."""

import argparse

from qsched.commands.result import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to."""
    parser.add_argument("repo", metavar="OWNER/NAME", help="the Space, which is made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make a new Space private")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be uploaded")


def online(args: argparse.Namespace) -> bool:
    """Whether this command may ask the Hub."""
    return not args.dry_run


def run(args: argparse.Namespace) -> Result:
    """Upload the app, or say what would be uploaded."""
    from qsched.export.space import ROOT, publish_space
    from qsched.words import size

    url, files = publish_space(args.repo, private=args.private, dry_run=args.dry_run)
    total = sum((ROOT / name).stat().st_size for name in files if (ROOT / name).is_file())
    told = "would be uploaded" if args.dry_run else "uploaded"
    data = {"url": url, "files": list(files), "bytes": total, "dry_run": args.dry_run}
    return Result(data, f"{len(files)} files ({size(total)}) {told} to {url}")
