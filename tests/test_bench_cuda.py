"""The CUDA benchmark, dry-run on tiny networks; its numbers need a CUDA device."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parent / "bench" / "on_cuda.py"
IDS = ("sdxl-turbo", "lcm-dreamshaper-v7", "flux1-schnell")
DRY = ("--device", "cpu", "--tiny", "--repeats", 1, "--batches", 2, "--candidates", 3)


def command(*arguments):
    return [sys.executable, SCRIPT, *map(str, arguments)]


def run(*arguments, **environment):
    more = {"env": {**os.environ, **environment}} if environment else {}
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, **more)


def tables(text):
    """The lines of every Markdown table, with heads."""
    return [
        [line for line in part.splitlines() if line.startswith("|")]
        for part in text.split("\n\n")
        if "|---" in part
    ]


def test_the_dry_run_measures_every_variant_and_checks_the_layers(tmp_path):
    out, found = tmp_path / "bench.md", tmp_path / "bench.json"
    done = run(*DRY, "--modes", "eager", "--bits", "w8a8", "w4a8", "--out", out, "--json", found)
    assert done.returncode == 0, done.stderr
    data = json.loads(found.read_text())
    rows = data["rows"]
    assert [(r["backbone"], r["bits"]) for r in rows] == [
        (i, b) for i in IDS for b in ("float32", "w8a8", "w4a8")
    ]
    for row in rows:
        assert row["error"] is None and min(row["call_s"], row["image_s"], row["peak_bytes"]) > 0
    stored = {(r["backbone"], r["bits"]): r["stored_bytes"] for r in rows}
    for id in IDS:
        assert stored[id, "w4a8"] < stored[id, "w8a8"] < stored[id, "float32"]
    assert [(r["backbone"], r["bits"]) for r in data["live"]] == [
        (i, b) for i in IDS for b in ("float32", "w8a8", "w4a8")
    ]
    for row in data["live"]:
        assert row["error"] is None and row["drag_s"] > 0 < row["batch_s"] and row["candidates"] == 3
    assert len(data["checks"]) == 2 * 2 * 3 and all(check["ok"] for check in data["checks"])
    assert max(check["relative_error"] for check in data["checks"]) == 0, (
        "on the CPU they are the same computation"
    )
    assert data["left_out"] == [] and out.read_text() == done.stdout.removesuffix("\n")
    speed, live = tables(done.stdout)
    assert len(speed) == 2 + len(rows) and len(live) == 2 + len(data["live"])
    assert all(line.count("|") == 12 for line in speed) and all(line.count("|") == 9 for line in live)


def compiled_rows(tmp_path, backend):
    """The measurements of one backbone, eager and compiled by this backend."""
    found = tmp_path / "bench.json"
    options = ("--bits", "w4a8", "--compile-backend", backend, "--json", found)
    done = run(*DRY, "--backbones", "flux1-schnell", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(found.read_text())["rows"]


def test_compiled_denoisers_are_measured_against_eager_ones(tmp_path):
    rows = [row for row in compiled_rows(tmp_path, "eager") if row["mode"] == "compiled"]
    assert [row["bits"] for row in rows] == ["float32", "w4a8"]
    for row in rows:
        assert row["error"] is None and row["compile_s"] > 0 and row["difference"] < 1e-2


def test_a_compiler_that_fails_leaves_the_other_rows(tmp_path):
    for row in compiled_rows(tmp_path, "none-such"):
        assert (row["error"] is None) == (row["mode"] == "eager") and "\n" not in (row["error"] or "")


def test_it_ends_in_time_and_names_what_was_left_out(tmp_path):
    done = run(*DRY, "--modes", "eager", "--minutes", 0, "--out", tmp_path / "bench.md")
    assert done.returncode == 0 and "checks against the CPU hold" in done.stdout
    assert [f"Not measured: {id}." in done.stdout for id in IDS] == [True] * 3
    done = run(
        *DRY, "--modes", "eager", "--backbones", "flux1-schnell", "--bits", "w8a8", "--row-seconds", 0.01
    )
    assert done.returncode == 0 and done.stdout.count("not done within 0 s") == 4


def test_a_killed_run_keeps_what_it_had(tmp_path):
    out = tmp_path / "bench.md"
    running = subprocess.Popen(command(*DRY, "--modes", "eager", "--out", out), stderr=subprocess.DEVNULL)
    try:
        ends = time.monotonic() + 200
        while time.monotonic() < ends and not (out.exists() and "| W8A8 |" in out.read_text()):
            time.sleep(0.05)
    finally:
        running.kill()
        running.wait()
    speed = tables(out.read_text())[0]
    assert len(speed) >= 4 and all(line.count("|") == 12 for line in speed)


def test_without_diffusers_it_says_what_is_missing(tmp_path):
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'diffusers' else find(name, *a)\n"
    )
    done = run(*DRY, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(
        "on_cuda.py: the package diffusers is missing: pip install diffusers"
    )


@pytest.mark.parametrize("arguments", [("--tiny",), ("--device", "cpu")])
def test_where_it_cannot_run_it_says_so(arguments):
    if torch.cuda.is_available() and "cpu" not in arguments:
        arguments = ("--device", "cpu")
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == "" and "--tiny" in done.stderr
    assert "on_cuda.py: " in done.stderr.splitlines()[-1]
