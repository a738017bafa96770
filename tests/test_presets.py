"""Surfaces and presets: re-weighting, files that survive, files that are refused, export."""

import json
import math
import os
import re
import subprocess
import sys

import diffusers
import numpy as np
import pytest
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler

from qsched.export.usage import export_scheduler
from qsched.models.registry import SPECS
from qsched.presets import PRESETS, Preset, PresetError, find_preset, load_preset, preset_name, save_preset
from qsched.quantization import BitWidth
from qsched.sampling.coefficients import Coefficients
from qsched.schedulers import QSchedLCMScheduler
from qsched.scoring import jaq
from qsched.surfaces.surface import Surface

NAN = math.nan


def surface(cells: int = 3, images: int = 4, seed: int = 0) -> Surface:
    random = np.random.default_rng(seed)
    axis = tuple(np.linspace(0.8, 1.2, cells))
    shape = (cells, cells, images)
    return Surface(axis, axis, random.uniform(10, 30, shape), random.uniform(0.2, 0.8, shape))


def preset(**changes) -> Preset:
    fields = dict(
        backbone="emoji-lcm",
        revision="abc123",
        bits="w4a8",
        steps=4,
        shape="ramp",
        coefficients=Coefficients.ramp(1.04, 0.96),
        surface=surface(),
        settings={"group_size": 64, "scope": "all"},
        prompts=["red apple, glossy style", "crème brûlée"],
        held_out={"naive": {"jaq": [3.1, 3.0, 3.2]}},
        provenance={"scorer": "emoji-clip", "k": 2.0},
    )
    return Preset(**fields | changes)


# the surface


def test_cells_are_rows_of_c_eps_and_columns_of_c_x():
    grid = Surface((0.9, 1.0, 1.1), (0.8, 1.0), np.full((2, 3, 2), 20.0), np.full((2, 3, 2), 0.5))
    grid.record(0, 2, [30.0, 30.0], [0.7, 0.9])
    assert grid.jaq().shape == (2, 3)
    assert grid.best() == (1.1, 0.8, pytest.approx(jaq([30, 30], [0.7, 0.9])))
    assert grid.nearest(1.08, 0.85) == (0, 2)
    assert grid.nearest(-5, 99) == (1, 0)


def test_another_k_can_have_another_optimum():
    grid = Surface((0.9, 1.0), (1.0,), [[[30.0], [10.0]]], [[[0.2], [0.6]]])
    assert grid.best(k=0)[0] == 0.9
    assert grid.best(k=4)[0] == 1.0
    assert grid.jaq(4.0)[0].tolist() == pytest.approx([jaq([30], [0.2], 4), jaq([10], [0.6], 4)])


@pytest.mark.parametrize("bad", [NAN, math.inf])
def test_a_cell_with_one_bad_image_fails_and_is_never_best(bad):
    grid = surface()
    grid.record(1, 1, [90.0, 90.0, 90.0, bad], [1.0, 1.0, 1.0, 1.0])
    assert np.isnan(grid.alignment[1, 1]).all() and np.isnan(grid.quality[1, 1]).all()
    assert np.isnan(grid.jaq()[1, 1]) and np.isfinite(grid.jaq()).sum() == 8
    assert grid.best()[:2] != (1.0, 1.0)
    assert grid.to_dict()["alignment"][1][1] is None
    assert Surface(**grid.to_dict()) == grid


def test_an_empty_surface_fills_up():
    grid = Surface.empty((0.9, 1.0), (0.9, 1.0), images=2)
    with pytest.raises(ValueError, match="no cell"):
        grid.best()
    assert grid.summary()["best"] is None and grid.summary()["failed"] == 4
    grid.record(1, 0, [20.0, 22.0], [0.5, 0.5])
    assert grid.best() == (0.9, 1.0, pytest.approx(jaq([20, 22], [0.5, 0.5])))
    with pytest.raises(ValueError, match="2 scores"):
        grid.record(0, 0, [20.0], [0.5])


def test_summary_compares_the_best_with_the_plain_scheduler():
    grid = surface()
    grid.record(0, 0, [NAN] * 4, [0.5] * 4)
    values, summary = grid.jaq(), grid.summary()
    assert summary["best"]["jaq"] == np.nanmax(values)
    assert summary["plain"] == values[1, 1]
    assert summary["gain"] == pytest.approx(np.nanmax(values) - values[1, 1])
    assert (summary["worst"], summary["median"]) == (np.nanmin(values), pytest.approx(np.nanmedian(values)))
    assert (summary["cells"], summary["failed"], summary["images"]) == (9, 1, 4)
    json.dumps(summary, allow_nan=False)
    elsewhere = Surface((0.5, 0.6), (0.5,), [[[20.0], [20.0]]], [[[0.5], [0.5]]])
    assert elsewhere.summary()["plain"] is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"c_x": [1.0, 0.9, 1.1]}, "c_x axis must ascend"),
        ({"c_x": [0.9, NAN, 1.1]}, "finite positive"),
        ({"c_x": []}, "finite positive"),
        ({"c_eps": "abc"}, "list of numbers"),
        ({"c_eps": [0.9, 1.0]}, "shape"),
        ({"alignment": 3}, "nested lists"),
        ({"alignment": [[[1.0, 2.0]] * 3, [[1.0]] * 3, [[1.0]] * 3]}, "same count"),
        ({"alignment": [[["x"] * 4] * 3] * 3}, "number per image"),
        ({"alignment": [[[1e999] * 4] * 3] * 3}, "infinite"),
        ({"quality": [[[0.5] * 3] * 3] * 3}, "shape"),
        ({"quality": [[0.5] * 3] * 3}, "shape"),
    ],
)
def test_a_surface_that_does_not_fit_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        Surface(**surface().to_dict() | changes)


# files


def test_a_preset_comes_back_as_it_was(tmp_path):
    original, path = preset(), tmp_path / "new" / "folder" / "p.json"
    original.surface.record(2, 0, [NAN] * 4, [0.5] * 4)
    save_preset(original, path)
    loaded = load_preset(path)
    assert loaded == original
    assert loaded.surface.best(1.3) == original.surface.best(1.3)
    assert loaded.at(1.1, 0.9) == Coefficients.ramp(1.1, 0.9)
    assert os.listdir(path.parent) == ["p.json"]
    data = json.loads(path.read_text("utf-8"))
    assert (data["format"], data["version"]) == ("qsched-preset", 1)
    assert data["surface"]["quality"][2][0] is None
    assert "NaN" not in path.read_text("utf-8")


def test_a_full_grid_stays_below_150_kb(tmp_path):
    prompts = [f"a prompt of some length, number {n}" for n in range(20)]
    save_preset(preset(surface=surface(11, 20), prompts=prompts), tmp_path / "p.json")
    assert (tmp_path / "p.json").stat().st_size < 150_000


@pytest.mark.parametrize(
    "coefficients",
    [Coefficients.identity(), Coefficients((1.1, 0.9), (0.95, 1.05)), Coefficients((1, 2, 3, 4), 0.9)],
)
def test_coefficients_of_every_shape_are_kept_exactly(tmp_path, coefficients):
    save_preset(preset(coefficients=coefficients), tmp_path / "p.json")
    assert load_preset(tmp_path / "p.json").coefficients == coefficients


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_debris(tmp_path, monkeypatch, failing):
    path = tmp_path / "p.json"
    save_preset(preset(), path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(PresetError, match="No space left on device"):
        save_preset(preset(steps=8), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["p.json"]


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path):
    for bad in (preset(provenance={"x": NAN}), preset(provenance={"x": object()})):
        with pytest.raises(PresetError, match="cannot be saved"):
            save_preset(bad, tmp_path / "p.json")
    failed = Surface.empty((0.9, 1.0), (0.9, 1.0), images=2)
    with pytest.raises(PresetError, match="no cell"):
        save_preset(preset(surface=failed), tmp_path / "p.json")
    assert os.listdir(tmp_path) == []


def altered(**changes) -> str:
    data = preset().to_dict()
    data["surface"] |= changes.pop("surface", {})
    return json.dumps(data | changes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not json {", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        ('{"name": "something else"}', "format"),
        ("[1, 2]", "format"),
        ("null", "format"),
        (altered(version=2), "version 2"),
        (altered(version="1"), "version"),
        ('{"format": "qsched-preset", "version": 1}', "missing: backbone, revision, .*surface"),
        (altered(surface={"c_x": [0.8, 1.0]}), "shape"),
        (altered(surface={"alignment": [[None] * 3] * 3}), "no cell"),
        (altered(surface={"quality": [[[NAN] * 4] * 3] * 3}), "NaN"),
        (altered(surface={"quality": [[[0.5] * 4] * 3] * 3}).replace("0.5", "1e999"), "infinite"),
        (altered(surface={"c_x": {"a": 1}}), "c_x axis"),
        (altered(coefficients={"c_x": -1, "c_eps": 1}), "greater than 0"),
        (altered(coefficients={"c_x": [1, 1, 1], "c_eps": 1}), "3 values"),
        (altered(coefficients={"c_x": "1", "c_eps": 1}), "number"),
        (altered(coefficients=[1, 1]), "c_x and c_eps"),
        (altered(steps="4"), "steps must be a whole number"),
        (altered(steps=True), "steps must be a whole number"),
        (altered(steps=0), "at least 1"),
        (altered(bits="w5a8"), "w5a8"),
        (altered(backbone="../../etc"), "backbone"),
        (altered(shape="ends"), "ramp"),
        (altered(prompts=[]), "prompts"),
        (altered(prompts=["a", "b", "c"]), "multiple"),
        (altered(held_out=[]), "held_out must be an object"),
    ],
)
def test_a_corrupt_or_foreign_file_gets_one_clear_sentence(tmp_path, text, says):
    path = tmp_path / "p.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PresetError, match=says) as error:
        load_preset(path)
    message = str(error.value)
    assert str(path) in message and message.endswith(".") and "\n" not in message and len(message) < 400


def test_a_byte_order_mark_is_accepted(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(preset().to_dict()), encoding="utf-8-sig")
    assert load_preset(path).coefficients == preset().coefficients


def test_one_missing_field_is_named(tmp_path):
    for name in ("revision", "coefficients", "surface"):
        data = preset().to_dict()
        del data[name]
        (tmp_path / "p.json").write_text(json.dumps(data))
        with pytest.raises(PresetError, match=f"missing: {name}\\."):
            load_preset(tmp_path / "p.json")
    data = preset().to_dict()
    del data["surface"]["quality"]
    (tmp_path / "p.json").write_text(json.dumps(data))
    with pytest.raises(PresetError, match=r"missing: surface\.quality"):
        load_preset(tmp_path / "p.json")


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(PresetError, match="no preset at"):
        load_preset(tmp_path / "none.json")
    with pytest.raises(PresetError, match="cannot be read"):
        load_preset(tmp_path)


# the shipped folder


def test_presets_are_found_by_backbone_bits_and_steps(tmp_path):
    for bits, steps in (("w4a8", 4), ("w8a8", 4), ("w4a8", 2), ("w4a4", 4)):
        save_preset(preset(bits=bits, steps=steps), tmp_path / "emoji-lcm" / f"{bits}-{steps}steps.json")
    (tmp_path / "emoji-lcm" / "notes.json").write_text("{}")
    assert find_preset("emoji-lcm", "w4a8", 2, tmp_path).steps == 2
    assert find_preset("emoji-lcm", BitWidth(4, 4), 4, tmp_path).bits == "w4a4"
    assert find_preset("emoji-lcm", "w2a8", 4, tmp_path) is None
    assert find_preset("other", "w4a8", 4, tmp_path) is None
    assert find_preset("../emoji-lcm", "w4a8", 4, tmp_path / "emoji-lcm") is None


def test_every_shipped_preset_loads_and_lies_where_it_says():
    assert PRESETS.parent.joinpath("qsched", "presets.py").is_file()
    files = sorted(PRESETS.glob("*/*.json"))
    assert len(files) >= 20
    for file in files:
        loaded = load_preset(file)
        assert file.parent.name == loaded.backbone
        assert file.name == preset_name(loaded.bits, loaded.steps, loaded.method)


# export


def test_the_exported_folder_is_a_scheduler_with_these_coefficients(tmp_path):
    text = export_scheduler(
        preset(), LCMScheduler(original_inference_steps=40), tmp_path / "out", source="some/model"
    )
    loaded = QSchedLCMScheduler.from_pretrained(tmp_path / "out")
    assert (list(loaded.config.c_x), list(loaded.config.c_eps)) == ([1.04, 1.0], [0.96, 1.0])
    assert loaded.config.original_inference_steps == 40
    assert (tmp_path / "out" / "README.md").read_text("utf-8") == text
    assert "quantize(pipe.unet, 'w4a8', group_size=64)" in text and "'some/model'" in text
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(block, "snippet", "exec")
    whole = preset(settings={"keep_high_precision": False})
    flow = export_scheduler(whole, FlowMatchEulerDiscreteScheduler(), tmp_path / "flow", source="some/flow")
    assert "quantize(pipe.transformer, 'w4a8', keep=())" in flow


def python(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_snippet_of_the_embedded_model_runs_as_written(tmp_path):
    found = find_preset("emoji-lcm", "w4a8", 2)
    folder = tmp_path / "taken away"
    text = export_scheduler(found, LCMScheduler.from_pretrained("assets/emoji-lcm/scheduler"), folder)
    space = {}
    exec(python(text)[0], space)
    assert space["image"].size == (64, 64) and space["image"].getextrema() != ((0, 0), (0, 0), (0, 0))
    assert list(space["config"].c_x) == found.coefficients.to_dict()["c_x"]
    assert str(folder) in text


@pytest.mark.parametrize("spec", [spec for spec in SPECS.values() if spec.pipeline], ids=lambda spec: spec.id)
def test_the_snippet_loads_the_backbones_real_model_and_quantizes_it(spec, tmp_path):
    scheduler = getattr(diffusers, spec.scheduler)()
    text = export_scheduler(preset(backbone=spec.id, steps=spec.default_steps), scheduler, tmp_path / "out")
    code, without = python(text)
    for block in (code, without):
        compile(block, "snippet", "exec")
        assert f"from_pretrained({spec.source!r})" in block and str(tmp_path / "out") in block
    assert (
        "quantize(pipe.transformer, 'w4a8'" if spec.family == "flux" else "quantize(pipe.unet, 'w4a8'"
    ) in code
    assert "trust_remote_code=True" in text
    if spec.lora:
        folder, _, name = spec.lora_file(spec.default_steps).rpartition("/")
        assert f"{spec.lora.repo!r}, subfolder={folder!r}, weight_name={name!r}" in code
        assert code.index("fuse_lora()") < code.index("quantize(pipe")


@pytest.mark.slow
def test_the_exported_folder_works_without_the_package(tmp_path):
    """The second snippet's imports and scheduler line, in a process that cannot see qsched."""
    text = export_scheduler(preset(), LCMScheduler(), tmp_path / "out")
    (tmp_path / "schedulers.py").write_bytes((tmp_path / "out" / "schedulers.py").read_bytes())
    snippet = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[1]
    lines = [
        line.replace("pipe.scheduler", "scheduler") for line in snippet.splitlines() if "cheduler" in line
    ]
    blocked = ["import sys", "sys.modules['qsched'] = None", "sys.path.insert(0, '')"]
    lines = [
        *blocked,
        *lines,
        "scheduler.set_timesteps(4)",
        "print(scheduler.config.c_x, scheduler.config.c_eps)",
    ]
    command = [sys.executable, "-W", "ignore", "-c", "\n".join(lines)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[1.04, 1.0] [0.96, 1.0]", done.stderr


def test_export_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(TypeError, match="LCMScheduler"):
        export_scheduler(preset(), DDIMScheduler(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PresetError, match="cannot be written"):
        export_scheduler(preset(), LCMScheduler(), tmp_path / "file")
