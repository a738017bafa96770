"""python -m qsched.embedded dataset|clip|denoiser|distil|export|sheet|evaluate: make the embedded model from nothing."""

import argparse
import json
import sys
from pathlib import Path

from qsched.quiet import quiet

quiet()

from qsched.backbones.spec import ASSETS  # noqa: E402
from qsched.embedded import clip, dataset, denoiser, distil, export, report  # noqa: E402

WORK = Path("work")


def parser() -> argparse.ArgumentParser:
    """The command line; every command resumes from the checkpoints in --work."""
    top = argparse.ArgumentParser(prog="python -m qsched.embedded", description=__doc__)
    top.add_argument(
        "--work", type=Path, default=WORK, help="folder of the data set and the checkpoints (default: %(default)s)"
    )
    top.add_argument(
        "--clip", type=Path, default=ASSETS / "emoji-clip", help="folder of the tiny CLIP (default: assets/emoji-clip)"
    )
    top.add_argument(
        "--model",
        type=Path,
        default=ASSETS / "emoji-lcm",
        help="folder of the diffusion model (default: assets/emoji-lcm)",
    )
    top.add_argument("--device", default="auto", help="auto (CUDA if there is one), cpu or cuda")
    commands = top.add_subparsers(dest="command", required=True)

    build = commands.add_parser(
        "dataset",
        help="render the art of the npm packages",
        description=f"Needs: npm install {' '.join(dataset.PACKAGES)}",
    )
    build.add_argument("--node-modules", type=Path, default=Path("node_modules"))
    build.add_argument("--groups", nargs="+", choices=dataset.GROUPS, default=["animals-nature", "food-drink"])
    build.add_argument(
        "--styles", nargs="+", choices=[s.word for s in dataset.STYLES], default=["classic", "flat", "glossy"]
    )

    for name, words, steps, batch in (
        ("clip", "train the tiny CLIP", 500, 256),
        ("denoiser", "train the noise-predicting teacher", 3900, 64),
        ("distil", "distil the few-step student from it", 400, 64),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("--steps", type=int, default=steps, help="optimiser steps (default: %(default)s)")
        command.add_argument("--batch", type=int, default=batch)
        command.add_argument("--seed", type=int, default=0)
        if name != "clip":
            command.add_argument("--no-compile", action="store_true", help="run eagerly: slower, but starts at once")

    out = commands.add_parser("export", help="write a checkpoint as the diffusers folder that the app loads")
    out.add_argument("--checkpoint", choices=("denoiser", "student"), default="student")
    sheet = commands.add_parser("sheet", help="draw the sample sheet of 48 prompts")
    sheet.add_argument("--out", type=Path, default=ASSETS / "emoji-lcm" / "samples.webp")
    sheet.add_argument("--steps", type=int, default=4)
    judge = commands.add_parser("evaluate", help="CLIPScore, CLIP-IQA and recognition of seen and held-out pairs")
    judge.add_argument("--json", action="store_true")
    return top


def run(args: argparse.Namespace) -> None:
    """Carry out one command."""
    data = args.work / "emoji.npz"
    if args.command == "dataset":
        print(json.dumps(dataset.build(args.node_modules, data, tuple(args.groups), tuple(args.styles)), indent=1))
    elif args.command == "clip":
        print(
            json.dumps(
                clip.train_clip(
                    data, args.clip, args.work, steps=args.steps, batch=args.batch, seed=args.seed, device=args.device
                ),
                indent=1,
            )
        )
    elif args.command in ("denoiser", "distil"):
        train = denoiser.train_denoiser if args.command == "denoiser" else distil.distil
        train(
            data,
            args.clip,
            args.work,
            steps=args.steps,
            batch=args.batch,
            seed=args.seed,
            device=args.device,
            compiled=not args.no_compile,
        )
    elif args.command == "export":
        step = export.export_checkpoint(args.work / f"{args.checkpoint}.pt", args.model)
        print(f"{args.model}: {args.checkpoint} at step {step}")
    elif args.command == "evaluate":
        result = report.evaluate(data, args.model, args.device)
        print(json.dumps(result, indent=1) if args.json else report.markdown(result))
    else:
        from qsched.backbones import load_backbone

        emoji = dataset.load(data)
        backbone = load_backbone("emoji-lcm", device=args.device, source=str(args.model))
        export.sample_sheet(backbone, export.sheet_prompts(emoji.concepts, emoji.styles), args.out, steps=args.steps)
        print(args.out)


def main() -> int:
    try:
        run(parser().parse_args())
    except (FileNotFoundError, ValueError) as error:
        print(f"qsched.embedded: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
