"""The CUDA benchmark, dry-run on tiny networks; its numbers need a CUDA device."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parent / "bench" / "on_cuda.py"
IDS = ("lcm-dreamshaper-v7", "sdxl-turbo", "flux1-schnell")


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def test_the_dry_run_measures_every_variant_and_checks_the_layers(tmp_path):
    out = tmp_path / "bench.json"
    done = run("--device", "cpu", "--tiny", "--repeats", 1, "--batches", 2, "--modes", "eager", "--json", out)
    assert done.returncode == 0, done.stderr
    data = json.loads(out.read_text())
    rows = data["rows"]
    assert [(r["backbone"], r["bits"]) for r in rows] == [
        (i, b) for i in IDS for b in ("float32", "w8a8", "w4a8", "w4a4")
    ]
    for row in rows:
        assert row["error"] is None and 0 < row["call_s"] < row["image_s"] and row["peak_bytes"] > 0
    stored = {(r["backbone"], r["bits"]): r["stored_bytes"] for r in rows}
    for id in IDS:
        assert stored[id, "w4a8"] == stored[id, "w4a4"] < stored[id, "w8a8"] < stored[id, "float32"]
    assert len(data["checks"]) == 3 * 2 * 3 and all(check["ok"] for check in data["checks"])
    assert max(check["relative_error"] for check in data["checks"]) == 0, "on the CPU they are the same computation"
    assert data["targets"] == []
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(rows) and all(line.count("|") == 11 for line in lines)


@pytest.mark.parametrize("arguments", [(), ("--tiny",), ("--device", "cpu")])
def test_where_it_cannot_run_it_says_so(arguments):
    if torch.cuda.is_available() and "cpu" not in arguments:
        arguments = ("--device", "cpu")
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == "" and "--tiny" in done.stderr
    assert "cuda.py: " in done.stderr.splitlines()[-1]
