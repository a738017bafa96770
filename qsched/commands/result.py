"""The commands of `python -m qsched`, one module each: `add_arguments(parser)` and `run(args) -> Result`.

A command that may ask the Hub has `online(args) -> bool`; the others are kept off the network.
Nothing heavy is imported before `run`, so that a typing error is answered at once.
"""

from typing import Any, NamedTuple


class Result(NamedTuple):
    """What a command has to say: an object for --json, and a text for people."""

    data: dict[str, Any]
    text: str


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a sentence about what was kept and how to go on."""
