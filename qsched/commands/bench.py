"""`bench`: what this machine does."""

import argparse

from qsched.commands.options import (
    add_backbone,
    add_granularity,
    add_steps,
    integer,
    open_backbone,
    quantization,
)
from qsched.commands.output import table
from qsched.commands.result import Result
from qsched.words import size, steps_in_words

WIDTHS = ("w8a8", "w4a8", "w4a4", "w3a8", "w2a8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, and how often."""
    parser.add_argument(
        "--bits", nargs="+", default=WIDTHS, metavar="WnAm", help=f"bit-widths (default: {' '.join(WIDTHS)})"
    )
    add_steps(parser)
    parser.add_argument(
        "--batches",
        type=integer(1, 4096),
        nargs="+",
        default=(1, 4, 16),
        metavar="N",
        help="batch sizes (default: 1 4 16)",
    )
    parser.add_argument(
        "--repeats",
        type=integer(1, 1000),
        default=5,
        metavar="N",
        help="measurements per number (default: %(default)s)",
    )
    add_backbone(parser)
    add_granularity(parser)


def run(args: argparse.Namespace) -> Result:
    """Measure and tabulate."""
    from tqdm import tqdm

    from qsched.evaluation.benchmark import WARM_UP, benchmark

    widths = [quantization(args, bits) for bits in args.bits]
    backbone = open_backbone(args)
    steps = backbone.spec.steps_checked(args.steps)
    batches = sorted({1, *args.batches})
    with tqdm(total=len(widths), desc="bench", unit="width", disable=None) as bar:
        data = benchmark(
            backbone, widths, steps=steps, batches=batches, repeats=args.repeats, on_width=bar.update
        )
    milliseconds = lambda seconds: "-" if seconds is None else f"{1000 * seconds:.0f} ms"
    rows = [["", "image", "drag", *(f"batch {n}" for n in batches), "stored", "in memory", "runs as"]]
    for c in data["columns"]:
        throughput = [f"{c['images_per_second'][str(n)]:.1f}/s" for n in batches]
        sizes = size(c["stored_bytes"]), size(c["held_bytes"])
        rows.append(
            [
                c["name"],
                milliseconds(c["image_s"]),
                milliseconds(c["drag_s"]),
                *throughput,
                *sizes,
                "+".join(c["execution"] or ["float"]),
            ]
        )
    peak = data["peak_memory_bytes"]
    about = (
        f"{data['backbone']}, {steps_in_words(steps)}, {data['device']}, {data['threads']} threads, "
        f"medians of {args.repeats} after {WARM_UP} warm-up runs"
    )
    return Result(
        data, "\n".join([table(rows), "", about + (f"; peak memory {size(peak)}." if peak else ".")])
    )
