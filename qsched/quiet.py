"""Keep other people's start-up chatter off stderr: what appears there should be about this program.

Call `quiet()` before diffusers is imported; the command line and app.py do it first of all.
"""

import logging
import os

SETTINGS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    # else tokenizers warns whenever a process forks after encoding a prompt
    "TOKENIZERS_PARALLELISM": "false",
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


class OutOfFiles(logging.Filter):
    """Makes a line a minute of asyncio's thousands of tracebacks a second while no file can be opened."""

    last = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown."""
        if "out of system resource" not in str(record.msg):
            return True
        record.msg, record.args, record.exc_info = "Too many files are open: new visitors wait.", (), None
        due = record.created - self.last >= 60
        self.last = record.created if due else self.last
        return due


_OUT_OF_FILES = OutOfFiles()


def quiet(offline: bool = False) -> None:
    """Silence import-time messages of diffusers' dependencies; what the user has set in the environment wins.

    diffusers imports bitsandbytes and torchao wherever they are installed; bitsandbytes warns about a kernel
    for CPUs that nothing here uses, and torchao makes torch warn about torch's own future.

    Args:
        offline: also keep the Hugging Face libraries from asking the hub for anything.
    """
    for name in ("bitsandbytes", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("asyncio").addFilter(_OUT_OF_FILES)  # which is added once, however often this is called
    for name, value in (SETTINGS | (OFFLINE if offline else {})).items():
        os.environ.setdefault(name, value)
