"""`diagnose`: which layers carry the quantization error, and how much of it coefficients can explain."""

import argparse

from qsched.commands.options import (
    add,
    add_backbone,
    add_quantization,
    add_steps,
    integer,
    open_backbone,
    quantization,
)
from qsched.commands.output import progress, table
from qsched.commands.result import Result
from qsched.settings import SEED
from qsched.words import steps_in_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is quantized and how, and on how many prompts it is measured."""
    add_backbone(parser)
    add_quantization(parser)
    add_steps(parser)
    parser.add_argument(
        "--prompts", metavar="FILE|N", default=16, help="calibration prompts to fit on (default: 16)"
    )
    parser.add_argument(
        "--held-out", metavar="FILE|N", default=16, help="prompts that measure the fit (default: %(default)s)"
    )
    add(parser, SEED, metavar="N")
    parser.add_argument(
        "--layers", type=integer(1), default=10, metavar="N", help="to list (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> Result:
    """Measure; the text is a table of layers, one of corrections, and the coefficients that follow."""
    from qsched.evaluation.closed_form import CORRECTIONS
    from qsched.evaluation.diagnosis import diagnose
    from qsched.prompts.builtin import choose_prompts

    settings = quantization(args)
    backbone = open_backbone(args)
    steps = backbone.spec.steps_checked(args.steps)
    fitted, unseen = (
        choose_prompts(choice, backbone.spec.family, use)
        for choice, use in ((args.prompts, "calibration"), (args.held_out, "held-out"))
    )
    with progress(f"diagnose {settings.bits}", "layer") as show:
        found = diagnose(backbone, settings, fitted, steps, held_out=unseen, seed=args.seed, on_progress=show)
    coefficients, explained = found.fit.coefficients.expand(steps), found.explained()
    data = {
        "backbone": backbone.spec.id,
        "revision": backbone.revision,
        "bits": settings.bits,
        "steps": steps,
        "prompts": len(fitted),
        "held_out_prompts": len(unseen),
        "layers": [
            {"name": layer.name, "weights": layer.weights, "shares": layer.shares} for layer in found.layers
        ],
        "weights": found.weights,
        "explained": explained,
        "coefficients": {
            name: row.tolist() for name, row in zip(("c_x", "c_eps"), coefficients, strict=True)
        },
    }
    header = ["", *(f"step {i + 1}" for i in range(steps))]
    percent = lambda shares: [f"{100 * share:.1f} %" for share in shares]
    layers = [
        [layer.name, f"{layer.weights:,}", *percent(layer.shares)] for layer in found.layers[: args.layers]
    ]
    rows = [[CORRECTIONS[kind], *percent(shares)] for kind, shares in explained.items()]
    numbers = [[name, *(f"{value:.3f}" for value in row)] for name, row in data["coefficients"].items()]
    text = "\n\n".join(
        [
            f"{backbone.spec.title}, {settings.bits.upper()}, {steps_in_words(steps)}. Squared error of the "
            f"prediction with one layer "
            f"quantized, against all {len(found.layers)} quantized ({found.weights:,} weights):",
            table([["layer", "weights", *header[1:]], *layers]),
            f"Share of the squared error that a correction explains, fitted on {len(fitted)} "
            f"prompts, measured on "
            f"{len(unseen)} others:",
            table([header, *rows]),
            "Coefficients by least squares:",
            table([header, *numbers]),
        ]
    )
    return Result(data, text)
