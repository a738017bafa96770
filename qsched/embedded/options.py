"""The command line of `python -m qsched.embedded`."""

import argparse
from pathlib import Path

from qsched.embedded.data import dataset
from qsched.embedded.denoiser.batches import STYLES
from qsched.embedded.judges import damage, observer
from qsched.models.registry import ASSETS

WORK = Path("work")


def parser() -> argparse.ArgumentParser:
    """The command line; every command resumes from the checkpoints in --work."""
    top = argparse.ArgumentParser(
        prog="python -m qsched.embedded", description="Make the embedded model from nothing."
    )
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
    build.add_argument(
        "--styles",
        nargs="+",
        choices=[s.word for s in dataset.STYLES],
        default=[s.word for s in dataset.STYLES],
    )

    build.add_argument("--side", type=int, default=dataset.SIZE, help="pixels; 128 for the latent model")

    spoil = commands.add_parser(
        "damage", help="draw images with quantized copies of a denoiser, for the judge to learn from"
    )
    spoil.add_argument("--count", type=int, default=320, help="prompts (default: %(default)s)")
    spoil.add_argument("--groups", nargs="+", choices=dataset.GROUPS.values(), default=list(damage.GROUPS))
    spoil.add_argument("--styles", nargs="+", default=list(STYLES), help="what the denoiser was trained on")

    for name, words, steps, batch in (
        ("clip", "train the tiny CLIP", 100_000, 256),
        ("text", "teach a text tower to read any phrasing", 100_000, 64),
        ("observer", "train the independent judge of the reports", 100_000, 256),
        ("autoencoder", "train the latent model's autoencoder", 100_000, 64),
        ("denoiser", "train the noise-predicting teacher", 100_000, 64),
        ("distil", "distil the few-step student from it", 20_000, 64),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument(
            "--steps", type=int, default=steps, help="optimiser steps (default: %(default)s)"
        )
        command.add_argument("--minutes", type=float, help="stop after this much time, earlier runs included")
        command.add_argument(
            "--save-minutes", type=float, default=10, help="between checkpoints (default: %(default)s)"
        )
        command.add_argument(
            "--batch", type=int, default=batch, help="images per step (default: %(default)s)"
        )
        command.add_argument("--learning-rate", type=float, help="highest one (default: what suits)")
        command.add_argument("--seed", type=int, default=observer.SEED if name == "observer" else 0)
        if name != "observer":
            command.add_argument(
                "--from",
                "--start-from",
                dest="start",
                type=Path,
                required=name == "text",
                help="folder of a trained one to begin with; of autoencoder and denoisers, a checkpoint or "
                "safetensors file; of distil, the teacher",
            )
        if name == "clip":
            command.add_argument("--keep-text", action="store_true", help="leave its text tower as it is")
        if name in ("clip", "autoencoder", "denoiser", "distil"):
            command.add_argument(
                "--no-compile", action="store_true", help="run eagerly: slower, but starts at once"
            )
        if name in ("autoencoder", "denoiser", "distil"):
            _tiny(command, "three steps of four images")
        if name in ("denoiser", "distil"):
            command.add_argument(
                "--adamw",
                action="store_true",
                help="instead of Muon, which takes minutes a step on CPUs without bfloat16",
            )
            command.add_argument(
                "--latent", action="store_true", help="the latent model, trained on the bank in --work"
            )
            command.add_argument(
                "--autoencoder", type=Path, help="that the bank was made with (default: the one in --work)"
            )
        if name == "distil":
            command.add_argument(
                "--guidance", type=float, help="w of the teacher's guidance (default: 1, of pixels 0)"
            )

    bank = commands.add_parser("bank", help="encode scenes once, for denoiser and distil with --latent")
    bank.add_argument("--count", type=int, default=196_608, help="scenes (default: %(default)s)")
    bank.add_argument("--seed", type=int, default=0)
    bank.add_argument(
        "--from", dest="start", type=Path, help="the autoencoder (default: the checkpoint in --work)"
    )
    _tiny(bank, "16 scenes")

    out = commands.add_parser("export", help="write a checkpoint as the diffusers folder that the app loads")
    out.add_argument(
        "--checkpoint", default="student", help="denoiser, student or a file (default: %(default)s)"
    )
    latent = commands.add_parser("latent", help="write a latent model's weights as a folder for --source")
    latent.add_argument("--denoiser", type=Path, required=True, help="checkpoint or safetensors file")
    latent.add_argument("--base", type=Path, help="weights that those of --denoiser are differences to")
    latent.add_argument("--autoencoder", type=Path, required=True, help="checkpoint or safetensors file")
    latent.add_argument(
        "--scaling-factor", type=float, help="of the latents (default: that of the bank in --work)"
    )
    latent.add_argument("--out", type=Path, required=True, help="folder; emoji-clip is copied beside it")
    page = commands.add_parser("sheet", help="draw the sample sheet of 48 prompts")
    page.add_argument("--out", type=Path, default=ASSETS / "emoji-lcm" / "samples.webp")
    page.add_argument("--steps", type=int, default=4)
    judge = commands.add_parser("evaluate", help="how good the judge and the model are, with 95 %% intervals")
    judge.add_argument("--only", choices=("judge", "model", "variety"), help="one part instead of all")
    judge.add_argument("--seeds", type=int, default=3, help="noise seeds per prompt (default: %(default)s)")
    judge.add_argument(
        "--teacher", type=Path, help="diffusers folder of the teacher (default: --model in 50 steps)"
    )
    judge.add_argument(
        "--styles", nargs="+", help="sets that the model draws (default: those of the data set)"
    )
    judge.add_argument("--json", action="store_true")
    return top


def _tiny(command: argparse.ArgumentParser, words: str) -> None:
    command.add_argument("--tiny", action="store_true", help=f"a rehearsal: {words}")
