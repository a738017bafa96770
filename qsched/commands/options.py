"""Arguments that several commands share, and what they mean."""

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qsched import settings as table
from qsched.settings import Setting

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    from qsched.models.base import Backbone
    from qsched.quantization import Quantization
    from qsched.sampling.coefficients import Coefficients


SCORERS = ("clip-b32", "clip-l14", "hps")
"""Those of qsched.scoring.loading, spelled out so that --help need not import them."""


def integer(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """An argparse type: a whole number from low to high."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return value

    return read


def number(low: float = -math.inf) -> Callable[[str], float]:
    """An argparse type: a finite number of at least low."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < low:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no finite number" + (f" of at least {low:g}" if math.isfinite(low) else "")
            )
        return value

    return read


def add(parser: argparse.ArgumentParser, *settings: Setting, **options: Any) -> None:
    """Arguments for settings, with their names, defaults, choices, ranges and help; options: of add_argument,
    in place of those; None leaves one out.
    """
    for setting in settings:
        facts = {"dest": setting.name, "default": setting.default, "help": setting.help}
        if setting.default not in (None, ""):
            facts["help"] += " (default: %(default)s)"
        if setting.kind is int:
            facts["type"] = integer(int(setting.low), int(setting.high))
        elif setting.kind is float:
            facts["type"] = number()
        elif setting.kind is tuple:
            facts |= {"type": number(), "nargs": "+", "metavar": "C"}
        elif setting.choices:
            facts["choices"] = tuple(setting.choices)
        facts |= options
        known = {name: value for name, value in facts.items() if value is not None or name == "default"}
        parser.add_argument(setting.on_command_line, **known)


def add_backbone(parser: argparse.ArgumentParser, choose: bool = True) -> None:
    """--backbone (unless something else decides it), --source, --device, --dtype."""
    if choose:
        add(parser, table.BACKBONE, choices=None, metavar="ID")
    add(
        parser,
        table.SOURCE,
        default=None,
        metavar="PATH_OR_ID",
        help=f"{table.SOURCE.help} (ID@REVISION pins it)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument(
        "--dtype", default="auto", help="auto, float32, float16, bfloat16 (default: %(default)s)"
    )


def open_backbone(args: argparse.Namespace, id: str | None = None) -> "Backbone":
    """Load what the arguments ask for.

    Raises:
        ValueError: a scorer is asked for of a backbone that has its own alone.
    """
    from qsched.load import load_backbone

    backbone = load_backbone(id or args.backbone, args.device, args.dtype, args.source)
    if scorer := getattr(args, "scorer", None):
        if not hasattr(backbone, "scores"):
            raise ValueError(f"{backbone.spec.title} has a scorer of its own: leave out --scorer.")
        backbone.scores = scorer
    return backbone


def open_scheduler(args: argparse.Namespace, id: str) -> "SchedulerMixin":
    """The stock scheduler of a backbone; of the large ones no weights are loaded or needed."""
    from qsched.models.registry import SPECS

    if id not in SPECS or SPECS[id].family == "emoji":
        return open_backbone(args, id).scheduler
    from qsched.models.diffusers_folder import scheduler_of

    return scheduler_of(SPECS[id].at(args.source) if args.source else SPECS[id])


def add_quantization(parser: argparse.ArgumentParser) -> None:
    """--bits and the quantizer's options."""
    add(parser, table.BITS, choices=None)
    add_granularity(parser)


def add_granularity(parser: argparse.ArgumentParser) -> None:
    """The quantizer's options besides the bit-width."""
    help = "weights per scale (default: one scale per channel)"
    add(parser, table.GROUP_SIZE, type=integer(1), metavar="N", help=help)
    add(parser, table.ACTIVATION_SCALE, table.SCOPE, table.METHOD)
    help = "also the layers kept in high precision by convention"
    add(parser, table.KEEP, action="store_false", help=help)


def quantization(args: argparse.Namespace, bits: str | None = None) -> "Quantization":
    """The quantization that the arguments describe.

    Raises:
        ValueError: an unknown bit-width; the message lists the known ones.
    """
    from qsched.comparison.given import quantization_of

    return quantization_of(vars(args) | ({"bits": bits} if bits else {}))


def add_steps(parser: argparse.ArgumentParser) -> None:
    """--steps."""
    add(
        parser, table.STEPS, type=integer(1), metavar="N", help="denoiser calls (default: the backbone's own)"
    )


def add_coefficients(parser: argparse.ArgumentParser) -> None:
    """--c-x and --c-eps."""
    add(parser, table.C_X, table.C_EPS)


def coefficients(args: argparse.Namespace) -> "Coefficients | None":
    """The coefficients that the arguments give, None if they give none; one that is missing is 1.

    Raises:
        ValueError: unless all numbers are finite and positive.
    """
    from qsched.sampling.coefficients import Coefficients

    if args.c_x is None and args.c_eps is None:
        return None
    one_or_more = lambda values: 1.0 if values is None else values[0] if len(values) == 1 else tuple(values)
    return Coefficients(one_or_more(args.c_x), one_or_more(args.c_eps))


def add_decoder(parser: argparse.ArgumentParser) -> None:
    """--tiny-decoder."""
    add(
        parser,
        table.DECODER,
        choices=None,
        action="store_const",
        const="tiny",
        help=table.DECODER.help.partition(": ")[2],
    )


def add_scorer(parser: argparse.ArgumentParser) -> None:
    """--scorer."""
    parser.add_argument(
        "--scorer",
        choices=SCORERS,
        help="of photographs: CLIPScore by ViT-B-32 or ViT-L-14, with CLIP-IQA; hps: ViT-L-14, with "
        "HPSv2.1 in the place of "
        "CLIP-IQA, which approximates the paper's second JAQ (default: clip-l14)",
    )


def add_k(parser: argparse.ArgumentParser) -> None:
    """--k."""
    add(parser, table.K, type=number(0))
