"""`export`: take the coefficients away as a diffusers scheduler, in a folder or on the Hub."""

import argparse
from typing import Any

from qsched.commands.options import add_backbone, open_scheduler
from qsched.commands.output import writable_folder
from qsched.commands.result import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which preset, and where to."""
    parser.add_argument(
        "--preset", required=True, metavar="FILE", help="the preset whose coefficients to take"
    )
    parser.add_argument("--out", metavar="DIR", help="folder for the scheduler (not needed with --push)")
    parser.add_argument(
        "--push", metavar="REPO", help="publish it on the Hub as OWNER/NAME, with a model card"
    )
    parser.add_argument("--private", action="store_true", help="with --push: make a new repository private")
    parser.add_argument(
        "--dry-run", action="store_true", help="with --push: only say what would be published"
    )
    add_backbone(parser, choose=False)


def online(args: argparse.Namespace) -> bool:
    """Whether this command may ask the Hub."""
    return args.push is not None and not args.dry_run


def run(args: argparse.Namespace) -> Result:
    """Write the folder, publish it; the text shows how to use it."""
    from qsched.export.usage import export_scheduler
    from qsched.presets import load_preset

    if args.out is None and args.push is None:
        raise ValueError("--out is missing: where should the scheduler go? (--push does without.)")
    if args.push is None and (args.private or args.dry_run):
        raise ValueError("--private and --dry-run say how to --push, and there is no --push.")
    preset = load_preset(args.preset)
    folder = None if args.out is None else writable_folder(args.out)
    scheduler = open_scheduler(args, preset.backbone)
    data, texts = {"coefficients": preset.coefficients.to_dict(), "mark": preset.mark}, []
    if folder is not None:
        snippet = export_scheduler(preset, scheduler, folder)
        files = sorted(path.name for path in folder.iterdir() if path.is_file())
        data |= {"folder": str(folder), "files": files, "snippet": snippet}
        texts.append(snippet.rstrip())
    if args.push is not None:
        data["published"] = _publish(args, preset, scheduler)
        texts.append(_summary(data["published"]))
    return Result(data, "\n\n".join(texts))


def _publish(args: argparse.Namespace, preset: Any, scheduler: Any) -> dict[str, Any]:
    from qsched.export.publish import publish

    url, files = publish(preset, scheduler, args.push, private=args.private, dry_run=args.dry_run)
    return {"url": url, "files": list(files), "dry_run": args.dry_run, "private": args.private}


def _summary(published: dict[str, Any]) -> str:
    names = ", ".join(published["files"])
    return f"{names} {'would be' if published['dry_run'] else 'are'} published at {published['url']}."
