"""`python -m qsched ...`: every command ends with 0, or with 2 and one clear line on stderr, or with 130
after Ctrl-C.

With --json, stdout is exactly one JSON object. `--traceback` shows where an error came from.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from qsched.commands.output import to_json
from qsched.commands.result import Interrupted, Result
from qsched.quiet import quiet
from qsched.version import __version__

COMMANDS = {
    "backbones": "what can run here",
    "pull": "download a backbone",
    "generate": "one prompt, three images, their scores",
    "diagnose": "which layers carry the quantization error, and what coefficients can explain of it",
    "search": "find coefficients for a bit-width",
    "evaluate": "try a preset on prompts its search never saw",
    "presets": "search and judge the presets of many bit-widths and step counts",
    "gallery": "make the page's examples by outcome, from held-out prompts",
    "slice": "add the loss surface around a preset's own coefficients",
    "surface": "how sure a preset is, and how its optimum moves with k",
    "export": "write a preset's coefficients as a diffusers scheduler folder",
    "space": "publish this app as a Hugging Face Space",
    "bench": "measure latency, memory and throughput of this machine",
}


class UsageError(ValueError):
    """The command line itself is wrong."""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def build_parser() -> Parser:
    """All commands with their arguments."""
    parser = Parser(
        "python -m qsched",
        description="Q-Sched: quantized few-step diffusion, repaired by rescaling the trajectory.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"qsched {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", allow_abbrev=False
        )
        importlib.import_module(f"qsched.commands.{name}").add_arguments(command)
        command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
        command.add_argument("--traceback", action="store_true", help="show where an error came from")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 (bad input or bad luck, one line on stderr) or 130
    (Ctrl-C).
    """
    args = None
    try:
        args = build_parser().parse_args(argv)
        command = importlib.import_module(f"qsched.commands.{args.command}")
        quiet(offline=not getattr(command, "online", lambda args: False)(args))
        result: Result = command.run(args)
        print(to_json(result.data) if args.json else result.text, flush=True)
        return 0
    except SystemExit as end:  # --help and --version
        return int(end.code or 0)
    except KeyboardInterrupt as error:
        return _fail(str(error) if isinstance(error, Interrupted) else "Interrupted.", 130)
    except BrokenPipeError:  # the reader of stdout has gone; nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        if args is not None and args.traceback:
            raise
        if type(error).__name__ == "OutOfMemoryError":
            return _fail("The device ran out of memory: use fewer bits, a smaller batch or --device cpu.", 2)
        return _fail(str(error) or type(error).__name__, 2)


def _fail(message: str, status: int) -> int:
    print(f"qsched: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return status
