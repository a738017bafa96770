"""`search`: the best coefficients for a bit-width, on a grid that can be interrupted and resumed."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from qsched.commands import Interrupted, Result
from qsched.commands.options import add_backbone, add_k, add_quantization, number, open_backbone, quantization, whole
from qsched.commands.output import writable_folder

if TYPE_CHECKING:
    from qsched.presets import Preset
    from qsched.search import Point

DEFAULT_PROMPTS = "20"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The grid, the images, and where results go."""
    parser.add_argument("--out", metavar="PRESET.json", help="the preset to write (not needed with --dry-run)")
    parser.add_argument(
        "--grid", type=whole(2, 1001), default=11, metavar="N", help="N x N points (default: %(default)s)"
    )
    parser.add_argument(
        "--range",
        type=number(0),
        nargs=2,
        default=(0.8, 1.2),
        metavar=("LOW", "HIGH"),
        help="of both coefficients (default: 0.8 1.2)",
    )
    parser.add_argument(
        "--shape",
        default="ramp",
        choices=("ramp", "constant"),
        help="ramp: from the point to 1 over the steps (default: %(default)s)",
    )
    parser.add_argument(
        "--prompts",
        default=DEFAULT_PROMPTS,
        metavar="FILE|N",
        help="a file with one prompt per line, or the first N built-in ones (default: %(default)s)",
    )
    parser.add_argument("--steps", type=whole(1), help="denoiser calls (default: the backbone's own)")
    parser.add_argument("--seed", type=whole(0), default=0, help="of the noise (default: %(default)s)")
    parser.add_argument(
        "--seeds", type=whole(1, 1000), default=1, metavar="N", help="noise draws per prompt (default: %(default)s)"
    )
    parser.add_argument("--strategy", default="exhaustive", choices=("exhaustive",), help="(default: %(default)s)")
    parser.add_argument("--storage", metavar="URL", help="Optuna storage (default: an SQLite file beside the preset)")
    parser.add_argument("--study", metavar="NAME", help="name of the study (default: derived from all settings)")
    parser.add_argument("--fresh", action="store_true", help="start anew instead of resuming")
    parser.add_argument("--dry-run", action="store_true", help="only measure what it would cost")
    add_backbone(parser)
    add_quantization(parser)
    add_k(parser)


def run(args: argparse.Namespace) -> Result:
    """Search, write the preset, say what was found."""
    from tqdm import tqdm

    from qsched.presets import save_preset
    from qsched.prompts import choose_prompts
    from qsched.search import estimate, grid, search

    if args.out is None and not args.dry_run:
        raise ValueError("--out is missing: where should the preset go? (--dry-run does without.)")
    grid(*args.range, args.grid)
    how, out = quantization(args), None if args.out is None else Path(args.out)
    if out is not None and not args.dry_run:
        if out.is_dir():
            raise ValueError(f"{out} is a folder: give --out the name of a file.")
        writable_folder(out.parent)
    storage = args.storage or (f"sqlite:///{out.with_suffix('.sqlite3')}" if out is not None else None)
    backbone = open_backbone(args)
    options = dict(
        prompts=choose_prompts(args.prompts, backbone.spec.family, "calibration"), steps=args.steps, seed=args.seed,
        seeds=args.seeds, c_range=tuple(args.range), resolution=args.grid, shape=args.shape, k=args.k,
    )  # fmt: skip
    if args.dry_run:
        stored = args.storage or (storage if out is not None and out.with_suffix(".sqlite3").exists() else None)
        plan = asdict(estimate(backbone, how, **options, storage=stored, study_name=args.study))
        return Result({"dry_run": True} | plan, _cost(plan))
    with tqdm(total=args.grid**2, desc=f"search {how.bits}", unit="point", disable=None) as bar:

        def show(point: "Point") -> None:
            bar.n = point.done
            bar.refresh()

        try:
            preset = search(
                backbone, how, **options, storage=storage, study_name=args.study, resume=not args.fresh, on_point=show
            )
        except KeyboardInterrupt:
            kept = "the finished points are kept" + (
                " in a study of their own" if args.fresh else ": the same command goes on"
            )
            raise Interrupted(f"Interrupted; {kept}.") from None
    save_preset(preset, out)
    found = preset.provenance["summary"]
    data = {
        "preset": str(out),
        "coefficients": preset.coefficients.to_dict(),
        "shape": preset.shape,
        "points_done": preset.provenance["points_done"],
        "duration_s": preset.provenance["duration_s"],
        "denoiser_calls": preset.provenance["denoiser_calls"],
        "summary": found,
        "scorer": preset.provenance["scorer"],
    }
    return Result(data, _found(preset, found, out))


def _cost(plan: dict) -> str:
    return (
        f"{plan['points']} points ({plan['stored']} of them stored already): {plan['images']} images, {plan['calls']} denoiser calls, "
        f"about {plan['seconds']:.0f} s at the measured {plan['images_per_second']:.1f} images/s."
    )


def _found(preset: "Preset", found: dict, out: Path) -> str:
    axis = preset.surface.c_x
    best, plain = found["best"], found["plain"] if 1.0 in axis else None
    lines = [
        f"Best of {found['cells']} points: c_x = {best['c_x']:g}, c_eps = {best['c_eps']:g} ({preset.shape}), JAQ {best['jaq']:.4f}"
        + (f" (plain scheduler {plain:.4f})." if plain is not None else ".")
    ]
    if found["failed"]:
        lines.append(f"{found['failed']} points failed: an image was not finite.")
    if preset.provenance["at_edge"]:
        lines.append("The best point lies on the edge of the grid: a wider --range may hold a better one.")
    return "\n".join([*lines, f"The preset is in {out}."])
