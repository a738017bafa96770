"""Processes of a search that several share, forked by the tests from this one, which has loaded everything
already.

Every line on stdin, {"storage", "resolution", "pause", "out"}, starts a process and prints its number. It
waits for the file OUT.go, then takes part in the search, and writes a line to OUT for every point it computes
and one at the end.

The images are left out: a point takes a fixed time and gives scores that can be recognised, so that the tests
can check the sharing itself, with many points and little work.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from embedded_model import PROMPTS, embedded

from qsched.search import job as search_job
from qsched.search.options import SearchOptions
from qsched.search.run import search
from qsched.search.study import Scores


def scores_of(candidate):
    """Made-up scores that name their candidate."""
    return Scores([round(50 + candidate.c_x[0], 4)], [round(candidate.c_eps[0] / 2, 4)])


def options(resolution):
    """The search that all workers take part in."""
    return SearchOptions("w4a8", PROMPTS[:1], 1, resolution=resolution)


def work(storage, resolution, pause, out):
    """One worker, from beginning to end."""
    with open(out, "w", buffering=1) as report:

        def compute(self, candidates, on_images=None):
            for candidate in candidates:
                time.sleep(pause)
                report.write(json.dumps([candidate.c_x[0], candidate.c_eps[0]]) + "\n")
            return [scores_of(candidate) for candidate in candidates]

        search_job.Job.compute = compute
        search_job.Job.at_once = 2
        while not Path(out + ".go").exists():
            time.sleep(0.01)
        begin = time.perf_counter()
        preset = search(embedded(), options(resolution), storage=storage)
        facts = {"seconds": time.perf_counter() - begin, "done": preset.provenance["points_done"]}
        report.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    embedded().scorer()
    embedded().quantized(options(2).quantization)
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            status = 1
            try:
                work(**json.loads(line))
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        print(child, flush=True)
