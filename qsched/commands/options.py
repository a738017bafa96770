"""Arguments that several commands share, and what they mean."""

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    from qsched.models.base import Backbone
    from qsched.quantization import Quantization
    from qsched.sampling.coefficients import Coefficients


METHODS = ("plain", "mixdq", "svdquant", "torchao")
"""Those of qsched.quantizers, spelled out so that --help need not import them."""


SCORERS = ("clip-b32", "clip-l14", "hps")
"""Those of qsched.scoring.loading, likewise."""


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


def add_backbone(parser: argparse.ArgumentParser, choose: bool = True) -> None:
    """--backbone (unless something else decides it), --source, --device, --dtype."""
    if choose:
        parser.add_argument(
            "--backbone", default="emoji-lcm", metavar="ID", help="which model (default: %(default)s)"
        )
    parser.add_argument(
        "--source",
        metavar="PATH_OR_ID",
        help="load this family from another folder or Hub id (ID@REVISION pins it)",
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
    parser.add_argument(
        "--bits",
        default="w4a8",
        help="bit-width, such as w8a8, w4a8, w4a4, w3a8, w2a8 (default: %(default)s)",
    )
    add_granularity(parser)


def add_granularity(parser: argparse.ArgumentParser) -> None:
    """The quantizer's options besides the bit-width."""
    parser.add_argument(
        "--group-size",
        type=integer(1),
        metavar="N",
        help="weights per scale (default: one scale per channel)",
    )
    parser.add_argument(
        "--activation-scale", default="token", choices=("token", "tensor"), help="(default: %(default)s)"
    )
    parser.add_argument(
        "--scope", default="all", choices=("all", "linear"), help="layers to quantize (default: %(default)s)"
    )
    parser.add_argument(
        "--quantize-all", action="store_true", help="also the layers kept in high precision by convention"
    )
    parser.add_argument(
        "--method", default="plain", choices=METHODS, help="of quantizing (default: %(default)s)"
    )


def quantization(args: argparse.Namespace, bits: str | None = None) -> "Quantization":
    """The quantization that the arguments describe.

    Raises:
        ValueError: an unknown bit-width; the message lists the known ones.
    """
    from qsched.quantization import BitWidth, Quantization

    name = str(BitWidth.parse(bits or args.bits))
    return Quantization(
        name, args.group_size, args.activation_scale, args.scope, not args.quantize_all, args.method
    )


def add_coefficients(parser: argparse.ArgumentParser) -> None:
    """--c-x and --c-eps."""
    meaning = "one number (every step), two (first and last step) or one per step"
    parser.add_argument(
        "--c-x", type=number(), nargs="+", metavar="C", help=f"factor of the noisy sample: {meaning}"
    )
    parser.add_argument(
        "--c-eps", type=number(), nargs="+", metavar="C", help="factor of the prediction, likewise"
    )


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
    parser.add_argument(
        "--tiny-decoder",
        action="store_true",
        help="decode with the small, fast decoder, where the backbone has one",
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
    parser.add_argument(
        "--k", type=number(0), default=2.0, help="weight of CLIP-IQA in JAQ (default: %(default)g)"
    )
