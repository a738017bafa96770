"""`python -m qsched`: see `qsched.commands.cli`."""

import sys

from qsched.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
