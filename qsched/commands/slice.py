"""`slice`: the loss surface around a preset's own coefficients, where they are no point of its surface."""

import argparse
from dataclasses import replace

from qsched.commands.options import add_backbone, open_backbone
from qsched.commands.result import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The preset."""
    parser.add_argument("--preset", required=True, metavar="FILE", help="gets the slice beside its surface")
    add_backbone(parser, choose=False)


def run(args: argparse.Namespace) -> Result:
    """Score the images around the coefficients, on the preset's own prompts with one seed."""
    from tqdm import tqdm

    from qsched.presets import PresetError, load_preset, save_preset
    from qsched.quantization import Quantization
    from qsched.search.around import CELLS, slice_around
    from qsched.search.options import SearchOptions

    preset = load_preset(args.preset)
    if preset.surface is None:
        raise PresetError(f"The preset {args.preset} has no surface: a slice would say nothing beside it.")
    if preset.maps[0].holds(preset.coefficients, preset.steps):
        raise PresetError(f"The coefficients of {args.preset} are a point of its surface already.")
    backbone = open_backbone(args, preset.backbone)
    options = SearchOptions(
        Quantization(preset.bits, **preset.settings),
        preset.prompts,
        preset.steps,
        seed=preset.provenance["seeds"][0],
        tiny_decoder=preset.provenance.get("decoder") == "tiny",
    )
    rows = slice_around(backbone, options, preset.coefficients, "")
    for found in tqdm(rows, total=CELLS, desc=f"slice {preset.bits}", unit="row", disable=None):
        sliced = replace(preset, slice=found.surface)
    save_preset(sliced, args.preset)
    c_x, c_eps, value = sliced.slice.best(preset.k)
    text = (
        f"JAQ around {preset.coefficients.to_dict()} on {preset.images_of(sliced.slice)}: best {value:.3f} "
        f"at c_x {c_x:g}, c_eps {c_eps:g} of the first step. Written to {args.preset}."
    )
    return Result({"path": str(args.preset), "best": {"c_x": c_x, "c_eps": c_eps, "jaq": value}}, text)
