"""`backbones`: what can run here."""

import argparse
from dataclasses import asdict

from qsched.commands import Result
from qsched.commands.options import add_backbone, open_backbone
from qsched.commands.output import megabytes, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only where to look."""
    add_backbone(parser, choose=False)


def run(args: argparse.Namespace) -> Result:
    """Every backbone with its facts, and ready or why not (each is loaded once to find out)."""
    from qsched.backbones import SPECS, BackboneError

    found = []
    for spec in SPECS.values():
        try:
            reason, parameters = None, sum(p.numel() for p in open_backbone(args, spec.id).denoiser.parameters())
        except BackboneError as error:
            reason, parameters = str(error), None
        facts = {name: value for name, value in asdict(spec).items() if name != "source"}
        found.append(facts | {"parameters": parameters, "ready": reason is None, "reason": reason})
    rows = [["id", "steps", "pixels", "licence", "download", "memory", "state"]]
    for f in found:
        download = megabytes(f["download_bytes"]) if f["download_bytes"] else "none"
        steps = f"{min(f['steps'])}-{max(f['steps'])}"
        state = "ready" if f["ready"] else f["reason"]
        rows.append([f["id"], steps, str(f["size"]), f["licence"], download, megabytes(f["memory_bytes"]), state])
    return Result({"backbones": found}, table(rows))
