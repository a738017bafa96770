"""`backbones`: what can run here."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsched.commands.options import add_backbone, open_backbone
from qsched.commands.output import table
from qsched.commands.result import Result
from qsched.words import size

if TYPE_CHECKING:
    import torch

    from qsched.models.memory import MemoryPlan
    from qsched.models.spec import BackboneSpec

DEFAULT = "w4a8"
SIZES = ("w8a8", "w4a8", "w3a8", "w2a8")
SHOWN = (
    "title",
    "family",
    "licence",
    "gated",
    "steps",
    "default_steps",
    "size",
    "guidance",
    "scheduler",
    "revision",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only where to look."""
    add_backbone(parser, choose=False)


def run(args: argparse.Namespace) -> Result:
    """Every backbone with its facts, its sizes, and ready or why not; nothing is downloaded, only the
    embedded one is loaded.
    """
    from qsched.models.devices import pick_device
    from qsched.models.registry import SPECS

    device = pick_device(args.device)
    found = [
        _embedded(args, spec) if spec.family == "emoji" else _real(args, spec, device)
        for spec in SPECS.values()
    ]
    rows = [["id", "steps", "pixels", "licence", "download", "fp16", *SIZES, "how it runs here", "state"]]
    for f in found:
        sizes = [size(f["denoiser_bytes"][name]) if f["denoiser_bytes"] else "-" for name in ("fp16", *SIZES)]
        licence = f["licence"] + ", gated" * f["gated"]
        state = "ready" if f["ready"] else f["reason"]
        rows.append(
            [
                f["id"],
                _steps(f["steps"]),
                str(f["size"]),
                licence,
                _download(f),
                *sizes,
                f["plan"]["sentence"],
                state,
            ]
        )
    text = (
        f"{table(rows)}\n\nA download is what `pull` fetches: the backbone with its tiny decoder, "
        f"and what scores its images, which all "
        "backbones share.\nSizes are the denoiser's as stored; what is free on the device decides "
        "how a backbone runs.\n\n"
        f"{table(_cards(found))}\n\nGPU memory at {DEFAULT.upper()}, by arithmetic from the "
        f"architectures: {_legend()}."
    )
    return Result({"device": str(device), "backbones": found}, text)


def _facts(spec: "BackboneSpec", **more: Any) -> dict[str, Any]:
    from qsched.models.parts import remote_parts

    pulled = remote_parts(spec)
    downloads = {
        "download_bytes": sum(part.bytes for part in pulled if not part.of_scores),
        "scores_bytes": sum(part.bytes for part in pulled if part.of_scores),
        "downloads": [
            {"name": part.name, "bytes": part.bytes, "of_scores": part.of_scores} for part in pulled
        ],
    }
    return {"id": spec.id, **{name: getattr(spec, name) for name in SHOWN}, **downloads, **more}


def _embedded(args: argparse.Namespace, spec: "BackboneSpec") -> dict[str, Any]:
    from qsched.hub.source import BackboneError
    from qsched.models import memory

    try:
        backbone = open_backbone(args, spec.id)
    except BackboneError as error:
        reason, sizes, parameters = str(error), None, None
    else:
        sizes = {bits: sum(memory.packed_and_kept(backbone.denoiser, bits)) for bits in SIZES}
        reason, sizes = None, {"fp16": backbone.full_precision_bytes} | sizes
        parameters = sum(p.numel() for p in backbone.denoiser.parameters())
    plan = _plan(memory.MemoryPlan("resident", spec.memory_bytes))
    return _facts(
        spec, parameters=parameters, denoiser_bytes=sizes, plan=plan, ready=reason is None, reason=reason
    )


def _real(args: argparse.Namespace, spec: "BackboneSpec", device: "torch.device") -> dict[str, Any]:
    from qsched.models import memory

    spec = spec.at(args.source) if args.source else spec
    parts, free = memory.footprint(spec), memory.free_bytes(device)
    plan = memory.foreseen(spec, device, free)
    reason = _missing(spec) or (None if plan.fits else memory.too_large(spec, plan.peak, free, device))
    needs = {bits: memory.needs(parts, bits) for bits in memory.BITS}
    cards = {
        str(card): {
            bits: _plan(memory.plan(needs[bits], (card << 30) - memory.CONTEXT)) for bits in memory.BITS
        }
        for card in memory.CARDS
    }
    return _facts(
        spec,
        source=spec.source,
        parameters=parts.denoiser // 2,
        denoiser_bytes={"fp16": parts.denoiser, **{bits: parts.quantized(bits) for bits in memory.BITS}},
        text_encoder_bytes=parts.text_encoders,
        vae_bytes=parts.vae,
        device_memory_bytes=needs,
        cards=cards,
        plan=_plan(plan),
        ready=reason is None,
        reason=reason,
    )


def _plan(plan: "MemoryPlan") -> dict[str, Any]:
    return {"kind": plan.kind, "sentence": plan.sentence, "peak_bytes": plan.peak}


def _cards(found: list[dict[str, Any]]) -> list[list[str]]:
    """How each real backbone runs on usual cards, and what that takes."""
    from qsched.models.memory import CARDS

    cell = lambda plan: f"{plan['kind']} {size(plan['peak_bytes'])}" if plan["kind"] != "none" else "-"
    rows = [["on a GPU of", *(f"{card} GB" for card in CARDS)]]
    real = [f for f in found if "cards" in f]
    return rows + [[f["id"], *(cell(f["cards"][str(card)][DEFAULT]) for card in CARDS)] for f in real]


def _legend() -> str:
    from qsched.models.memory import PLANS

    return "; ".join(f"{kind}: {sentence}" for kind, sentence in PLANS.items() if kind != "none")


def _missing(spec: "BackboneSpec") -> str | None:
    """Why the files are not there, None if they are; the tiny decoder is not needed."""
    from qsched.hub.fetch import is_ready
    from qsched.hub.source import BackboneError
    from qsched.models.diffusers_folder import check_family

    needed = [source for source in spec.sources() if source != spec.tiny_vae]
    if not all(is_ready(source) for source in needed):
        first = "not downloaded" + (" (gated: log in and accept its licence first)" if spec.gated else "")
        return f"{first}: python -m qsched pull {spec.id}"
    if not Path(spec.source).is_dir():
        return None
    try:
        check_family(spec, Path(spec.source))
    except BackboneError as error:
        return str(error)
    return None


def _download(facts: dict[str, Any]) -> str:
    """What `pull` fetches, as registered: "4.3 GB + scores 2.4 GB"."""
    own, scores = facts["download_bytes"], facts["scores_bytes"]
    return " + ".join([size(own)] * (own > 0) + [f"scores {size(scores)}"] * (scores > 0)) or "none"


def _steps(steps: tuple[int, ...]) -> str:
    through = steps == tuple(range(steps[0], steps[-1] + 1))
    return f"{steps[0]}-{steps[-1]}" if through else ", ".join(map(str, steps))
