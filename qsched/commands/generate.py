"""`generate`: one prompt, three images, their numbers."""

import argparse
import io
from typing import TYPE_CHECKING

from qsched.commands.options import (
    add,
    add_backbone,
    add_coefficients,
    add_decoder,
    add_k,
    add_quantization,
    add_scorer,
    add_steps,
    coefficients,
    open_backbone,
    quantization,
)
from qsched.commands.output import table, to_json, writable_folder, write_files
from qsched.commands.result import Result
from qsched.settings import PROMPT, SEED
from qsched.words import size, steps_in_words

if TYPE_CHECKING:
    from PIL import Image

FILES = ("full_precision.png", "naive.png", "qsched.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to draw, how, and where to put it."""
    add(parser, PROMPT, required=True, metavar="TEXT")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help=f"folder for {', '.join(FILES)} and result.json"
    )
    add(parser, SEED)
    add_steps(parser)
    parser.add_argument("--preset", metavar="FILE", help="take the coefficients from this preset")
    add_backbone(parser)
    add_quantization(parser)
    add_coefficients(parser)
    add_decoder(parser)
    add_scorer(parser)
    add_k(parser)


def run(args: argparse.Namespace) -> Result:
    """Compare full precision, naive quantization and Q-Sched.

    Coefficients: as given, else the best known ones.
    """
    from qsched.comparison.comparison import compare
    from qsched.comparison.record import record
    from qsched.comparison.result import Settings
    from qsched.models.registry import SPECS
    from qsched.presets import find_preset, load_preset
    from qsched.sampling.coefficients import Coefficients

    chosen, how = coefficients(args), quantization(args)
    if chosen is not None and args.preset is not None:
        raise ValueError("Give either --preset or --c-x and --c-eps, not both.")
    preset = load_preset(args.preset) if args.preset else None
    steps = args.steps or (SPECS[args.backbone].default_steps if args.backbone in SPECS else 1)
    settings = Settings(args.prompt, args.seed, steps, how, args.decoder == "tiny")
    backbone = open_backbone(args)
    settings = settings.check(backbone)
    folder = writable_folder(args.out)
    if chosen is None:
        preset = preset or find_preset(backbone.spec.id, how.bits, steps, method=how.method)
        chosen = preset.coefficients if preset else Coefficients.identity()
    chosen.expand(steps)
    compare(
        backbone,
        Settings("warm-up", 0, min(backbone.spec.steps), how, args.decoder == "tiny"),
        Coefficients.identity(),
    )
    comparison = compare(backbone, settings, chosen)
    data = record(comparison, args.k)
    made_for = preset and (preset.backbone, preset.bits, preset.steps, preset.method)
    if preset is not None and made_for != (backbone.spec.id, how.bits, steps, how.method):
        by = "" if preset.method == "plain" else f" by {preset.method}"
        data["notes"].append(
            f"The preset was made for {preset.backbone}, {preset.bits}{by}, {steps_in_words(preset.steps)}."
        )
    if preset is not None and preset.mark:
        data["notes"].append(preset.mark)
    if preset is None and chosen.is_identity:
        data["notes"].append(
            "No coefficients were given and no preset is known, so Q-Sched equals naive here."
        )
    data["notes"] += [f"{note[:1].upper()}{note[1:]}." for note in data["size"]["notes"]]
    images = {name: _png(column.image) for name, column in zip(FILES, comparison.columns, strict=True)}
    data["files"] = list(images)
    write_files(folder, images | {"result.json": (to_json(data, indent=1) + "\n").encode()})
    data["folder"] = str(folder)
    return Result(data, _text(data, args.k))


def _png(image: "Image.Image") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def _text(data: dict, k: float) -> str:
    scorer = data["scorer"]
    lpips = any(column["lpips"] is not None for column in data["columns"])
    rows = [
        [
            "",
            "stored",
            "latency",
            "CLIPScore",
            scorer["quality"],
            f"JAQ (k={k:g})",
            "SSIM",
            *["LPIPS"] * lpips,
            "found",
        ]
    ]
    for column in data["columns"]:
        rows.append([
            column["name"], size(column["stored_bytes"]), f"{1000 * column['latency_s']:.0f} ms",
            _number(column["alignment"], 2), _number(column["quality"]), _number(column["jaq"]),
            _number(column["ssim"]),
            *[_number(column["lpips"])] * lpips,
            ", ".join(badge["name"] for badge in column["badges"]) or "-",
        ])  # fmt: skip
    chosen = ", ".join(f"{name} = {value}" for name, value in data["coefficients"].items())
    by = (
        f"scores by {scorer['name']}: {scorer['definition']}"
        if scorer["name"]
        else "nobody has scored these images"
    )
    return "\n".join([
        table(rows), "", f"Q-Sched with {chosen}. {scorer['jaq']}; {by}.",
        *data["notes"], f"Images and result.json are in {data['folder']}.",
    ])  # fmt: skip


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
