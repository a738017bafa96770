"""How long `python -m qsched generate` takes from the key to the images, imports included.

    python tests/bench/generate.py [RUNS]

The first run reads everything from the disk; the median is of the others.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def measure(runs: int) -> list[float]:
    """Wall-clock seconds of each run."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "qsched", "generate", "--backbone", "emoji-lcm", "--bits", "w4a8"]
        command += ["--prompt", "red apple, glossy style", "--out", folder, "--json"]
        for _ in range(runs):
            begin = time.perf_counter()
            done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
            seconds.append(time.perf_counter() - begin)
            json.loads(done.stdout)
    return seconds


if __name__ == "__main__":
    times = measure(max(2, int(sys.argv[1]) if len(sys.argv) > 1 else 4))
    print(
        f"generate: first {times[0]:.1f} s, then median {statistics.median(times[1:]):.1f} s of "
        f"{len(times) - 1} (limit 10 s)"
    )
