"""Shared by the tests of the command line: runs commands in this process and checks what every command
promises.
"""

import json

import pytest
from embedded_model import embedded

from qsched.commands import cli, options

COMMANDS = ("backbones", "generate", "search", "evaluate", "presets", "options", "bench")


class CommandLine:
    """Runs commands with the model that the other tests use; how it is loaded is tested in
    test_backbones.py.
    """

    def __init__(self, capsys, monkeypatch):
        self.capsys, real = capsys, options.open_backbone

        def open_backbone(args, id=None):
            scorer = getattr(args, "scorer", None)
            plain = (args.source, args.device, args.dtype, scorer) == (None, "auto", "auto", None)
            known = (id or args.backbone) == "emoji-lcm"
            return embedded() if plain and known else real(args, id)

        for name in COMMANDS:
            monkeypatch.setattr(f"qsched.commands.{name}.open_backbone", open_backbone)

    def run(self, *argv):
        """(exit status, stdout, stderr)."""
        status = cli.main([str(argument) for argument in argv])
        captured = self.capsys.readouterr()
        return status, captured.out, captured.err

    def ok(self, *argv):
        """A command with --json that must succeed in silence; returns its object."""
        status, out, err = self.run(*argv, "--json")
        assert (status, err) == (0, ""), err
        assert out.count("\n") == 1
        return json.loads(out, parse_constant=pytest.fail)

    def fails(self, *argv):
        """A command that must fail with status 2 and one line; returns the line."""
        status, out, err = self.run(*argv)
        assert status == 2 and out == ""
        assert err.count("\n") == 1 and err.startswith("qsched: ") and "Traceback" not in err
        return err
