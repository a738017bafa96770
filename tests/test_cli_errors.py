"""Bad input and bad luck on the command line: exit 2, exactly one line on stderr, nothing computed, nothing
half written.
"""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from embedded_model import counted, embedded

from qsched.commands import cli, output
from qsched.presets import load_preset, save_preset
from qsched.prompts.builtin import builtin_prompts

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
        ([*SEARCH, "--prompts", "0"], "1 to 25"),
        ([*SEARCH, "--shape", "circle"], "invalid choice: 'circle'"),
        ([*SEARCH, "--strategy", "magic"], "invalid choice: 'magic'"),
        ([*SEARCH, "--storage", "nonsense"], "no storage URL"),
        ([*SEARCH, "--steps", "99"], "steps, not 99"),
        (["search", "--out", "OUT"], "is a folder"),
        (["search", "--out", "FILE/p.json"], "is no folder"),
        (["evaluate"], "--preset"),
        (["evaluate", "--preset", "FILE"], "not a preset"),
        (["evaluate", "--preset", "JSON"], "not a valid preset: it has no"),
        (["evaluate", "--preset", "OUT"], "cannot be read"),
        (["evaluate", "--preset", "nowhere.json"], "no preset at"),
        (["export", "--preset", "nowhere.json", "--out", "OUT"], "no preset at"),
        (["bench", "--bits", "w1a1"], "1"),
        (["bench", "--steps", "9"], "steps, not 9"),
        (["pull"], "ID"),
    ],
)
def test_bad_input_is_one_line(line, tmp_path, argv, message):
    (tmp_path / "file").write_text("not what you think\n")
    (tmp_path / "other.json").write_text('{"c_x": 1.07, "c_eps": 0.92}')
    names = {"OUT": str(tmp_path), "FILE": str(tmp_path / "file"), "JSON": str(tmp_path / "other.json")}
    for name, path in names.items():
        argv = [argument.replace(name, path) for argument in argv]
    with counted(embedded()) as count:
        told = line.fails(*argv)
    assert message in told and count.calls == 0


def test_foreign_presets_are_one_line(line, preset_file, tmp_path):
    preset = load_preset(preset_file)
    preset.backbone = "sd-turbo"
    save_preset(preset, tmp_path / "foreign.json")
    assert "Unknown backbone 'sd-turbo'" in line.fails("evaluate", "--preset", tmp_path / "foreign.json")
    (tmp_path / "corrupt.json").write_bytes(preset_file.read_bytes()[:200])
    for command in (["evaluate"], ["export", "--out", tmp_path / "out"]):
        assert "not a preset" in line.fails(*command, "--preset", tmp_path / "corrupt.json")


def test_a_preset_of_another_revision_is_one_line_unless_it_is_wanted(line, preset_file, tmp_path):
    preset = load_preset(preset_file)
    preset.revision = "0123456789ab"
    save_preset(preset, tmp_path / "old.json")
    arguments = ["evaluate", "--preset", tmp_path / "old.json", "--prompts", "1", "--seeds", "1"]
    with counted(embedded()) as count:
        told = line.fails(*arguments, "--save")
    assert (
        "made with revision 0123456789ab of emoji-lcm" in told
        and embedded().revision in told
        and count.calls == 0
    )
    assert "--any-revision" in told and load_preset(tmp_path / "old.json").held_out == {}
    data = line.ok(*arguments, "--any-revision")
    assert any("other weights" in note for note in data["notes"]) and data["revision"] == embedded().revision


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("a.yaml", "6 levels deep"),
        ("b.json", "not JSON"),
        ("nowhere.yaml", "no prompt file at"),
        ("0", f"1 to {len(builtin_prompts('emoji', 'held-out'))}"),
    ],
)
def test_bad_prompts_for_an_evaluation_are_one_line(
    line, preset_file, tmp_path, monkeypatch, prompts, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("&a [*a]")
    (tmp_path / "b.json").write_text("[")
    with counted(embedded()) as count:
        assert message in line.fails("evaluate", "--preset", preset_file, "--prompts", prompts)
    assert count.calls == 0


@pytest.mark.parametrize("full", ["qsched.png", "result.json"])
def test_a_full_disk_is_one_line_and_leaves_no_half_file(line, tmp_path, monkeypatch, full):
    write = Path.write_bytes

    def until_full(path, content):
        if full in path.name:
            write(path, content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(output.Path, "write_bytes", until_full)
    message = line.fails("generate", "--prompt", "fox", "--out", tmp_path, "--steps", "1")
    assert full in message and "No space left on device" in message
    assert not (tmp_path / full).exists() and not list(tmp_path.glob(".*"))


def test_a_folder_that_cannot_be_written_is_one_line(line, tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(output.tempfile, "TemporaryFile", refuse)
    for command in (
        ["generate", "--prompt", "fox", "--out", tmp_path],
        ["search", "--out", tmp_path / "p.json"],
    ):
        assert "cannot be written: Permission denied" in line.fails(*command)


def test_out_of_memory_is_one_line(line, tmp_path, monkeypatch):
    def exhausted(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate everything.")

    monkeypatch.setattr("qsched.comparison.comparison.sample", exhausted)
    assert "ran out of memory" in line.fails("generate", "--prompt", "fox", "--out", tmp_path)


def test_traceback_shows_where_an_error_came_from(line, tmp_path):
    with pytest.raises(ValueError, match="type a prompt"):
        line.run("generate", "--prompt", "", "--out", tmp_path, "--traceback")


def test_help_and_version(line):
    status, out, err = line.run("--help")
    assert (status, err) == (0, "") and all(command in out for command in cli.COMMANDS)
    assert line.run("search", "--help")[0] == 0 and line.run("--version")[1].startswith("qsched ")


def test_to_json_holds_no_number_that_json_cannot():
    assert json.loads(output.to_json({"a": [float("nan"), (1.5, float("-inf"))]})) == {
        "a": [None, [1.5, None]]
    }
