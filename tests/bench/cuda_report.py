"""What on_cuda.py found, as Markdown: a table of speed and memory, drags and candidates, checks
and targets.
"""

from typing import Any

from qsched.models.memory import BITS
from qsched.words import size

TARGETS = (("sdxl-turbo", "w8a8", 0.8), ("sdxl-turbo", "w4a8", 1.1))
"""(backbone, bits, time of a compiled call over half precision's at the largest batch, 4 or more)."""
SIZES = {"lcm-dreamshaper-v7": 3.4, "sdxl-turbo": 3.6, "flux1-schnell": 3.6}
"""How many times smaller than half precision W4A8 is to be stored."""
DRAG = ("sdxl-turbo", "w4a8", 0.120)
"""(backbone, bits, seconds): a drag of 4 steps with the tiny decoder at 512 px."""
Row = dict[str, Any]


def markdown(data: dict[str, Any]) -> str:
    """The whole report; what has not been measured yet is not there."""
    checks = data["checks"]
    held, worst = (
        sum(c["ok"] for c in checks),
        max((c["relative_error"] / c["limit"] for c in checks), default=0),
    )
    parts = [
        f"{data['device']}, torch {data['versions']['torch']}, medians of {data['repeats']}"
        f"{', tiny networks' * data['tiny']}.",
        table(data["rows"]),
        live_table(data["live"]),
        f"{held} of {len(checks)} checks against the CPU hold (worst: {worst:.0%} of its limit).",
        "\n".join([*judged(data), *(f"WRONG {check}" for check in checks if not check["ok"])]),
        "\n".join(f"Not measured: {name}." for name in data["left_out"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(rows: list[Row]) -> str:
    """One call and one image; factors are to half precision of the same backbone, mode and batch."""
    lines = [
        "| backbone | bits | mode | batch | call | of half | image | of half | peak | stored | compiling |",
        "|---" * 11 + "|",
    ]
    for row in rows:
        cells = [row["backbone"], row["bits"].upper(), row["mode"], str(row["batch"])]
        if row["error"]:
            lines.append(f"| {' | '.join(cells)} | {row['error']} | | | | | | |")
            continue
        base = reference(rows, row)
        share = lambda name, row=row, base=base: f"{row[name] / base[name]:.2f}x" if base else "–"
        smaller = (
            f", {base['stored_bytes'] / row['stored_bytes']:.2f}x smaller" if base and base is not row else ""
        )
        cells += [
            milliseconds(row["call_s"]),
            share("call_s"),
            milliseconds(row["image_s"]),
            share("image_s"),
        ]
        cells += [size(row["peak_bytes"] or 0), f"{size(row['stored_bytes'])}{smaller}"]
        cells += [
            f"{row['compile_s']:.0f} s, {row['difference']:.1e} off" if row["mode"] == "compiled" else ""
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def live_table(rows: list[Row]) -> str:
    """What the page does: a drag, and a batch of search candidates, both with the tiny decoder."""
    if not rows:
        return ""
    lines = ["| backbone | bits | mode | steps | drag | candidates | of one batch | each |", "|---" * 8 + "|"]
    for row in rows:
        cells = [row["backbone"], row["bits"].upper(), row["mode"]]
        if row["error"]:
            cells += ["", row["error"], "", "", ""]
        else:
            cells += [
                str(row["steps"]),
                milliseconds(row["drag_s"]),
                str(row["candidates"]),
                milliseconds(row["batch_s"]),
            ]
            cells += [milliseconds(row["batch_s"] / row["candidates"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def milliseconds(seconds: float) -> str:
    """For people."""
    return f"{1000 * seconds:.1f} ms"


def reference(rows: list[Row], row: Row) -> Row | None:
    """The row in half precision that a row is compared with, None if that has failed."""
    same = lambda other: all(other[name] == row[name] for name in ("backbone", "mode", "batch"))
    return next(
        (other for other in rows if same(other) and not other["error"] and other["bits"] not in BITS), None
    )


def judged(data: dict[str, Any]) -> list[str]:
    """Each target that was measured, kept or missed by how much; tiny networks have none."""
    if data["tiny"]:
        return []
    rows = [row for row in data["rows"] if not row["error"]]
    found = []
    for backbone, bits, limit in TARGETS:
        mine = [
            row
            for row in rows
            if (row["backbone"], row["bits"], row["mode"]) == (backbone, bits, "compiled")
            and row["batch"] >= 4
        ]
        row = max(mine, key=lambda r: r["batch"], default=None)
        base = row and reference(rows, row)
        if base:
            what = f"{backbone} {bits.upper()} at batch {row['batch']}, of half precision's time"
            found.append(_verdict(what, row["call_s"] / base["call_s"], limit, "{:.2f}x"))
    for backbone, limit in SIZES.items():
        row = next((row for row in rows if (row["backbone"], row["bits"]) == (backbone, "w4a8")), None)
        base = row and reference(rows, row)
        if base:
            ratio = base["stored_bytes"] / row["stored_bytes"]
            verdict = "kept" if ratio >= limit else f"missed by {100 * (1 - ratio / limit):.0f} %"
            found.append(f"{backbone} W4A8 stored: {ratio:.2f}x smaller, target {limit:g}x: {verdict}")
    drags = [r for r in data["live"] if (r["backbone"], r["bits"]) == DRAG[:2] and not r["error"]]
    if drags:
        best = min(drags, key=lambda row: row["drag_s"])
        what = f"a drag on {DRAG[0]} at {DRAG[1].upper()}, {best['mode']}"
        found.append(_verdict(what, 1000 * best["drag_s"], 1000 * DRAG[2], "{:.0f} ms"))
    return found


def _verdict(what: str, value: float, limit: float, form: str) -> str:
    verdict = "kept" if value <= limit else f"missed by {100 * (value / limit - 1):.0f} %"
    return f"{what}: {form.format(value)}, target {form.format(limit)}: {verdict}"
