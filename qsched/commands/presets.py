"""`presets`: search and judge the presets of several bit-widths and step counts, one file each, taken up
where it was left.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from qsched.commands.options import (
    add,
    add_backbone,
    add_granularity,
    add_k,
    add_scorer,
    integer,
    open_backbone,
    quantization,
)
from qsched.commands.output import progress, writable_folder
from qsched.commands.result import Interrupted, Result
from qsched.settings import RESOLUTION, SEEDS

if TYPE_CHECKING:
    from qsched.models.base import Backbone
    from qsched.presets import Preset
    from qsched.search.options import SearchOptions

FOOTNOTE = (
    "Held-out prompts and noise: mean JAQ, then paired differences of Q-Sched to naive [95 % interval].\n"
    "Control: what the same coefficients do to the JAQ of full precision."
)
BITS = ("w8a8", "w4a8", "w3a8", "w4a4", "w2a8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which presets, how thoroughly, and where they go."""
    parser.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help="gets BITS-Nsteps.json; presets/BACKBONE is what the app shows",
    )
    parser.add_argument(
        "--bits", nargs="+", default=BITS, metavar="BITS", help=f"(default: {' '.join(BITS)})"
    )
    parser.add_argument(
        "--steps", type=integer(1), nargs="+", metavar="N", help="(default: all that the backbone runs in)"
    )
    add(parser, RESOLUTION, metavar="N")
    parser.add_argument(
        "--prompts", metavar="FILE|N", help="of the search (default: the built-in calibration prompts)"
    )
    parser.add_argument(
        "--held-out", metavar="FILE|N", help="prompts to judge on (default: the built-in held-out ones)"
    )
    add(parser, SEEDS, default=3, metavar="N")
    parser.add_argument(
        "--storage", metavar="URL", help="Optuna storage (default: searches.sqlite3 in the folder)"
    )
    add_backbone(parser)
    add_granularity(parser)
    add_scorer(parser)
    add_k(parser)


def run(args: argparse.Namespace) -> Result:
    """One preset after the other: the whole grid, then a pair for each end of the path, then the held-out
    prompts.
    """
    from qsched.presets import preset_name, save_preset
    from qsched.prompts.builtin import choose_prompts
    from qsched.search.options import SearchOptions

    folder = Path(args.out)
    writable_folder(folder)
    hows = [quantization(args, bits) for bits in args.bits]
    backbone = open_backbone(args)
    family = backbone.spec.family
    prompts = choose_prompts(args.prompts, family, "calibration")
    unseen = choose_prompts(args.held_out, family, "held-out")
    storage, made = args.storage or f"sqlite:///{folder / 'searches.sqlite3'}", {}
    alike = {"seeds": args.seeds, "resolution": args.resolution, "k": args.k}
    one, more = {"strategy": "shared", "shape": "constant"}, {"strategy": "ends", "whole_grid": True}
    todo = [
        SearchOptions(how, prompts, steps, **alike, **(one if steps == 1 else more))
        for steps in args.steps or backbone.spec.steps
        for how in hows
    ]
    for options in todo:
        options.checked(backbone)
    try:
        for number, options in enumerate(todo, 1):
            name = preset_name(options.quantization.bits, options.steps, options.quantization.method)
            made[name] = _made(
                backbone, options, unseen, storage, folder / name, f"{number}/{len(todo)} {name[:-5]}"
            )
            save_preset(made[name], folder / name)
    except KeyboardInterrupt:
        raise Interrupted("Interrupted; what is finished is kept: the same command goes on.") from None
    return Result(
        {"folder": str(folder), "presets": {n: p.held_out["differences"] for n, p in made.items()}},
        _table(made),
    )


def _made(
    backbone: "Backbone", options: "SearchOptions", unseen: list[str], storage: str, path: Path, label: str
) -> "Preset":
    """A preset with its held-out numbers; those that the file has are kept if they are of the same
    coefficients.
    """
    from qsched.evaluation.held_out import evaluate
    from qsched.evaluation.result import COLUMNS
    from qsched.presets import load_preset
    from qsched.prompts.builtin import categorised
    from qsched.search.run import search

    with progress(f"{label}: search", "point") as show:
        preset = search(backbone, options, storage=storage, on_progress=lambda p: show(p.done, p.total))
    held = load_preset(path) if path.exists() else None
    same = lambda name: getattr(held, name) == getattr(preset, name)
    judged = held and (held.held_out.get("prompts"), len(held.held_out.get("seeds", ()))) == (
        unseen,
        options.seeds,
    )
    if judged and all(map(same, ("revision", "coefficients", "settings"))):
        preset.held_out = held.held_out
    else:
        categories = categorised(unseen, backbone.spec.family, "held-out")
        with progress(f"{label}: held-out", "image") as show:
            show(0, len(COLUMNS) * len(unseen) * options.seeds)
            result = evaluate(
                backbone, preset, unseen, options.seeds, k=options.k, categories=categories, on_batch=show
            )
        preset.held_out = result.to_dict()
    return preset


def _table(presets: dict[str, "Preset"]) -> str:
    """Markdown: what every preset changes on held-out prompts, with its control."""
    from qsched.commands.evaluation_report import markdown_table, shown
    from qsched.comparison.result import NAIVE, QSCHED
    from qsched.evaluation.result import METRICS
    from qsched.surfaces.intervals import Estimate

    metrics = ("jaq", "alignment", "quality", "ssim")
    rows = [["preset", NAIVE, QSCHED, *(METRICS[metric] for metric in metrics), "control"]]
    for name, preset in presets.items():
        columns, (gain, control, _) = preset.held_out["columns"], preset.held_out["differences"].values()
        means = [f"{columns[column]['jaq']['mean']:.3f}" for column in (NAIVE, QSCHED)]
        changes = [shown(Estimate(**gain[metric]), metric, "+") for metric in metrics]
        rows.append([name[:-5], *means, *changes, shown(Estimate(**control["jaq"]), "jaq", "+")])
    return f"{markdown_table(rows)}\n\n{FOOTNOTE}"
