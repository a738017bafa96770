"""The README.md that a published scheduler carries: what the coefficients are, for what they hold, how good
they are.
"""

import re
from typing import Any

from huggingface_hub import ModelCardData

from qsched.models.registry import SPECS
from qsched.presets import Preset
from qsched.words import many, steps_in_words

METRICS = {"jaq": "JAQ", "alignment": "CLIPScore", "quality": "CLIP-IQA", "ssim": "SSIM"}
PAPER = "[Q-Sched](https://arxiv.org/abs/2509.01624)"


def base_model(preset: Preset) -> str | None:
    """The Hub id of the pipeline that a preset belongs to, None where it has none."""
    source = SPECS[preset.backbone].source if preset.backbone in SPECS else ""
    return source if re.fullmatch(r"[\w.-]+/[\w.-]+", source) else None


def model_card(preset: Preset, twin: str, usage: str) -> str:
    """A model card with the header that the Hub reads.

    Args:
        twin: name of the Q-Sched scheduler class.
        usage: the text of `export_scheduler`, of which the example is shown.
    """
    header = ModelCardData(
        license="apache-2.0",
        library_name="diffusers",
        base_model=base_model(preset),
        tags=["qsched", "quantization", "diffusion", "scheduler", preset.bits],
    )
    title = SPECS[preset.backbone].title if preset.backbone in SPECS else preset.backbone
    held_out = _held_out(preset.held_out)
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"# Q-Sched scheduler for {title}, {preset.bits}, {steps_in_words(preset.steps)}",
        f"A diffusers scheduler without weights: `{twin}` multiplies, at every step, the noisy "
        f"sample by c_x and the "
        f"prediction by c_eps ({PAPER}), which repairs part of what quantization does to the trajectory.",
        *([f"> {preset.mark}"] if preset.mark else []),
        f"> **These coefficients fit one denoiser**: that of {base_model(preset) or preset.backbone}"
        + (f", revision `{preset.revision}`" if preset.revision else "")
        + f", quantized to {preset.bits} as below, in {steps_in_words(preset.steps)}. "
        "With other weights, another bit-width or step count they are only a start: search anew.",
        "\n".join(
            ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in _facts(preset).items())]
        ),
        *(["## On held-out prompts", held_out] if held_out else []),
        "## Use",
        _example(usage),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(preset: Preset) -> dict[str, str]:
    found = preset.provenance
    each = {name: str(value) for name, value in preset.coefficients.to_dict().items()}
    settings = ", ".join(f"{name} {value}" for name, value in preset.settings.items() if value is not None)
    facts = each | {
        "meaning": (
            "one number: every step; two: first and last step, a straight line between; more: one per step"
        ),
        "bit-width": preset.bits + (f" ({settings})" if settings else ""),
        "steps": str(preset.steps),
    }
    if isinstance(scorer := found.get("scorer"), dict):
        facts["scorer"] = ": ".join(str(scorer[key]) for key in ("name", "definition") if scorer.get(key))
    elif scorer:
        facts["scorer"] = str(scorer)
    if found.get("jaq"):
        facts["objective"] = f"{found['jaq']}, k = {found.get('k', 2.0):g}"
    seeds = len(found["seeds"]) if isinstance(found.get("seeds"), list) else 1
    if preset.published:
        facts["published"] = preset.published
    else:
        facts["calibration"] = f"{many(len(preset.prompts), 'prompt')}, {many(seeds, 'noise seed')} each"
    if preset.fitted:
        facts["fit"] = "least squares of the full-precision prediction, no image scored"
    elif found.get("strategy"):
        facts["search"] = f"{found['strategy']}, {found.get('points_done', '?')} points"
    return {name: " ".join(value.split()).replace("|", "\\|") for name, value in facts.items()}


def _held_out(results: dict[str, Any]) -> str:
    """The table of an evaluation, or "" where a preset has none."""
    columns, differences = results.get("columns"), results.get("differences")
    if not isinstance(columns, dict):
        return ""
    rows = {name: values for name, values in columns.items() if isinstance(values, dict)}
    if isinstance(differences, dict):
        rows |= {
            f"{name} (paired)": values for name, values in differences.items() if name == "Q-Sched - naive"
        }
    shown = [key for key in METRICS if any(isinstance(row.get(key), dict) for row in rows.values())]
    if not shown:
        return ""
    lines = ["| | " + " | ".join(METRICS[key] for key in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(_estimate(row.get(key)) for key in shown) + " |"
        for name, row in rows.items()
    ]
    count, seeds = len(results.get("prompts") or ()), len(results.get("seeds") or ())
    told = (
        f"Mean [95 % interval] of {many(count, 'prompt')} x {many(seeds, 'noise seed')} that the "
        f"search never saw."
    )
    return "\n".join([*lines, "", told])


def _estimate(value: Any) -> str:
    if not isinstance(value, dict) or not isinstance(value.get("mean"), int | float):
        return "–"
    text = f"{value['mean']:.3f}"
    bounds = value.get("low"), value.get("high")
    return text + (
        f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if all(isinstance(b, int | float) for b in bounds) else ""
    )


def _example(usage: str) -> str:
    """The part of the exported text from "With the qsched package" on."""
    text = usage[max(usage.find("With the qsched package"), 0) :].strip()
    return text.replace("from this folder", "from this repository")
