"""The command line: `python -m qsched COMMAND`, one module a command."""
