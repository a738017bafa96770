"""`surface`: what a preset's loss surface says at any k, how sure it is, and how its optimum moves; nothing
is generated.
"""

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsched.commands.options import number
from qsched.commands.output import table, writable_folder, write_files
from qsched.commands.result import Result
from qsched.words import many, steps_in_words

if TYPE_CHECKING:
    from qsched.presets import Preset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose surface, and what to show of it."""
    parser.add_argument("--preset", required=True, metavar="FILE", help="the preset whose surface to read")
    parser.add_argument("--k", type=number(0), help="weight of CLIP-IQA in JAQ (default: the preset's own)")
    parser.add_argument("--sweep", action="store_true", help="also how the optimum moves with k, from 0 to 5")
    parser.add_argument(
        "--out",
        metavar="PNG",
        help="also draw it; with --sweep a second image beside it, PNG's name with -sweep",
    )


def run(args: argparse.Namespace) -> Result:
    """Read the surface; the text ends with what was written."""
    from qsched.presets import load_preset
    from qsched.surfaces.uncertainty import DIFFERENT

    preset = load_preset(args.preset)
    if preset.surface is None:
        raise ValueError(f"{args.preset} has no surface: {preset.mark.replace('These', 'its', 1)}")
    k, surface = preset.k if args.k is None else args.k, preset.surface
    folder = _folder(args.out)
    found, noise = surface.stability(k=k), surface.uncertainty(k)
    data = {
        "preset": {
            "backbone": preset.backbone,
            "bits": preset.bits,
            "steps": preset.steps,
            "shape": preset.shape,
        },
        "summary": surface.summary(k, preset.provenance.get("failed")),
        "coefficients": preset.best(k).to_dict(),
        "stability": found,
        "not_different": None if noise is None or noise.p is None else int(noise.alike.sum()),
        "significance": DIFFERENT,
        "sweep": surface.k_sweep().to_rows() if args.sweep else None,
        "files": [] if folder is None else _draw(preset, k, args.sweep, folder, Path(args.out)),
    }
    return Result(data, _text(preset, data))


def _folder(out: str | None) -> Path | None:
    """Where the image goes, tried before anything is computed.

    Raises:
        ValueError: one sentence, if it cannot go there.
    """
    if out is None:
        return None
    if Path(out).suffix.lower() != ".png" or Path(out).is_dir():
        raise ValueError(f"{out} is no image's name: give --out a name that ends with .png.")
    return writable_folder(Path(out).parent)


def _draw(preset: "Preset", k: float, sweep: bool, folder: Path, path: Path) -> list[str]:
    from qsched.plots.heatmap import surface_figure
    from qsched.plots.sweep import k_sweep_figure

    how = f"{preset.bits.upper()}, {steps_in_words(preset.steps)}"
    note = f"{preset.backbone}, {how}, {len(preset.prompts)} prompts"
    images = {path.name: surface_figure(preset.surface, None, k, note=note, formula=preset.formula).image}
    if sweep:
        images[f"{path.stem}-sweep{path.suffix}"] = k_sweep_figure(
            preset.surface, k, note=note, formula=preset.formula
        )
    return write_files(folder, {name: _png(image) for name, image in images.items()})


def _png(image: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def _text(preset: "Preset", data: dict[str, Any]) -> str:
    from qsched.surfaces.stability import too_few

    found, summary = data["stability"], data["summary"]
    best, gain = found["best"], found["gain"]
    lines = [
        f"{preset.backbone}, {preset.bits}, {many(preset.steps, 'step')}, {many(found['prompts'], 'prompt')} "
        f"x "
        f"{many(found['seeds'], 'seed')}, {many(summary['cells'], 'cell')}. {preset.formula}, k = "
        f"{found['k']:g}.",
        f"best cell     c_x {best['c_x']:g}, c_eps {best['c_eps']:g}: JAQ {best['jaq']:.3f}",
    ]
    if gain is not None:
        lines.append(
            f"gain          {_between(gain['mean'], gain['low'], gain['high'])} over plain{_verdict(gain)}"
        )
    if found["wins"] is None:
        lines.append(too_few(found))
    else:
        region = found["region"]
        ends = lambda name: f"{name} {region[name][0]:g} to {region[name][1]:g}"
        if gain is not None:
            lines.append(
                f"out of bag    {found['gain_out_of_bag']:+.3f}: what is left on prompts that did "
                f"not choose the cell "
                f"(optimism {found['optimism']:+.3f})"
            )
            lines.append(f"not different {data['not_different']} of {summary['cells']} cells from plain")
        lines.append(f"stability     the best cell wins in {100 * found['wins']:.0f} % of resamples")
        lines.append(f"95 % region   {ends('c_x')}, {ends('c_eps')} ({many(len(region['cells']), 'cell')})")
        lines += ["", f"{found['method']}.", f"{data['significance'][0].upper()}{data['significance'][1:]}."]
    if data["sweep"]:
        lines += ["", _sweep_table(data["sweep"])]
    return "\n".join(lines + [f"Written: {path}" for path in data["files"]])


def _sweep_table(rows: list[dict[str, float | None]]) -> str:
    """Every half k; --json has every tenth."""
    shown = lambda value, form: "-" if value is None else format(value, form)
    cells = [["k", "c_x", "c_eps", "JAQ", "gain", "95 % interval", "out of bag"]]
    for row in rows[::5]:
        low, high = (shown(row[name], "+.3f") for name in ("gain_low", "gain_high"))
        numbers = [shown(row["gain"], "+.3f"), f"[{low}, {high}]", shown(row["gain_out_of_bag"], "+.3f")]
        cells.append([f"{row['k']:g}", f"{row['c_x']:g}", f"{row['c_eps']:g}", f"{row['jaq']:.3f}", *numbers])
    return table(cells)


def _between(mean: float, low: float | None, high: float | None) -> str:
    return f"{mean:+.3f}" + ("" if low is None else f" [{low:+.3f}, {high:+.3f}]")


def _verdict(gain: dict[str, Any]) -> str:
    return {None: "", True: ", different from it", False: ", not different from it"}[gain["different"]]
