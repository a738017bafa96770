"""Does a search that computes a tenth find coefficients as good as the whole grid's? Judged on prompts that
neither saw.

    python tests/bench/search_evidence.py --storage sqlite:///evidence.sqlite3 [--bits w4a8 w4a4 w3a8]
    [--seeds 5]

For every bit-width and calibration seed: the arg-max of the whole grid, the pick of the adaptive search, and
as a control the arg-max of as many points drawn at random. All are points of the grid, which is computed once
more on the held-out prompts with noise of its own. The difference of two picks is paired (same held-out
prompts and noise), averaged over the calibration seeds, with a 95 % bootstrap interval over the held-out
prompts. Killed, it goes on where it was.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from qsched import load_backbone
from qsched.prompts.builtin import builtin_prompts
from qsched.scoring import jaq_values
from qsched.search.options import SearchOptions
from qsched.search.run import search
from qsched.search.strategies.choice import strategy_of
from qsched.search.study import Scores
from qsched.surfaces.surface import Surface

HELD_OUT_SEED = 1000
DRAWS = 200
RESAMPLES = 2000


def of_seed(surface: Surface, seed: int, prompts: int) -> Surface:
    """The part of a surface that belongs to one of its noise seeds."""
    part = slice(seed * prompts, (seed + 1) * prompts)
    return Surface(surface.c_x, surface.c_eps, surface.alignment[..., part], surface.quality[..., part])


def adaptive_pick(surface: Surface, options: SearchOptions) -> tuple[int, int]:
    """The cell that the adaptive search recommends, its points looked up instead of computed."""
    strategy, done = strategy_of(options), {}
    while wanted := strategy.propose(done, set(), 2):
        for point in wanted:
            i, j = surface.nearest(point.c_x[0], point.c_eps[0])
            done[point] = Scores(surface.alignment[i, j].tolist(), surface.quality[i, j].tolist())
    best = strategy.best(done)
    return surface.nearest(best.c_x[0], best.c_eps[0])


def best_cell(values: np.ndarray) -> tuple[int, int]:
    """The arg-max over the grid."""
    return tuple(int(index) for index in np.unravel_index(np.nanargmax(values), values.shape))


def random_picks(values: np.ndarray, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """The arg-max of `count` random cells, many times."""
    picks = []
    for _ in range(DRAWS):
        cells = rng.choice(values.size, count, replace=False)
        picks.append(np.unravel_index(cells[int(np.argmax(values.flat[cells]))], values.shape))
    return picks


def gain(held_out: Surface, picks: Sequence[tuple[int, int]], weights: np.ndarray) -> np.ndarray:
    """Mean held-out JAQ of some cells under prompt weights (resamples, prompts), shape (resamples,)."""
    rows, columns = (list(index) for index in zip(*picks, strict=True))
    scores = [weights @ held_out.alignment[rows, columns].T, weights @ held_out.quality[rows, columns].T]
    return jaq_values(scores[0][..., None], scores[1][..., None]).mean(axis=1)


def report(bits: str, calibration: Surface, held_out: Surface, options: SearchOptions) -> list[str]:
    """The table's row of one bit-width; `options` are those of an adaptive search with one seed."""
    prompts, rng = len(options.prompts), np.random.default_rng(0)
    parts = [of_seed(calibration, seed, prompts) for seed in range(calibration.images // prompts)]
    total = strategy_of(options).total
    picks = {
        "exhaustive": [best_cell(part.jaq()) for part in parts],
        "adaptive": [adaptive_pick(part, options) for part in parts],
        "random": [pick for part in parts for pick in random_picks(part.jaq(), total, rng)],
        "plain": [held_out.nearest(1.0, 1.0)],
    }
    count = held_out.images
    even, resampled = (
        np.full((1, count), 1 / count),
        rng.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count,
    )
    mean = {name: gain(held_out, cells, even)[0] for name, cells in picks.items()}
    difference = gain(held_out, picks["adaptive"], resampled) - gain(held_out, picks["exhaustive"], resampled)
    low, high = np.quantile(difference, [0.025, 0.975])
    cells = ", ".join(f"{held_out.c_x[j]:g}/{held_out.c_eps[i]:g}" for i, j in picks["adaptive"])
    whole = ", ".join(f"{held_out.c_x[j]:g}/{held_out.c_eps[i]:g}" for i, j in picks["exhaustive"])
    return [
        bits.upper(),
        *(f"{mean[name] - mean['plain']:+.4f}" for name in ("exhaustive", "adaptive", "random")),
        f"{mean['adaptive'] - mean['exhaustive']:+.4f} [{low:+.4f}, {high:+.4f}]",
        whole,
        cells,
    ]


def main() -> None:
    """Search, then print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--storage", required=True)
    parser.add_argument("--bits", nargs="+", default=["w4a8", "w4a4", "w3a8"])
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    backbone = load_backbone("emoji-lcm")
    prompts, unseen = (tuple(builtin_prompts("emoji", use)) for use in ("calibration", "held-out"))
    print(
        "| bits | whole grid | adaptive | random | adaptive - whole grid | picks of the grid "
        "(c_x/c_eps) | adaptive |"
    )
    print("|---" * 7 + "|")
    for bits in args.bits:
        options = SearchOptions(bits, prompts, 4, seeds=args.seeds, shape="constant")
        calibration = search(backbone, options, storage=args.storage).surface
        held = SearchOptions(bits, unseen, 4, HELD_OUT_SEED, shape="constant")
        held_out = search(backbone, held, storage=args.storage).surface
        adaptive = SearchOptions(bits, prompts, 4, shape="constant", strategy="adaptive")
        print("| " + " | ".join(report(bits, calibration, held_out, adaptive)) + " |", flush=True)


if __name__ == "__main__":
    main()
