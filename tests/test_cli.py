"""The command line: 0, or 2 and exactly one line on stderr; with --json one object on stdout and nothing else."""

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from embedded_model import counted, embedded
from PIL import Image

from qsched import cli
from qsched.coefficients import Coefficients
from qsched.commands import options, output
from qsched.presets import load_preset, save_preset
from qsched.schedulers import QSchedLCMScheduler

REPOSITORY = Path(cli.__file__).resolve().parents[1]
SMALL = ["--grid", "2", "--prompts", "2", "--steps", "1"]


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch):
    """The commands get the model that the other tests use; how it is loaded is tested in test_backbones.py."""
    real = options.open_backbone

    def open_backbone(args, id=None):
        plain = (args.source, args.device, args.dtype) == (None, "auto", "auto")
        known = (id or args.backbone) == "emoji-lcm"
        return embedded() if plain and known else real(args, id)

    for name in ("backbones", "generate", "search", "evaluate", "export", "bench"):
        monkeypatch.setattr(f"qsched.commands.{name}.open_backbone", open_backbone)


@pytest.fixture
def run(capsys):
    """Runs a command: (exit status, stdout, stderr)."""

    def call(*argv):
        status = cli.main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def ok(run):
    """Runs a command with --json that must succeed in silence; returns its object."""

    def call(*argv):
        status, out, err = run(*argv, "--json")
        assert (status, err) == (0, ""), err
        assert out.count("\n") == 1
        return json.loads(out, parse_constant=pytest.fail)

    return call


@pytest.fixture
def fails(run):
    """Runs a command that must fail with one line; returns the line."""

    def call(*argv, status=2):
        found, out, err = run(*argv)
        assert found == status and out == ""
        assert err.count("\n") == 1 and err.startswith("qsched: ") and "Traceback" not in err
        return err

    return call


@pytest.fixture(scope="module")
def preset_file(tmp_path_factory):
    """A preset that `search` wrote."""
    path = tmp_path_factory.mktemp("preset") / "w4a8.json"
    assert cli.main(["search", *SMALL, "--steps", "2", "--out", str(path)]) == 0
    return path


def test_backbones_lists_what_can_run(ok, run):
    (spec,) = ok("backbones")["backbones"]
    assert spec["id"] == "emoji-lcm" and spec["ready"] and spec["reason"] is None and spec["steps"][0] == 1
    status, out, _ = run("backbones")
    assert status == 0 and "emoji-lcm" in out and "ready" in out and "Apache-2.0" in out


def test_backbones_says_why_one_cannot_run(ok, tmp_path):
    (spec,) = ok("backbones", "--source", tmp_path)["backbones"]
    assert not spec["ready"] and "missing" in spec["reason"]


def test_pull_has_nothing_to_download(ok, fails):
    answer = ok("pull", "emoji-lcm")
    assert answer["downloaded_bytes"] == 0 and "nothing to download" in answer["message"]
    assert "emoji-lcm" in fails("pull", "sd15")


def test_generate_writes_three_pictures_and_their_numbers(ok, tmp_path):
    folder = tmp_path / "new" / "out"
    arguments = ["generate", "--prompt", "red apple, glossy style", "--bits", "w4a8", "--out", folder, "--steps", "2"]
    data = ok(*arguments, "--c-x", "1.07", "1.0", "--c-eps", "0.92", "--seed", "3", "--k", "1")
    assert sorted(path.name for path in folder.iterdir()) == [
        "full_precision.png",
        "naive.png",
        "qsched.png",
        "result.json",
    ]
    pictures = [np.asarray(Image.open(folder / name)) for name in data["files"]]
    assert all(picture.shape == (64, 64, 3) for picture in pictures) and (pictures[1] != pictures[2]).any()
    assert data["coefficients"] == {"c_x": [1.07, 1.0], "c_eps": 0.92} and data["scorer"]["k"] == 1
    assert [column["name"] for column in data["columns"]] == ["full precision", "naive", "Q-Sched"]
    assert all({"jaq", "latency_s", "stored_bytes", "ssim"} <= set(column) for column in data["columns"])
    assert json.loads((folder / "result.json").read_text()) | {"folder": str(folder)} == data


def test_generate_in_words(run, tmp_path):
    status, out, err = run("generate", "--prompt", "fox", "--out", tmp_path, "--steps", "1")
    assert (status, err) == (0, "") and all(
        word in out for word in ("full precision", "naive", "Q-Sched", "CLIPScore", str(tmp_path))
    )
    assert "Q-Sched equals naive" in out  # no coefficients given, and no preset for one step


def test_generate_takes_the_coefficients_of_a_preset(ok, tmp_path, preset_file):
    data = ok("generate", "--prompt", "fox", "--out", tmp_path, "--steps", "2", "--preset", preset_file)
    assert data["coefficients"] == load_preset(preset_file).coefficients.to_dict() and data["notes"] == []
    other = ok(
        "generate", "--prompt", "fox", "--out", tmp_path, "--steps", "1", "--preset", preset_file, "--bits", "w2a8"
    )
    assert "made for emoji-lcm, w4a8, 2 steps" in other["notes"][0]


def test_generate_uses_the_best_known_preset(ok, tmp_path, preset_file, monkeypatch):
    asked = []
    monkeypatch.setattr("qsched.presets.find_preset", lambda *key: asked.append(key) or load_preset(preset_file))
    data = ok("generate", "--prompt", "fox", "--out", tmp_path, "--steps", "2")
    assert (
        asked == [("emoji-lcm", "w4a8", 2)] and data["coefficients"] == load_preset(preset_file).coefficients.to_dict()
    )


def test_generate_says_when_a_prompt_is_too_long(ok, tmp_path):
    data = ok("generate", "--prompt", "a very " * 100 + "red fox", "--out", tmp_path, "--steps", "1")
    assert "longer than the text encoder reads" in data["notes"][0]


def test_search_writes_a_preset_and_resumes(ok, tmp_path):
    path = tmp_path / "sub" / "preset.json"
    with counted(embedded()) as count:
        data = ok("search", *SMALL, "--out", path)
    assert count.calls == 2 and data["points_done"] == 4 and data["summary"]["failed"] == 0
    preset = load_preset(path)
    assert preset.coefficients.to_dict() == data["coefficients"] and len(preset.prompts) == 2 and preset.shape == "ramp"
    assert path.with_suffix(".sqlite3").is_file()
    with counted(embedded()) as count:
        assert ok("search", *SMALL, "--out", path)["summary"] == data["summary"]
    assert count.calls == 0


def test_search_options_reach_the_preset(ok, tmp_path):
    (tmp_path / "mine.txt").write_text("red fox\npizza\n")
    ok("search", "--out", tmp_path / "p.json", "--grid", "3", "--range", "0.9", "1.1", "--prompts", tmp_path / "mine.txt", "--steps", "1",
       "--shape", "constant", "--k", "0.5", "--seeds", "2", "--seed", "9", "--bits", "W2A8", "--group-size", "16", "--quantize-all",
       "--storage", f"sqlite:///{tmp_path / 'other.db'}", "--study", "mine")  # fmt: skip
    preset = load_preset(tmp_path / "p.json")
    assert (
        preset.surface.c_x == (0.9, 1.0, 1.1) and preset.surface.images == 4 and preset.prompts == ["red fox", "pizza"]
    )
    assert (preset.shape, preset.bits, preset.provenance["k"], preset.provenance["seeds"]) == (
        "constant",
        "w2a8",
        0.5,
        [9, 10],
    )
    assert preset.settings["group_size"] == 16 and preset.settings["keep_high_precision"] is False
    assert (tmp_path / "other.db").is_file() and not (tmp_path / "p.sqlite3").exists()


def test_a_dry_run_prints_the_cost_and_writes_nothing(ok, run, tmp_path):
    data = ok("search", *SMALL, "--dry-run", "--out", tmp_path / "p.json")
    assert (data["points"], data["images"], data["calls"]) == (4, 8, 2) and data["seconds"] > 0
    assert list(tmp_path.iterdir()) == []
    status, out, err = run("search", *SMALL, "--dry-run")
    assert (status, err) == (0, "") and "4 points" in out and "images/s" in out


def test_evaluate_reports_and_saves(ok, run, preset_file):
    data = ok("evaluate", "--preset", preset_file, "--prompts", "2", "--seeds", "2", "--save")
    assert len(data["columns"]) == 4 and data["seeds"] == [1000, 1001] and len(data["prompts"]) == 2
    assert load_preset(preset_file).held_out == data
    status, out, err = run("evaluate", "--preset", preset_file, "--prompts", "2", "--seeds", "1")
    assert (status, err) == (0, "") and "| Q-Sched |" in out


def test_export_writes_a_scheduler_that_diffusers_loads(ok, preset_file, tmp_path):
    data = ok("export", "--preset", preset_file, "--out", tmp_path / "scheduler")
    scheduler = QSchedLCMScheduler.from_pretrained(tmp_path / "scheduler")
    chosen = load_preset(preset_file).coefficients
    assert Coefficients(scheduler.config.c_x, scheduler.config.c_eps) == chosen
    assert {"scheduler_config.json", "schedulers.py"} <= set(data["files"]) and "QSchedLCMScheduler" in data["snippet"]


def test_bench_measures_every_column(ok, run):
    arguments = ["bench", "--bits", "w4a8", "w2a8", "--steps", "2", "--batches", "1", "2", "--repeats", "1"]
    data = ok(*arguments)
    assert [column["name"] for column in data["columns"]] == ["full precision", "w4a8", "w2a8"]
    for column in data["columns"]:
        assert column["image_s"] > 0 and set(column["images_per_second"]) == {"1", "2"} and column["held_bytes"] > 0
    assert data["columns"][0]["drag_s"] is None and data["columns"][1]["drag_s"] > 0
    assert data["columns"][0]["stored_bytes"] > data["columns"][1]["stored_bytes"] > data["columns"][2]["stored_bytes"]
    assert data["peak_memory_bytes"] > data["columns"][0]["stored_bytes"]
    status, out, err = run(*arguments)
    assert (status, err) == (0, "") and "w2a8" in out and "batch 2" in out


GENERATE = ["generate", "--prompt", "fox", "--out", "OUT"]
SEARCH = ["search", "--out", "OUT/p.json"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["paint"], "invalid choice: 'paint'"),
        (["generate"], "--prompt, --out"),
        ([*GENERATE, "--colour", "red"], "unrecognized arguments: --colour red"),
        ([*GENERATE, "--prompt", ""], "type a prompt"),
        ([*GENERATE, "--prompt", " \n "], "type a prompt"),
        ([*GENERATE, "--backbone", "sd15"], "Unknown backbone 'sd15'; known are emoji-lcm"),
        ([*GENERATE, "--source", "nowhere"], "nowhere"),
        ([*GENERATE, "--device", "abacus"], "Unknown device 'abacus'"),
        ([*GENERATE, "--dtype", "int8"], "Unknown dtype 'int8'"),
        ([*GENERATE, "--bits", "w5a8"], "5"),
        ([*GENERATE, "--bits", "four"], "unknown bit-width 'four'"),
        ([*GENERATE, "--steps", "0"], "'0' is no whole number"),
        ([*GENERATE, "--steps", "9"], "steps, not 9"),
        ([*GENERATE, "--seed", "-1"], "'-1' is no whole number"),
        ([*GENERATE, "--seed", "one"], "'one' is no whole number"),
        ([*GENERATE, "--seed", str(2**31)], "no whole number"),
        ([*GENERATE, "--c-x", "nan"], "'nan' is no finite number"),
        ([*GENERATE, "--c-x", "inf"], "'inf' is no finite number"),
        ([*GENERATE, "--c-eps", "0"], "c_eps must be finite and greater than 0"),
        ([*GENERATE, "--c-eps", "-1"], "c_eps must be finite and greater than 0"),
        ([*GENERATE, "--c-x", "1", "1.1", "1.2"], "c_x has 3 values, but the schedule has 4 steps"),
        ([*GENERATE, "--c-x", "1e-60"], "greater than 0"),
        ([*GENERATE, "--group-size", "0"], "no whole number"),
        ([*GENERATE, "--k", "-1"], "at least 0"),
        ([*GENERATE, "--preset", "nowhere.json"], "no preset at nowhere.json"),
        ([*GENERATE, "--preset", "p.json", "--c-x", "1"], "not both"),
        ([*GENERATE, "--out", "FILE"], "is no folder"),
        ([*GENERATE, "--out", "FILE/below"], "is no folder"),
        (["search"], "--out is missing"),
        ([*SEARCH, "--grid", "1"], "no whole number from 2"),
        ([*SEARCH, "--range", "1.2", "0.8"], "0 < low < high"),
        ([*SEARCH, "--range", "0", "1"], "0 < low < high"),
        ([*SEARCH, "--prompts", "nowhere.txt"], "no prompt file at nowhere.txt"),
        ([*SEARCH, "--prompts", "0"], "1 to 24"),
        ([*SEARCH, "--shape", "circle"], "invalid choice: 'circle'"),
        ([*SEARCH, "--strategy", "magic"], "invalid choice: 'magic'"),
        ([*SEARCH, "--storage", "nonsense"], "no storage URL"),
        ([*SEARCH, "--steps", "99"], "steps, not 99"),
        (["search", "--out", "OUT"], "is a folder"),
        (["search", "--out", "FILE/p.json"], "is no folder"),
        (["evaluate", "--preset", "FILE"], "not a preset"),
        (["evaluate", "--preset", "OUT"], "cannot be read"),
        (["evaluate", "--preset", "nowhere.json"], "no preset at"),
        (["export", "--preset", "nowhere.json", "--out", "OUT"], "no preset at"),
        (["bench", "--bits", "w1a1"], "1"),
        (["bench", "--steps", "9"], "steps, not 9"),
        (["pull"], "ID"),
    ],
)
def test_bad_input_is_one_line(fails, tmp_path, argv, message):
    (tmp_path / "file").write_text("not what you think\n")
    names = {"OUT": str(tmp_path), "FILE": str(tmp_path / "file")}
    for name, path in names.items():
        argv = [argument.replace(name, path) for argument in argv]
    with counted(embedded()) as count:
        line = fails(*argv)
    assert message in line and count.calls == 0


def test_foreign_presets_are_one_line(fails, preset_file, tmp_path):
    preset = load_preset(preset_file)
    preset.backbone = "pcm-sd15"
    save_preset(preset, tmp_path / "foreign.json")
    assert "Unknown backbone 'pcm-sd15'" in fails("evaluate", "--preset", tmp_path / "foreign.json")
    (tmp_path / "corrupt.json").write_bytes(preset_file.read_bytes()[:500])
    for command in (["evaluate"], ["export", "--out", tmp_path / "out"]):
        assert "not a preset" in fails(*command, "--preset", tmp_path / "corrupt.json")


@pytest.mark.parametrize("full", ["qsched.png", "result.json"])
def test_a_full_disk_is_one_line_and_leaves_no_half_file(fails, tmp_path, monkeypatch, full):
    write = Path.write_bytes

    def until_full(path, content):
        if full in path.name:
            write(path, content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(output.Path, "write_bytes", until_full)
    line = fails("generate", "--prompt", "fox", "--out", tmp_path, "--steps", "1")
    assert full in line and "No space left on device" in line
    assert not (tmp_path / full).exists() and not list(tmp_path.glob(".*"))


def test_a_folder_that_cannot_be_written_is_one_line(fails, tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(output.tempfile, "TemporaryFile", refuse)
    for command in (["generate", "--prompt", "fox", "--out", tmp_path], ["search", "--out", tmp_path / "p.json"]):
        assert "cannot be written: Permission denied" in fails(*command)


def test_out_of_memory_is_one_line(fails, tmp_path, monkeypatch):
    import torch

    def exhausted(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate everything.")

    monkeypatch.setattr("qsched.comparison.sample", exhausted)
    assert "ran out of memory" in fails("generate", "--prompt", "fox", "--out", tmp_path)


def test_traceback_shows_where_an_error_came_from(run, tmp_path):
    with pytest.raises(ValueError, match="type a prompt"):
        run("generate", "--prompt", "", "--out", tmp_path, "--traceback")


def test_help_and_version(run):
    status, out, err = run("--help")
    assert (status, err) == (0, "") and all(command in out for command in cli.COMMANDS)
    assert run("search", "--help")[0] == 0 and run("--version")[1].startswith("qsched ")


def test_to_json_holds_no_number_that_json_cannot():
    assert json.loads(output.to_json({"a": [float("nan"), (1.5, float("-inf"))]})) == {"a": [None, [1.5, None]]}


def program(*argv, **options) -> subprocess.Popen:
    """The command line as a process of its own, in the repository, that hears Ctrl-C even if these tests do not."""
    hear = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, *map(str, argv)], cwd=REPOSITORY, text=True, preexec_fn=hear, **options)


def test_generate_as_a_process_is_silent_light_and_offline(tmp_path):
    script = (
        "import socket, sys\n"
        "def refuse(*args): raise SystemExit('asked the network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from qsched.cli import main\n"
        "status = main(sys.argv[1:])\n"
        "heavy = {'gradio', 'optuna', 'pyiqa', 'matplotlib', 'sqlalchemy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else status)\n"
    )
    arguments = ["generate", "--prompt", "red apple, glossy style", "--bits", "w4a8", "--out", tmp_path, "--json"]
    process = program("-c", script, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["settings"]["steps"] == 4 and (tmp_path / "qsched.png").is_file()


def test_ctrl_c_during_a_search_loses_nothing(tmp_path):
    path = tmp_path / "preset.json"
    arguments = ["search", "--out", path, "--grid", "40", "--prompts", "1", "--steps", "2", "--json"]
    process = program("-m", "qsched", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while stored(path.with_suffix(".sqlite3")) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (130, "") and err.count("\n") == 1 and "same command goes on" in err
    kept = stored(path.with_suffix(".sqlite3"))
    assert kept >= 5 and not path.exists()
    assert cli.main([*map(str, arguments[:3]), "--grid", "40", "--prompts", "1", "--steps", "2", "--dry-run"]) == 0


def stored(database: Path) -> int:
    """Finished points in a search's SQLite file."""
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return connection.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()[0]
    except sqlite3.OperationalError:
        return 0
