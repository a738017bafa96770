"""`search`: the best coefficients for a bit-width, interrupted and resumed at will, by one
process or many.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from qsched.commands.options import (
    add,
    add_backbone,
    add_decoder,
    add_k,
    add_quantization,
    add_scorer,
    add_steps,
    number,
    open_backbone,
    quantization,
)
from qsched.commands.output import progress, table, writable_folder
from qsched.commands.result import Interrupted, Result
from qsched.settings import HIGH, LOW, PAIR_SHAPE, RESOLUTION, SEED, SEEDS, STRATEGY

if TYPE_CHECKING:
    from qsched.models.base import Backbone
    from qsched.presets import Preset
    from qsched.quantization import Quantization
    from qsched.search.run import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The grid, the images, and where results go."""
    parser.add_argument(
        "--out", metavar="PRESET.json", help="the preset to write (not needed with --dry-run)"
    )
    add(parser, RESOLUTION, metavar="N")
    parser.add_argument(
        "--range",
        type=number(0),
        nargs=2,
        default=(LOW.default, HIGH.default),
        metavar=("LOW", "HIGH"),
        help="of both coefficients (default: 0.8 1.2)",
    )
    add(parser, PAIR_SHAPE)
    parser.add_argument(
        "--prompts",
        metavar="FILE|N",
        help="a file of prompts, or how many of the built-in calibration prompts (default: all 25)",
    )
    add_steps(parser)
    add(parser, SEED)
    add(parser, SEEDS, metavar="N")
    fit = "; fit: least squares per step, without a scored image (default: %(default)s)"
    add(parser, STRATEGY, choices=(*STRATEGY.choices, "fit"), help=STRATEGY.help + fit)
    parser.add_argument(
        "--whole-grid",
        action="store_true",
        help="ends, per-step: compute the whole grid first, so that the surface is whole",
    )
    parser.add_argument("--storage", metavar="URL",
        help="Optuna storage; processes that share it share the work "
                        "(default: an SQLite file beside the preset)")  # fmt: skip
    parser.add_argument(
        "--study", metavar="NAME", help="name of the study (default: derived from all settings)"
    )
    parser.add_argument("--fresh", action="store_true", help="start anew instead of resuming")
    parser.add_argument("--dry-run", action="store_true", help="only measure what it would cost")
    add_backbone(parser)
    add_quantization(parser)
    add_decoder(parser)
    add_scorer(parser)
    add_k(parser)


def run(args: argparse.Namespace) -> Result:
    """Search, write the preset, say what was found."""
    from tqdm import tqdm

    from qsched.presets import save_preset
    from qsched.prompts.builtin import choose_prompts
    from qsched.search.options import SearchOptions, grid
    from qsched.search.run import estimate, search

    if args.out is None and not args.dry_run:
        raise ValueError("--out is missing: where should the preset go? (--dry-run does without.)")
    grid(*args.range, args.resolution)
    how, out = quantization(args), None if args.out is None else Path(args.out)
    if out is not None and not args.dry_run:
        if out.is_dir():
            raise ValueError(f"{out} is a folder: give --out the name of a file.")
        writable_folder(out.parent)
    storage = args.storage or (f"sqlite:///{out.with_suffix('.sqlite3')}" if out is not None else None)
    backbone = open_backbone(args)
    if args.strategy == "fit":
        return _fit(args, backbone, how, out)
    options = SearchOptions(
        how,
        choose_prompts(args.prompts, backbone.spec.family, "calibration"),
        args.steps,
        args.seed,
        args.seeds,
        c_range=tuple(args.range),
        resolution=args.resolution,
        shape=args.shape,
        k=args.k,
        strategy=args.strategy,
        tiny_decoder=args.decoder == "tiny",
        whole_grid=args.whole_grid,
    )
    if args.dry_run:
        stored = args.storage or (
            storage if out is not None and out.with_suffix(".sqlite3").exists() else None
        )
        plan = asdict(estimate(backbone, options, storage=stored, study_name=args.study))
        return Result({"dry_run": True} | plan, _cost(plan))
    with tqdm(desc=f"search {how.bits}", unit="point", disable=None) as bar:

        def show(state: "Progress") -> None:
            bar.total, bar.n = state.total, state.done
            if state.best is not None:
                bar.set_postfix_str(f"best JAQ {state.best[1]:.4f}", refresh=False)
            bar.refresh()

        try:
            preset = search(
                backbone,
                options,
                storage=storage,
                study_name=args.study,
                resume=not args.fresh,
                on_progress=show,
            )
        except KeyboardInterrupt:
            kept = "the finished points are kept" + (
                " in a study of their own" if args.fresh else ": the same command goes on"
            )
            raise Interrupted(f"Interrupted; {kept}.") from None
    save_preset(preset, out)
    facts = preset.provenance
    data = {
        "preset": str(out),
        "strategy": facts["strategy"],
        "coefficients": preset.coefficients.to_dict(),
        "shape": preset.shape,
        "jaq": facts["best"]["jaq"],
        "points_done": facts["points_done"],
        "duration_s": facts["duration_s"],
        "denoiser_calls": facts["denoiser_calls"],
        "summary": facts["summary"],
        "scorer": facts["scorer"],
    }
    return Result(data, _found(preset, out))


def _fit(args: argparse.Namespace, backbone: "Backbone", how: "Quantization", out: Path | None) -> Result:
    """Fit the coefficients of every step, write the preset, say what they explain."""
    from qsched.presets import save_preset
    from qsched.prompts.builtin import choose_prompts
    from qsched.search.fitted import fit_preset
    from qsched.search.options import SearchOptions

    if args.seeds != 1 or args.storage or args.study or args.whole_grid:
        raise ValueError(
            "A fit has no points: --seeds, --storage, --study and --whole-grid are for searches."
        )
    prompts = choose_prompts(args.prompts, backbone.spec.family, "calibration")
    if args.dry_run:
        calls = 2 * len(prompts) * SearchOptions(how, prompts, args.steps).checked(backbone).steps
        return Result({"dry_run": True, "calls": calls}, f"{calls} denoiser calls, no image scored.")
    with progress(f"fit {how.bits}", "step") as show:
        preset = fit_preset(backbone, how, prompts, args.steps, seed=args.seed, on_step=show)
    save_preset(preset, out)
    facts, coefficients = preset.provenance, preset.coefficients.expand(preset.steps)
    data = {
        "preset": str(out),
        "strategy": "fit",
        "coefficients": preset.coefficients.to_dict(),
        "shape": preset.shape,
        "explained": facts["explained"],
        "duration_s": facts["duration_s"],
        "denoiser_calls": facts["denoiser_calls"],
    }
    rows = [
        *(
            [name, *(f"{c:.3f}" for c in row)]
            for name, row in zip(("c_x", "c_eps"), coefficients, strict=True)
        ),
        ["explained", *(f"{100 * share:.0f} %" for share in facts["explained"])],
    ]
    steps = table([["", *(f"step {i + 1}" for i in range(preset.steps))], *rows])
    return Result(data, f"{preset.mark}\n\n{steps}\n\nThe preset is in {out}.")


def _cost(plan: dict) -> str:
    return (
        f"{plan['points']} points ({plan['stored']} of them stored already): {plan['images']} "
        f"images, {plan['calls']} denoiser calls, "
        f"about {plan['seconds']:.0f} s at the measured {plan['images_per_second']:.1f} images/s."
    )


def _found(preset: "Preset", out: Path) -> str:
    facts, axis = preset.provenance, preset.surface.c_x
    plain = facts["summary"]["plain"] if 1.0 in axis else None
    chosen = ", ".join(f"{name} = {_number(value)}" for name, value in preset.coefficients.to_dict().items())
    lines = [
        f"Best of {facts['points_done']} points: {chosen}, JAQ {facts['best']['jaq']:.4f}"
        + (f" (plain scheduler {plain:.4f})." if plain is not None else ".")
    ]
    if facts["failed"]:
        lines.append(f"{facts['failed']} points failed: an image was not finite.")
    if facts["at_edge"]:
        lines.append("The best point lies on the edge of the range: a wider --range may hold a better one.")
    return "\n".join([*lines, f"The preset is in {out}."])


def _number(value: float | list[float]) -> str:
    return f"{value:g}" if isinstance(value, float) else " ".join(f"{number:g}" for number in value)
