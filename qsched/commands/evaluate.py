"""`evaluate`: does a preset hold on prompts and noise that its search never saw?"""

import argparse

from qsched.commands.options import add, add_backbone, add_k, add_scorer, open_backbone
from qsched.commands.output import progress
from qsched.commands.result import Result
from qsched.settings import SEEDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The preset and what to try it on."""
    parser.add_argument("--preset", required=True, metavar="FILE", help="the preset to evaluate")
    parser.add_argument(
        "--prompts",
        metavar="FILE|N",
        help=(
            "a file (one prompt per line, CSV, TSV, JSON lines, JSON or YAML), or N built-in held-out "
            "prompts (default: all of them)"
        ),
    )
    add(parser, SEEDS, default=5, metavar="N")
    parser.add_argument(
        "--any-revision", action="store_true", help="also evaluate a preset that was made with other weights"
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument(
        "--save", action="store_true", help="also write the result into the preset, as its held-out numbers"
    )
    add_backbone(parser, choose=False)
    add_scorer(parser)
    add_k(parser)


def run(args: argparse.Namespace) -> Result:
    """Evaluate; the text is tables for a terminal or, with --markdown, Markdown."""
    from qsched.commands.evaluation_report import as_markdown, as_text
    from qsched.evaluation.held_out import evaluate
    from qsched.evaluation.result import COLUMNS
    from qsched.presets import load_preset, save_preset
    from qsched.prompts.builtin import categorised, choose_prompts

    preset = load_preset(args.preset)
    backbone = open_backbone(args, preset.backbone)
    family, use = backbone.spec.family, "held-out"
    prompts = choose_prompts(args.prompts, family, use)
    with progress(f"evaluate {preset.bits}", "image") as show:
        show(0, len(COLUMNS) * len(prompts) * args.seeds)
        result = evaluate(
            backbone, preset, prompts, args.seeds, k=args.k, categories=categorised(prompts, family, use),
            any_revision=args.any_revision, on_batch=show,
        )  # fmt: skip
    data = result.to_dict()
    if args.save:
        preset.held_out = data
        save_preset(preset, args.preset)
    return Result(data, as_markdown(result) if args.markdown else as_text(result))
