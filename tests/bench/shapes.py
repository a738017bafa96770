"""How many numbers are worth searching? One pair for all steps, a ramp to 1, two ends, one pair per step,
judged alike.

    python tests/bench/shapes.py --storage sqlite:///evidence.sqlite3 [--bits w4a8 w4a4 w3a8] [--seeds 2]

All start from adaptive searches on the calibration prompts; `ends` and `per-step` go on from the ramp's best
pair. Every difference is paired (same held-out prompts, same noise), with a 95 % bootstrap interval over
both. The control is what the same coefficients do to the full-precision model. Killed, the searches go on
where they were.
"""

import argparse
from dataclasses import replace

from qsched import load_backbone
from qsched.comparison.result import FULL_PRECISION, QSCHED
from qsched.evaluation.held_out import evaluate
from qsched.evaluation.result import CONTROL, Evaluation
from qsched.prompts.builtin import builtin_prompts
from qsched.search.options import SearchOptions
from qsched.search.run import search
from qsched.surfaces.intervals import Estimate, bootstrap


def difference(one: Evaluation, other: Evaluation) -> Estimate:
    """Q-Sched's JAQ with the coefficients of one evaluation minus that with the other's."""
    left, right = one.statistic(QSCHED, "jaq"), other.statistic(QSCHED, "jaq")
    return bootstrap(lambda *weights: left(*weights) - right(*weights), len(one.seeds), len(one.prompts))


def shown(estimate: Estimate, digits: int = 3) -> str:
    """Mean and interval."""
    return f"{estimate.mean:+.{digits}f} [{estimate.low:+.{digits}f}, {estimate.high:+.{digits}f}]"


def main() -> None:
    """Print a Markdown table, then the differences between the shapes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--storage", required=True)
    parser.add_argument("--bits", nargs="+", default=["w4a8", "w4a4", "w3a8"])
    parser.add_argument(
        "--seeds", type=int, default=2, help="noise draws per prompt, in the search and on held-out prompts"
    )
    args = parser.parse_args()
    backbone, unseen = load_backbone("emoji-lcm"), builtin_prompts("emoji", "held-out")
    heads = ["bits", "shape", "JAQ - naive", "CLIPScore", "CLIP-IQA", "SSIM", "control", "c_x; c_eps"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    compared = []
    for bits in args.bits:
        ramp = SearchOptions(
            bits, builtin_prompts("emoji", "calibration"), 4, seeds=args.seeds, strategy="adaptive"
        )
        searches = {"constant": replace(ramp, shape="constant"), "ramp": ramp}
        searches |= {name: replace(ramp, strategy=name) for name in ("ends", "per-step")}
        results = {}
        for name, options in searches.items():
            preset = search(backbone, options, storage=args.storage)
            found = results[name] = evaluate(backbone, preset, unseen, args.seeds)
            cells = [shown(found.difference("jaq")), shown(found.difference("alignment"), 2)]
            cells += [shown(found.difference(metric)) for metric in ("quality", "ssim")]
            cells += [shown(found.difference("jaq", CONTROL, FULL_PRECISION))]
            rows = "; ".join(
                " ".join(f"{value:.3f}" for value in row) for row in preset.coefficients.expand(4)
            )
            print(f"| {bits.upper()} | {name} | {' | '.join(cells)} | {rows} |", flush=True)
        for one, other in (("ends", "ramp"), ("per-step", "ends")):
            compared.append(
                f"{bits.upper()}, {one} - {other}: {shown(difference(results[one], results[other]))}"
            )
    print("\n" + "\n".join(compared))


if __name__ == "__main__":
    main()
