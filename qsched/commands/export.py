"""`export`: take the coefficients away as a diffusers scheduler."""

import argparse

from qsched.commands import Result
from qsched.commands.options import add_backbone, open_backbone
from qsched.commands.output import writable_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which preset, and where to."""
    parser.add_argument("--preset", required=True, metavar="FILE", help="the preset whose coefficients to take")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the scheduler")
    add_backbone(parser, choose=False)


def run(args: argparse.Namespace) -> Result:
    """Write the folder; the text shows how to use it."""
    from qsched.presets import export_scheduler, load_preset

    preset = load_preset(args.preset)
    folder = writable_folder(args.out)
    snippet = export_scheduler(preset, open_backbone(args, preset.backbone).scheduler, folder)
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    data = {"folder": str(folder), "files": files, "coefficients": preset.coefficients.to_dict(), "snippet": snippet}
    return Result(data, snippet.rstrip())
