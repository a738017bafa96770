"""python -m qsched.embedded COMMAND: make the embedded model from nothing."""

import argparse
import json
import sys
from pathlib import Path

from qsched.quiet import quiet

quiet()

from qsched.embedded import export, report, variety  # noqa: E402
from qsched.embedded.data import dataset  # noqa: E402
from qsched.embedded.denoiser import autoencoder, bank, distil, teacher  # noqa: E402
from qsched.embedded.denoiser.batches import Batches, PixelBatches, drawn_styles  # noqa: E402
from qsched.embedded.judges import clip, clip_training, damage, judging, observer, text_training  # noqa: E402
from qsched.embedded.options import parser  # noqa: E402
from qsched.embedded.training import loop as training  # noqa: E402
from qsched.embedded.training import parallel  # noqa: E402
from qsched.embedded.training.weights import read_weights  # noqa: E402

TINY = {"steps": 3, "batch": 4, "no_compile": True, "adamw": True, "count": 16}
GUIDANCE, ANCHOR = 1.0, 0.1
"""Of the latent student."""
WITHOUT_TEXT = 0.08
"""Of the latent teacher's captions."""


def run(args: argparse.Namespace) -> None:
    """Carry out one command."""
    if getattr(args, "tiny", False):
        vars(args).update(TINY)
    data = args.work / "emoji.npz"
    if parallel.size() > 1 and args.command not in ("denoiser", "distil"):
        raise ValueError(f"torchrun is for denoiser and distil: run {args.command} without it.")
    if args.command == "dataset":
        print(json.dumps(dataset.build(args.node_modules, data, tuple(args.styles), args.side), indent=1))
    elif args.command == "damage":
        prompts = damage.known_prompts(dataset.load(data), tuple(args.groups), tuple(args.styles), args.count)
        made = damage.make(_backbone(args.model, args.device), prompts)
        damage.save(made, args.work / "damage.npz")
        print(f"{args.work / 'damage.npz'}: {len(prompts)} prompts x {len(damage.KINDS)} kinds")
    elif args.command in ("clip", "text", "observer"):
        options = _options(args) | {"seed": args.seed, "device": args.device}
        if args.command == "observer":
            found = observer.train_observer(data, args.work, **options)
        elif args.command == "text":
            found = text_training.train_text(data, args.clip, args.work, start=args.start, **options)
        else:
            options |= {"start": args.start, "keep_text": args.keep_text}
            found = clip_training.train_clip(data, args.clip, args.work, **options)
        print(json.dumps(found, indent=1))
    elif args.command == "autoencoder":
        options = _options(args) | {"seed": args.seed, "device": args.device}
        autoencoder.train_autoencoder(data, args.work / "autoencoder.pt", start=args.start, **options)
    elif args.command == "bank":
        encoder = args.start or args.work / "autoencoder.pt"
        made = {"count": args.count, "seed": args.seed, "device": args.device}
        print(json.dumps(bank.build(data, args.clip, encoder, args.work / "bank", **made), indent=1))
    elif args.command == "denoiser":
        options = _options(args) | {"start": args.start, "muon": not args.adamw}
        options["without_text"] = WITHOUT_TEXT if args.latent else 0.0
        teacher.train_denoiser(_batches(args, data), _checkpoint(args, "denoiser"), **options)
    elif args.command == "distil":
        options = _options(args) | {"muon": not args.adamw}
        options["anchor"] = ANCHOR if args.latent else distil.ANCHOR
        options["guidance"] = (GUIDANCE if args.latent else 0.0) if args.guidance is None else args.guidance
        before = args.start or _checkpoint(args, "denoiser")
        distil.distil(_batches(args, data), before, _checkpoint(args, "student"), **options)
    elif args.command == "export":
        named = args.checkpoint in ("denoiser", "student")
        file = args.work / f"{args.checkpoint}.pt" if named else Path(args.checkpoint)
        export.export_denoiser(read_weights(file), args.model)
        print(f"{args.model}: {file}")
    elif args.command == "latent":
        _export_latent(args)
    elif args.command == "evaluate":
        evaluate(args, data)
    else:
        emoji = dataset.load(data)
        prompts = export.sheet_prompts(emoji.concepts, drawn_styles(emoji))
        export.sample_sheet(_backbone(args.model, args.device), prompts, args.out, steps=args.steps)
        print(args.out)


def _options(args: argparse.Namespace) -> dict:
    found = {name: getattr(args, name) for name in ("steps", "minutes", "batch", "save_minutes")}
    found |= {"learning_rate": args.learning_rate} if args.learning_rate else {}
    return found | ({"compiled": not args.no_compile} if hasattr(args, "no_compile") else {})


def _checkpoint(args: argparse.Namespace, name: str) -> Path:
    return args.work / f"{'latent-' if args.latent else ''}{name}.pt"


def _batches(args: argparse.Namespace, data: Path) -> Batches:
    """What a denoiser is trained on: scenes drawn on the spot as pixels, or a bank of encoded ones."""
    where = training.pick_device(args.device)
    seed = parallel.own_seed(args.seed) + (args.command == "distil")
    if args.latent:
        files = args.work / "bank", args.autoencoder or args.work / "autoencoder.pt"
        return bank.LatentBatches(data, args.clip, where, seed, *files)
    return PixelBatches(data, args.clip, where, seed)


def _export_latent(args: argparse.Namespace) -> None:
    factor, manifest = args.scaling_factor, args.work / "bank" / "bank.json"
    if factor is None:
        if not manifest.exists():
            raise FileNotFoundError(f"There is no {manifest}: give --scaling-factor.")
        factor = json.loads(manifest.read_text())["scaling_factor"]
    denoiser, weights = read_weights(args.denoiser, args.base), read_weights(args.autoencoder)
    export.export_latent(denoiser, weights, factor, args.out, args.clip)
    print(f"{args.out}: scaling factor {factor:.4f}")


def evaluate(args: argparse.Namespace, data: Path) -> None:
    """Print the parts that were asked for: the judge's measures, the model's numbers, its variety."""
    watching = args.work / "observer.safetensors"
    if args.only == "variety" and not watching.exists():
        raise FileNotFoundError(f"There is no {watching}: run `python -m qsched.embedded observer` first.")
    emoji, out = dataset.load(data), {}
    if args.only in (None, "judge"):
        where = training.pick_device(args.device)
        model, tokenizer = clip.load_clip(args.clip, emoji)
        spoilt = args.work / "damage.npz"
        judge = judging.Judge(model.to(where), tokenizer, where)
        out["judge"] = judging.measure(judge, emoji, damage.load(spoilt) if spoilt.exists() else None)
    if args.only != "judge":
        student = _backbone(args.model, args.device)
        eyes = observer.load_observer(watching, student.device) if watching.exists() else None
    if args.only in (None, "model"):
        other = args.teacher and _backbone(args.teacher, args.device)
        options = {"teacher": other, "styles": args.styles, "seeds": args.seeds}
        out["model"] = report.report(student, emoji, eyes, **options)
    if args.only in (None, "variety") and eyes is not None:
        out["variety"] = variety.measure(student, emoji, eyes, styles=args.styles)
    if args.json:
        print(json.dumps(out, indent=1))
        return
    if "judge" in out:
        print(judging.markdown(out["judge"]))
    if "model" in out:
        print(report.markdown(out["model"]))
    if "variety" in out:
        print(variety.markdown(out["variety"]))


def _backbone(folder: Path, device: str):
    from qsched.load import load_backbone

    return load_backbone("emoji-lcm", device=device, source=str(folder))


def main() -> int:
    try:
        run(parser().parse_args())
    except (FileNotFoundError, ValueError) as error:
        print(f"qsched.embedded: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
