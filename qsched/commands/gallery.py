"""`gallery`: examples by outcome for the page, from held-out prompts."""

import argparse

from qsched.commands.options import add_backbone, add_k, open_backbone
from qsched.commands.output import progress, table, writable_folder, write_files
from qsched.commands.result import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The preset, and where the examples go."""
    parser.add_argument("--preset", required=True, metavar="FILE", help="the preset whose effect is shown")
    parser.add_argument(
        "--prompts", metavar="FILE|N", help="a file, or N built-in held-out prompts (default: all of them)"
    )
    parser.add_argument("--out", metavar="FILE", help="default: assets/gallery/BACKBONE.json")
    add_backbone(parser, choose=False)
    add_k(parser)


def run(args: argparse.Namespace) -> Result:
    """Compare every prompt; the text counts the outcomes and lists the examples."""
    from pathlib import Path

    from qsched.evaluation.gallery import FOLDER, make_gallery
    from qsched.presets import load_preset
    from qsched.prompts.builtin import choose_prompts

    preset = load_preset(args.preset)
    path = Path(args.out) if args.out else FOLDER / f"{preset.backbone}.json"
    writable_folder(path.parent)
    backbone = open_backbone(args, preset.backbone)
    prompts = choose_prompts(args.prompts, backbone.spec.family, "held-out")
    with progress(f"gallery {preset.bits}", "prompt") as show:
        gallery = make_gallery(backbone, preset, prompts, args.k, show)
    write_files(path.parent, {path.name: gallery.to_json().encode()})
    rows = [["prompt", "naive", "Q-Sched", "difference"]] + [
        [example.prompt, f"{example.naive:.3f}", f"{example.qsched:.3f}", f"{example.difference:+.3f}"]
        for example in gallery.all_examples
    ]
    counts = ", ".join(f"{outcome} {count}" for outcome, count in gallery.counts.items())
    text = f"JAQ against naive on {len(prompts)} prompts: {counts}. Written to {path}.\n\n{table(rows)}"
    return Result({"path": str(path), "counts": gallery.counts}, text)
