"""The commands: what each prints and leaves behind, in this process and as a process of its own."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from embedded_model import counted, embedded
from PIL import Image

from qsched.commands import cli
from qsched.presets import load_preset
from qsched.sampling.coefficients import Coefficients
from qsched.schedulers import QSchedLCMScheduler
from qsched.search.study import Study

REPOSITORY = Path(cli.__file__).resolve().parents[2]
SMALL = ["--grid", "2", "--prompts", "2", "--steps", "1"]


def test_backbones_lists_what_can_run(line):
    spec = line.ok("backbones")["backbones"][0]
    assert spec["id"] == "emoji-lcm" and spec["ready"] and spec["reason"] is None and spec["steps"][0] == 1
    status, out, _ = line.run("backbones")
    assert status == 0 and "emoji-lcm" in out and "ready" in out and "Apache-2.0" in out


def test_backbones_says_why_one_cannot_run(line, tmp_path):
    spec = line.ok("backbones", "--source", tmp_path)["backbones"][0]
    assert not spec["ready"] and "missing" in spec["reason"]


def test_pull_has_nothing_to_download(line):
    answer = line.ok("pull", "emoji-lcm")
    assert answer["downloaded_bytes"] == 0 and "nothing to download" in answer["message"]
    assert "emoji-lcm" in line.fails("pull", "sd15")


def test_generate_writes_three_images_and_their_numbers(line, tmp_path):
    folder = tmp_path / "new" / "out"
    arguments = [
        "generate",
        "--prompt",
        "red apple, glossy style",
        "--bits",
        "w4a8",
        "--out",
        folder,
        "--steps",
        "2",
    ]
    data = line.ok(*arguments, "--c-x", "1.07", "1.0", "--c-eps", "0.92", "--seed", "3", "--k", "1")
    assert sorted(path.name for path in folder.iterdir()) == [
        "full_precision.png",
        "naive.png",
        "qsched.png",
        "result.json",
    ]
    images = [np.asarray(Image.open(folder / name)) for name in data["files"]]
    assert all(image.shape == (64, 64, 3) for image in images) and (images[1] != images[2]).any()
    assert data["coefficients"] == {"c_x": [1.07, 1.0], "c_eps": 0.92} and data["scorer"]["k"] == 1
    assert [column["name"] for column in data["columns"]] == ["full precision", "naive", "Q-Sched"]
    assert all({"jaq", "latency_s", "stored_bytes", "ssim"} <= set(column) for column in data["columns"])
    assert json.loads((folder / "result.json").read_text()) | {"folder": str(folder)} == data


def test_generate_in_words(line, tmp_path):
    status, out, err = line.run("generate", "--prompt", "fox", "--out", tmp_path, "--steps", "3")
    assert (status, err) == (0, "") and all(
        word in out for word in ("full precision", "naive", "Q-Sched", "CLIPScore", str(tmp_path))
    )
    assert "Q-Sched equals naive" in out  # no coefficients given, and no preset for three steps


def test_generate_takes_the_coefficients_of_a_preset(line, tmp_path, preset_file):
    data = line.ok("generate", "--prompt", "fox", "--out", tmp_path, "--steps", "2", "--preset", preset_file)
    assert data["coefficients"] == load_preset(preset_file).coefficients.to_dict() and data["notes"] == []
    other = line.ok(
        "generate",
        "--prompt",
        "fox",
        "--out",
        tmp_path,
        "--steps",
        "1",
        "--preset",
        preset_file,
        "--bits",
        "w2a8",
    )
    assert "made for emoji-lcm, w4a8, 2 steps" in other["notes"][0]


def test_generate_uses_the_best_known_preset(line, tmp_path, preset_file, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "qsched.presets.find_preset",
        lambda *key, method: asked.append((*key, method)) or load_preset(preset_file),
    )
    data = line.ok("generate", "--prompt", "fox", "--out", tmp_path, "--steps", "2")
    assert asked == [("emoji-lcm", "w4a8", 2, "plain")]
    assert data["coefficients"] == load_preset(preset_file).coefficients.to_dict()


def test_generate_says_when_a_prompt_is_too_long(line, tmp_path):
    data = line.ok("generate", "--prompt", "a very " * 100 + "red fox", "--out", tmp_path, "--steps", "1")
    assert "longer than the text encoder reads" in data["notes"][0]


def test_search_writes_a_preset_and_resumes(line, tmp_path):
    path = tmp_path / "sub" / "preset.json"
    with counted(embedded()) as count:
        data = line.ok("search", *SMALL, "--out", path)
    assert count.calls == 2 and data["points_done"] == 4 and data["summary"]["failed"] == 0
    preset = load_preset(path)
    assert (
        preset.coefficients.to_dict() == data["coefficients"]
        and len(preset.prompts) == 2
        and preset.shape == "ramp"
    )
    assert path.with_suffix(".sqlite3").is_file()
    with counted(embedded()) as count:
        assert line.ok("search", *SMALL, "--out", path)["summary"] == data["summary"]
    assert count.calls == 0


@pytest.mark.slow
def test_presets_are_made_judged_and_taken_up_again(line, tmp_path):
    few = ("--grid", "2", "--prompts", "2", "--held-out", "5", "--seeds", "2")
    small = ("presets", "--out", tmp_path, "--bits", "w4a8", "w2a8", "--steps", "1", "2", *few)
    found = line.ok(*small)["presets"]
    assert list(found) == [f"{bits}-{n}steps.json" for n in (1, 2) for bits in ("w4a8", "w2a8")]
    for name, differences in found.items():
        preset = load_preset(tmp_path / name)
        assert preset.held_out["differences"] == differences and len(preset.held_out["prompts"]) == 5
        assert np.isfinite(preset.surface.jaq()).all() and preset.surface.images == 4
        assert preset.provenance["strategy"] == ("shared" if preset.steps == 1 else "ends")
    with counted(embedded()) as count:
        status, out, err = line.run(*small)
    assert (status, count.calls) == (0, 0), err
    assert out.count("\n| w") == 4 and "control" in out
    (tmp_path / "w4a8-1steps.json").unlink()
    with counted(embedded()) as count:
        line.ok(*small)
    assert count.calls == 5 * 2 * 2, "both denoisers once on 5 held-out prompts and 2 seeds"


def test_presets_refuse_what_cannot_be_made_before_anything_is_computed(line, tmp_path):
    with counted(embedded()) as count:
        status, _, err = line.run("presets", "--out", tmp_path, "--bits", "w4a8", "w1a1")
        assert status == 2 and "w1a1" in err
        status, _, err = line.run("presets", "--out", tmp_path, "--steps", "1", "9")
        assert status == 2 and "not 9" in err
    assert count.calls == 0 and not list(tmp_path.iterdir())


def test_search_options_reach_the_preset(line, tmp_path):
    (tmp_path / "mine.txt").write_text("red fox\npizza\n")
    line.ok("search", "--out", tmp_path / "p.json", "--grid", "3", "--range", "0.9", "1.1", "--prompts",
        tmp_path / "mine.txt", "--steps", "1",
       "--shape", "constant", "--k", "0.5", "--seeds", "2", "--seed", "9", "--bits", "W2A8", "--group-size",
       "16", "--quantize-all",
       "--storage", f"sqlite:///{tmp_path / 'other.db'}", "--study", "mine")  # fmt: skip
    preset = load_preset(tmp_path / "p.json")
    assert (
        preset.surface.c_x == (0.9, 1.0, 1.1)
        and preset.surface.images == 4
        and preset.prompts == ["red fox", "pizza"]
    )
    assert (preset.shape, preset.bits, preset.provenance["k"], preset.provenance["seeds"]) == (
        "constant",
        "w2a8",
        0.5,
        [9, 10],
    )
    assert preset.settings["group_size"] == 16 and preset.settings["keep_high_precision"] is False
    assert (tmp_path / "other.db").is_file() and not (tmp_path / "p.sqlite3").exists()


def test_a_dry_run_prints_the_cost_and_writes_nothing(line, tmp_path):
    data = line.ok("search", *SMALL, "--dry-run", "--out", tmp_path / "p.json")
    assert (data["points"], data["images"], data["calls"]) == (4, 8, 2) and data["seconds"] > 0
    assert list(tmp_path.iterdir()) == []
    status, out, err = line.run("search", *SMALL, "--dry-run")
    assert (status, err) == (0, "") and "4 points" in out and "images/s" in out


def test_evaluate_reports_and_saves(line, preset_file):
    data = line.ok("evaluate", "--preset", preset_file, "--prompts", "2", "--seeds", "2", "--save")
    assert len(data["columns"]) == 4 and data["seeds"] == [1000, 1001] and len(data["prompts"]) == 2
    assert list(data["categories"]) == ["animals", "plants"], "few prompts cover the categories"
    assert load_preset(preset_file).held_out == data


def test_evaluate_shows_tables_that_fit_the_terminal(line, preset_file, tmp_path):
    status, out, err = line.run("evaluate", "--preset", preset_file, "--prompts", "4", "--seeds", "1")
    assert (status, err) == (0, "") and max(map(len, out.splitlines())) <= 120
    assert "Q-Sched - naive" in out and "\nJAQ by category:" in out and "|" not in out
    (tmp_path / "own.yaml").write_text("sa_1: red fox\nsa_2: a snowy hill\n")
    own = ["evaluate", "--preset", preset_file, "--prompts", tmp_path / "own.yaml", "--seeds", "1"]
    status, out, err = line.run(*own, "--markdown")
    assert (
        (status, err) == (0, "")
        and "| Q-Sched |" in out
        and "2 prompts x 1 seed" in out
        and "category" not in out
    )


def test_export_writes_a_scheduler_that_diffusers_loads(line, preset_file, tmp_path):
    data = line.ok("export", "--preset", preset_file, "--out", tmp_path / "scheduler")
    scheduler = QSchedLCMScheduler.from_pretrained(tmp_path / "scheduler")
    chosen = load_preset(preset_file).coefficients
    assert Coefficients(scheduler.config.c_x, scheduler.config.c_eps) == chosen
    assert {"scheduler_config.json", "schedulers.py"} <= set(data["files"]) and "QSchedLCMScheduler" in data[
        "snippet"
    ]


@pytest.mark.slow
def test_bench_measures_every_column(line):
    arguments = ["bench", "--bits", "w4a8", "w2a8", "--steps", "2", "--batches", "1", "2", "--repeats", "1"]
    data = line.ok(*arguments)
    assert [column["name"] for column in data["columns"]] == ["full precision", "w4a8", "w2a8"]
    for column in data["columns"]:
        assert (
            column["image_s"] > 0
            and set(column["images_per_second"]) == {"1", "2"}
            and column["held_bytes"] > 0
        )
    assert data["columns"][0]["drag_s"] is None and data["columns"][1]["drag_s"] > 0
    assert (
        data["columns"][0]["stored_bytes"]
        > data["columns"][1]["stored_bytes"]
        > data["columns"][2]["stored_bytes"]
    )
    assert data["peak_memory_bytes"] > data["columns"][0]["stored_bytes"]
    status, out, err = line.run(*arguments)
    assert (status, err) == (0, "") and "w2a8" in out and "batch 2" in out


@pytest.mark.slow
def test_generate_as_a_process_is_silent_light_and_offline(tmp_path):
    script = (
        "import socket, sys\n"
        "def refuse(*args): raise SystemExit('asked the network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from qsched.commands.cli import main\n"
        "status = main(sys.argv[1:])\n"
        "heavy = {'gradio', 'optuna', 'pyiqa', 'matplotlib', 'sqlalchemy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else status)\n"
    )
    arguments = [
        "generate",
        "--prompt",
        "red apple, glossy style",
        "--bits",
        "w4a8",
        "--out",
        str(tmp_path),
        "--json",
    ]
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["settings"]["steps"] == 4 and (tmp_path / "qsched.png").is_file()


def test_ctrl_c_during_a_search_loses_nothing(line, tmp_path, monkeypatch):
    real, stored = Study.store, []

    def store_and_interrupt(study, *scores):
        real(study, *scores)
        stored.append(scores)
        if len(stored) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Study, "store", store_and_interrupt)
    arguments = ["search", *SMALL, "--out", tmp_path / "preset.json"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status, out, err = line.run(*arguments)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (status, out) == (130, "") and err.count("\n") == 1 and "the same command goes on" in err
    assert not (tmp_path / "preset.json").exists()
    assert line.ok(*arguments, "--dry-run")["stored"] == 3
    assert line.ok(*arguments)["points_done"] == 4 and len(stored) == 4


def test_ctrl_c_elsewhere_is_one_line_too(line, tmp_path, monkeypatch):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("qsched.comparison.comparison.sample", interrupt)
    assert line.run("generate", "--prompt", "fox", "--out", tmp_path) == (130, "", "qsched: Interrupted.\n")
