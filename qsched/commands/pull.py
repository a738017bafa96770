"""`pull`: fetch a backbone's weights, where there is something to fetch."""

import argparse

from qsched.commands import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The backbone's id."""
    parser.add_argument("id", metavar="ID", help="which backbone, see `backbones`")


def run(args: argparse.Namespace) -> Result:
    """Every backbone of this version ships with the app, so the answer is where it lies."""
    from qsched.backbones import SPECS, load_backbone

    load_backbone(args.id, device="cpu")
    spec = SPECS[args.id]
    text = f"{spec.id} ships with the app: there is nothing to download."
    return Result({"id": spec.id, "downloaded_bytes": spec.download_bytes, "ready": True, "message": text}, text)
