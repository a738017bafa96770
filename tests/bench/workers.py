"""What more processes bring to one search on the embedded model: each with one thread, all on one storage.

    python tests/bench/workers.py [--storage URL] [--workers 1 2 4] [--bits w4a8] [--steps 4] [--grid 11]
    [--prompts N] [--json]

Every search begins anew. Time runs from the moment that all processes have loaded their models to the end of
the last one. More processes than idle cores bring nothing; on a machine with several GPUs, run `python -m
qsched search` once per GPU instead.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
import uuid


def work(storage: str, name: str, settings: dict, barrier, results) -> None:
    """One process of a search."""
    import torch

    from qsched import load_backbone
    from qsched.search.options import SearchOptions
    from qsched.search.run import search

    torch.set_num_threads(1)
    backbone, options, points = load_backbone("emoji-lcm"), SearchOptions(**settings), []
    backbone.quantized(options.checked(backbone).quantization)
    backbone.scorer()
    barrier.wait()
    begin = time.perf_counter()
    search(
        backbone, options, storage=storage, study_name=name,
        on_progress=lambda progress: points.append(progress.last[0].params()) if progress.last else None,
    )  # fmt: skip
    results.put((time.perf_counter() - begin, points))


def run(workers: int, storage: str, settings: dict) -> dict:
    """One search by so many processes: seconds, points by process, and points that two of them computed."""
    context = multiprocessing.get_context("spawn")
    barrier, results, name = context.Barrier(workers), context.Queue(), f"workers-{uuid.uuid4().hex}"
    processes = [
        context.Process(target=work, args=(storage, name, settings, barrier, results)) for _ in range(workers)
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    points = [json.dumps(point) for _, mine in found for point in mine]
    return {
        "workers": workers,
        "seconds": round(max(seconds for seconds, _ in found), 1),
        "points": sorted(len(mine) for _, mine in found),
        "repeated": len(points) - len(set(points)),
    }


def main() -> None:
    """Print a Markdown table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--storage", help="any Optuna URL (default: an SQLite file that is removed afterwards)"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--bits", default="w4a8")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--grid", type=int, default=11)
    parser.add_argument("--prompts", default=None)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    from qsched.prompts.builtin import choose_prompts

    settings = {"bits": args.bits, "steps": args.steps, "resolution": args.grid, "strategy": "shared"}
    settings["prompts"] = tuple(choose_prompts(args.prompts, "emoji", "calibration"))
    with tempfile.TemporaryDirectory() as folder:
        rows = [run(n, args.storage or f"sqlite:///{folder}/s.sqlite3", settings) for n in args.workers]
    if args.json:
        return print(json.dumps(rows))
    print("| processes | seconds | times faster | points of each | computed twice |\n|---|---|---|---|---|")
    for row in rows:
        faster, points = rows[0]["seconds"] / row["seconds"], " + ".join(map(str, row["points"]))
        print(f"| {row['workers']} | {row['seconds']} | {faster:.2f} | {points} | {row['repeated']} |")


if __name__ == "__main__":
    main()
