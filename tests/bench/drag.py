"""How long from a slider's input to the new image on the page, in a real browser on the embedded model.

    python tests/bench/drag.py [--positions 60] [--bits w4a8] [--steps 4] [--source FOLDER] [--json]

Two gestures: single arrow keys, each waiting for its image (the latency that README states), and a continuous
drag (images per second while moving, and how long after the last input its image stands). Times are taken in
the browser: from the slider's input event to the frame after the new image has loaded.
"""

import argparse
import json
import platform
import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from browser_app import CHROMIUM, FLAGS  # noqa: E402

from qsched.quiet import quiet  # noqa: E402

WATCH = """() => {
  const times = (window.times = { input: [], image: [] });
  document.addEventListener("input", (e) => e.target.type === "range" && times.input.push(performance.now()), true);
  document.addEventListener("load", (e) => {
    if (e.target.closest?.("#image-qsched")) requestAnimationFrame(() => times.image.push(performance.now()));
  }, true);
}"""  # noqa: E501


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--positions", type=int, default=60)
    options.add_argument("--bits", default="w4a8")
    options.add_argument("--steps", type=int, default=4)
    options.add_argument("--source", help="folder of another model of the embedded family")
    options.add_argument("--json", action="store_true")
    options = options.parse_args()
    quiet(offline=True)

    import torch
    from playwright.sync_api import sync_playwright

    from qsched.ui.page import build_app

    app = build_app(source=options.source)
    app.engine.warm_up()
    _, url, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        # on the map, so that none is made beside it
        page.goto(f"{url}?bits={options.bits}&steps={options.steps}&shape=ramp&c_x=0.8&c_eps=1")
        page.wait_for_function("document.querySelector('#image-qsched img')?.naturalWidth > 0")
        page.wait_for_timeout(2000)
        page.evaluate(WATCH)
        latencies, server = keys(page, app.engine, options.positions)
        drag = dragged(page)
        browser.close()
    app.close(verbose=False)
    result = {
        "device": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "bits": options.bits,
        "steps": options.steps,
        "positions": len(latencies),
        "p50_ms": percentile(latencies, 50),
        "p95_ms": percentile(latencies, 95),
        "worst_ms": max(latencies),
        "sampling_p50_ms": percentile(server, 50),
        **drag,
    }
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        for name, value in result.items():
            print(f"{name:20} {value:.0f}" if isinstance(value, float) else f"{name:20} {value}")


def keys(page, engine, positions: int) -> tuple[list[float], list[float]]:
    """Milliseconds from each arrow key's input to its image, and the sampling's share (all steps but the
    first, and the decode).
    """
    slider = page.locator("#c_x input[type=range]")
    slider.focus()
    latencies, server = [], []
    for number in range(positions + 3):
        page.evaluate("times.input.length = times.image.length = 0")
        slider.press("ArrowRight")
        page.wait_for_function("times.input.length && times.image.length", timeout=60_000)
        if number >= 3:  # the first ones warm up
            latencies.append(page.evaluate("times.image.at(-1) - times.input[0]"))
            held = engine.session(list(engine.sessions)[-1]).comparison
            server.append(1000 * (held.qsched.latency_s - held.first_s))
        page.wait_for_timeout(150)
    return latencies, server


def dragged(page) -> dict[str, float]:
    """A drag of two seconds across the track and back."""
    page.evaluate("times.input.length = times.image.length = 0")
    track = page.locator("#c_eps input[type=range]")
    box = track.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    for step in range(120):
        page.mouse.move(box["x"] + box["width"] * (0.5 + 0.3 * abs(60 - step) / 60 - 0.3), y)
        page.wait_for_timeout(16)
    page.mouse.up()
    page.wait_for_timeout(3000)
    times = page.evaluate("times")
    images = [t for t in times["image"] if t <= times["input"][-1]]
    seconds = (times["input"][-1] - times["input"][0]) / 1000
    return {
        "drag_inputs": len(times["input"]),
        "drag_images_per_s": round(len(images) / seconds, 2),
        "drag_settled_ms": max(times["image"]) - times["input"][-1],
    }


def percentile(numbers: list[float], percent: int) -> float:
    """By linear interpolation between order statistics."""
    return statistics.quantiles(numbers, n=100, method="inclusive")[percent - 1]


if __name__ == "__main__":
    main()
