"""Is one pair of coefficients per step better than a ramp or a constant pair? Searched alike, judged on held-out prompts.

    python tests/bench/per_step.py --storage sqlite:///evidence.sqlite3 [--bits w4a8 w4a4 w3a8] [--seeds 2]

All three start from the same adaptive search; `per-step` goes on from the ramp's. The gains over the naive quantized
model and the differences are paired (same held-out prompts, same noise), with 95 % bootstrap intervals over both. The
control is what the coefficients per step do to the full-precision model.
Killed, the searches go on where they were.
"""

import argparse
from dataclasses import replace

from qsched import load_backbone
from qsched.comparison import FULL_PRECISION, NAIVE, QSCHED
from qsched.evaluation import CONTROL, Evaluation, evaluate
from qsched.intervals import Estimate, bootstrap
from qsched.prompts import builtin_prompts
from qsched.search import SearchOptions, search


def difference(one: Evaluation, other: Evaluation) -> Estimate:
    """Q-Sched's JAQ with the coefficients of one evaluation minus that with the other's."""
    left, right = one.statistic(QSCHED, "jaq"), other.statistic(QSCHED, "jaq")
    return bootstrap(lambda *weights: left(*weights) - right(*weights), len(one.seeds), len(one.prompts))


def shown(estimate: Estimate) -> str:
    """Mean and interval."""
    return f"{estimate.mean:+.4f} [{estimate.low:+.4f}, {estimate.high:+.4f}]"


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--bits", nargs="+", default=["w4a8", "w4a4", "w3a8"])
    parser.add_argument(
        "--seeds", type=int, default=2, help="noise draws per prompt, in the search and on held-out prompts"
    )
    args = parser.parse_args()
    backbone, unseen = load_backbone("emoji-lcm"), builtin_prompts("emoji", "held-out")
    heads = ["bits", "constant - naive", "ramp - naive", "per step - naive", "per step - ramp", "CLIPScore", "CLIP-IQA"]
    heads += ["SSIM", "control", "coefficients per step (c_x; c_eps)"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for bits in args.bits:
        ramp = SearchOptions(bits, builtin_prompts("emoji", "calibration"), 4, seeds=args.seeds, strategy="adaptive")
        searches = replace(ramp, shape="constant"), ramp, replace(ramp, strategy="per-step")
        presets = [search(backbone, options, storage=args.storage) for options in searches]
        results = [evaluate(backbone, preset, unseen, args.seeds) for preset in presets]
        gains = [result.difference("jaq", QSCHED, NAIVE) for result in results] + [difference(results[2], results[1])]
        gains += [results[2].difference(number, QSCHED, NAIVE) for number in ("alignment", "quality", "ssim")]
        gains += [results[2].difference("jaq", CONTROL, FULL_PRECISION)]
        rows = "; ".join(" ".join(f"{value:.3f}" for value in row) for row in presets[2].coefficients.expand(4))
        print(f"| {bits.upper()} | {' | '.join(map(shown, gains))} | {rows} |", flush=True)


if __name__ == "__main__":
    main()
