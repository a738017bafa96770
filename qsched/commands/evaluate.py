"""`evaluate`: does a preset hold on prompts and noise that its search never saw?"""

import argparse

from qsched.commands import Result
from qsched.commands.options import add_backbone, add_k, open_backbone, whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The preset and what to try it on."""
    parser.add_argument("--preset", required=True, metavar="FILE", help="the preset to evaluate")
    parser.add_argument(
        "--prompts", metavar="FILE|N", help="a file, or the first N built-in held-out prompts (default: all of them)"
    )
    parser.add_argument(
        "--seeds", type=whole(1, 1000), default=5, metavar="N", help="noise draws per prompt (default: %(default)s)"
    )
    parser.add_argument(
        "--save", action="store_true", help="also write the result into the preset, as its held-out numbers"
    )
    add_backbone(parser, choose=False)
    add_k(parser)


def run(args: argparse.Namespace) -> Result:
    """Evaluate; the text is Markdown."""
    from tqdm import tqdm

    from qsched.evaluation import evaluate
    from qsched.presets import load_preset, save_preset
    from qsched.prompts import choose_prompts

    preset = load_preset(args.preset)
    backbone = open_backbone(args, preset.backbone)
    prompts = choose_prompts(args.prompts, backbone.spec.family, "held-out")
    with tqdm(total=args.seeds, desc=f"evaluate {preset.bits}", unit="seed", disable=None) as bar:
        result = evaluate(backbone, preset, prompts, args.seeds, k=args.k, on_seed=lambda done, total: bar.update())
    data = result.to_dict()
    if args.save:
        preset.held_out = data
        save_preset(preset, args.preset)
    return Result(data, result.to_markdown())
