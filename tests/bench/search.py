"""What a search costs by each strategy, on the embedded model: wall time, denoiser calls, scored images.

    python tests/bench/search.py [--bits w4a8] [--steps 4 1] [--grid 11] [--prompts N] [--repeats 1]

Every search runs in a fresh SQLite storage; the strategies take turns, and the median of their times counts.
They are timed with the model as it is, and with a decoder and a scorer that cost nothing, where only the
denoiser's share and the bookkeeping are left. The exhaustive search stays kinder than the code of the paper:
it keeps its scorer in memory and pickles no images.
"""

import argparse
import statistics
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from qsched import load_backbone
from qsched.models.base import Backbone
from qsched.prompts.builtin import choose_prompts
from qsched.scoring import ImageScores
from qsched.search.options import SearchOptions
from qsched.search.run import search

STRATEGIES = ("exhaustive", "shared", "adaptive")


@dataclass
class Cost:
    """What one search took."""

    seconds: float = 0.0
    calls: int = 0
    scored: int = 0
    points: int = 0


@contextmanager
def watched(backbone: Backbone, free: bool):
    """Counts the images that are scored; `free` leaves out the work."""
    cost, scorer = Cost(), backbone.scorer()
    decode, score = backbone.decode, scorer.score

    def decoding(latents, **options):
        return torch.zeros(len(latents), 3, 1, 1) if free else decode(latents, **options)

    def scoring(images, prompts):
        cost.scored += len(images)
        constant = torch.full((len(images),), 0.5)
        return ImageScores(100 * constant, constant) if free else score(images, prompts)

    backbone.decode, scorer.score = decoding, scoring
    try:
        yield cost
    finally:
        del backbone.decode, scorer.score


def run(backbone: Backbone, options: SearchOptions, free: bool) -> Cost:
    """One search from nothing."""
    with tempfile.TemporaryDirectory() as folder, watched(backbone, free) as cost:
        calls, begin = backbone.calls, time.perf_counter()
        preset = search(backbone, options, storage=f"sqlite:///{folder}/search.sqlite3")
        cost.seconds, cost.calls = time.perf_counter() - begin, backbone.calls - calls
        cost.points = preset.provenance["points_done"]
    return cost


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bits", default="w4a8")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 1])
    parser.add_argument("--grid", type=int, default=11)
    parser.add_argument("--prompts", default=None)
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    backbone = load_backbone("emoji-lcm")
    prompts = tuple(choose_prompts(args.prompts, "emoji", "calibration"))
    heads = [
        "steps",
        "decoder and scorer",
        "strategy",
        "points",
        "denoiser calls",
        "scored",
        "seconds",
        "times faster",
    ]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for steps in args.steps:
        options = SearchOptions(args.bits, prompts, steps, resolution=args.grid, shape="constant")
        run(backbone, SearchOptions(args.bits, prompts[:4], steps, resolution=2), False)  # warm-up
        for free in (False, True):
            costs: dict[str, list[Cost]] = {strategy: [] for strategy in STRATEGIES}
            for _ in range(args.repeats):
                for strategy, taken in costs.items():
                    taken.append(run(backbone, SearchOptions(**vars(options) | {"strategy": strategy}), free))
            seconds = {
                name: statistics.median(cost.seconds for cost in taken) for name, taken in costs.items()
            }
            for name, (cost, *_) in costs.items():
                cells = [
                    steps,
                    "free" if free else "real",
                    name,
                    cost.points,
                    f"{cost.calls:,}",
                    f"{cost.scored:,}",
                ]
                cells += [f"{seconds[name]:.1f}", f"{seconds['exhaustive'] / seconds[name]:.1f}"]
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
