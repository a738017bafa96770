"""Whether the app holds a load: many sessions that drag and generate while a search runs.

    python tests/bench/load.py [--sessions 50] [--browsers 3] [--seconds 120] [--out FILE] [--json]

Starts app.py on the embedded model in a process of its own. Most sessions send over HTTP what the page
sends, the others are real browsers; one more session searches. Exit status 1 if anything was not as it
should be: an error, an image that is not the one computed alone, no queue position on the page, a search
that slows drags down, memory that is not given back.
"""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import httpx  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402
from load_visits import PATIENCE_S, HttpVisitor, Page, Seen, browse  # noqa: E402

from qsched.quiet import quiet  # noqa: E402

WARM_S = 40
"""Memory is compared from after a first, shorter load of as many sessions: what it allocates stays."""
GROWTH = 1.05
IDLE_S = 6


def main() -> int:
    """Load, measure, judge; the exit status."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--sessions", type=int, default=50)
    options.add_argument("--browsers", type=int, default=3)
    options.add_argument("--seconds", type=float, default=120)
    options.add_argument("--out", type=Path, help="where the result is written, as JSON")
    options.add_argument("--json", action="store_true")
    options = options.parse_args()
    quiet(offline=True)
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as (url, process):
        result, seen = asyncio.run(loaded(url, process, options))
        result["log"] = (Path(folder) / "log").read_text()[-2000:]
    result["other_images"] = unlike(seen)
    result["breaches"] = breaches(result, options)
    text = json.dumps(result, indent=2)
    if options.out:
        options.out.write_text(text + "\n")
    print(text if options.json else "\n".join(f"{name:24} {value}" for name, value in result.items()))
    return 1 if result["breaches"] else 0


@contextlib.contextmanager
def served(folder: Path):
    """app.py in a process of its own: (url, process); what it complains about is in the file `log`."""
    command = [sys.executable, str(ROOT / "app.py"), "--offline", "--searches", str(folder / "s.sqlite3")]
    environment = os.environ | {"GRADIO_TEMP_DIR": str(folder / "images"), "NO_PROXY": "127.0.0.1,localhost"}
    with (folder / "log").open("w") as log:
        app = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=ROOT
        )
    try:
        ready = app.stdout.readline()
        assert "ready on" in ready, (folder / "log").read_text()
        yield ready.split("ready on ")[1].split()[0].rstrip("/"), psutil.Process(app.pid)
    finally:
        app.terminate()
        app.wait(30)


async def loaded(url: str, process: psutil.Process, options: argparse.Namespace) -> tuple[dict, Seen]:
    """The load itself: the numbers, and what was seen."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False) as client:
        page = Page((await client.get("/config")).json())
        visitor = lambda part, number: HttpVisitor(client, page, f"{part}-{number}", number)
        memory = {"at_start": rss(process)}
        until = time.monotonic() + min(WARM_S, options.seconds)
        async with searching(visitor("warm-search", 0)):
            first = (visitor("warm", number).visit(until) for number in range(options.sessions))
            await asyncio.gather(*first)
        memory["before"] = await rested(process)
        searcher = visitor("search", 0)
        async with searching(searcher):
            seen, pace = await visits(visitor, searcher, url, options)
        seen.errors += searcher.seen.errors
        memory["after"] = await rested(process)
    return {
        "sessions": options.sessions, "browsers": options.browsers, **pace,
        "cores": os.cpu_count(), "drags": len(seen.drags), "generated": len(seen.generated),
        "drag_p50_s": percentile(seen.drags, 50), "drag_p95_s": percentile(seen.drags, 95),
        "generate_p50_s": percentile(seen.generated, 50), "generate_p95_s": percentile(seen.generated, 95),
        "highest_queue_position": max(seen.ranks, default=0) + 1,
        "positions_on_page": sorted(set(seen.positions))[:20],
        "images": len(seen.images), "errors": seen.errors[:20], "error_count": len(seen.errors),
        "rss_bytes": memory,
    }, seen  # fmt: skip


async def visits(visitor, searcher: HttpVisitor, url: str, options) -> tuple[Seen, dict]:
    """All visitors at once beside a search: what they saw, and how the search went then and afterwards."""
    seen, first, begin = Seen(), await points_done(searcher), time.monotonic()
    until, loop, threads = begin + options.seconds, asyncio.get_running_loop(), ThreadPoolExecutor(8)
    tabs = [loop.run_in_executor(threads, browse, url, number, until) for number in range(options.browsers)]
    others = [visitor("visit", number).visit(until) for number in range(options.sessions - options.browsers)]
    for one in asyncio.as_completed([*others, *tabs]):
        seen += await one
    took, second = time.monotonic() - begin, await points_done(searcher)
    await asyncio.sleep(IDLE_S)
    third = await points_done(searcher)
    return seen, {
        "seconds": round(took, 1),
        "search_points": second - first,
        "search_points_per_s_under_load": round((second - first) / took, 3),
        "search_points_per_s_alone": round((third - second) / IDLE_S, 3),
    }


@contextlib.asynccontextmanager
async def searching(visitor: HttpVisitor):
    """A search that lasts longer than the load; `frames` counts what the page is shown of it."""

    def keep(message: dict) -> None:
        visitor.seen.frames += message.get("msg") == "process_generating"

    visitor.set(**{"search-strategy": "exhaustive", "search-resolution": 41, "search-bits": "w4a8"})
    async with visitor.client.stream("GET", f"/gradio_api/heartbeat/{visitor.name}"):
        search = asyncio.create_task(visitor.send("search_start", keep))
        await until_true(lambda: visitor.seen.frames > 2)
        yield
        await visitor.send("search_stop")
        await asyncio.wait_for(search, PATIENCE_S)


async def points_done(visitor: HttpVisitor) -> float:
    """How many points of the search are done."""
    other = HttpVisitor(visitor.client, visitor.page, f"count-{time.monotonic_ns()}", 0)
    found = (await other.send("searches"))[0]
    return max((one["done"] for one in found), default=0)


async def until_true(check) -> None:
    """Wait for it, a minute at most."""
    end = time.monotonic() + 60
    while not check() and time.monotonic() < end:
        await asyncio.sleep(0.1)


def rss(process: psutil.Process) -> int:
    """Bytes of main memory that the app holds."""
    return process.memory_info().rss


async def rested(process: psutil.Process) -> int:
    """The same, after the server has noticed that the tabs are closed."""
    await asyncio.sleep(IDLE_S)
    return rss(process)


def unlike(seen: Seen, engine: Any = None) -> list[str]:
    """Which images are not the ones computed alone, by the engine or by one like the app's."""
    from qsched.comparison.result import Settings
    from qsched.quantization import Quantization
    from qsched.sampling.coefficients import Coefficients
    from qsched.server.engine import Engine
    from qsched.ui.images import enlarged

    engine, found = engine or Engine(), []
    steps = engine.opening()[0].steps
    for prompt, seed, bits, c_x, c_eps, image in seen.images:
        settings = Settings(prompt, seed, steps, Quantization(bits))
        alone = engine.compare("alone", "emoji-lcm", settings, Coefficients(c_x, c_eps)).qsched.image
        if not np.array_equal(np.asarray(enlarged(alone)), image):
            found.append(f"{prompt}, seed {seed}, {bits}, {c_x}, {c_eps}")
    return found


def breaches(result: dict, options: argparse.Namespace) -> list[str]:
    """What was not as it should be."""
    memory = result["rss_bytes"]
    wrong = {
        "errors": result["error_count"] > 0,
        "a traceback or complaint in the log": bool(result["log"].strip()),
        "images that are not those computed alone": bool(result["other_images"]),
        "a session without an image": result["images"] < options.sessions,
        "no drag or nothing generated": not (result["drags"] and result["generated"]),
        "no queue position on the page": bool(options.browsers and not result["positions_on_page"]),
        "the search did not let drags go first": result["search_points_per_s_under_load"]
        > 0.5 * result["search_points_per_s_alone"],
        "the search stood still": result["search_points_per_s_under_load"] <= 0,
        "memory was not given back": memory["after"] > GROWTH * memory["before"],
    }
    return [name for name, broken in wrong.items() if broken]


def percentile(seconds: list[float], percent: int) -> float | None:
    """Rounded to milliseconds; None without any."""
    return round(float(np.percentile(seconds, percent)), 3) if seconds else None


if __name__ == "__main__":
    sys.exit(main())
