"""What on_cuda.py found, as Markdown: a table of speed and memory, drags and candidates, checks."""

from typing import Any

from qsched.models.memory import BITS
from qsched.words import size

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
        "\n".join(f"WRONG {check}" for check in checks if not check["ok"]),
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
