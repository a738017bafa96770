"""`python -m qsched`: see `qsched.cli`."""

import sys

from qsched.cli import main

if __name__ == "__main__":
    sys.exit(main())
