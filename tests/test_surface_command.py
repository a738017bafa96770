"""`python -m qsched surface`: what a preset says at any k, without a denoiser call."""

import numpy as np
import pytest
from embedded_model import counted, embedded, make_preset
from PIL import Image

from qsched.presets import load_preset, save_preset
from qsched.sampling.coefficients import Coefficients
from qsched.surfaces.surface import Surface


@pytest.fixture
def preset_file(tmp_path):
    """A preset with 2 x 6 prompts and seeds around (1, 1), searched at k = 1; its own coefficients lie off
    the grid.
    """
    rng = np.random.default_rng(0)
    shape = (3, 3, 12)
    surface = Surface((0.9, 1.0, 1.1), (0.9, 1.0, 1.1), rng.uniform(20, 60, shape), rng.uniform(0, 1, shape))
    prompts, path = [f"prompt {i}" for i in range(6)], tmp_path / "p.json"
    own = Coefficients.ramp(1.023, 0.987)
    save_preset(make_preset(surface=surface, prompts=prompts, coefficients=own, provenance={"k": 1.0}), path)
    return path


def test_it_says_what_the_surface_says(line, preset_file, tmp_path):
    preset = load_preset(preset_file)
    with counted(embedded()) as count:
        data = line.ok(
            "surface", "--preset", preset_file, "--k", "3", "--sweep", "--out", tmp_path / "out" / "map.png"
        )
    assert count.calls == 0
    assert data["summary"] == preset.surface.summary(3.0) and data["stability"] == preset.surface.stability(
        k=3.0
    )
    assert (data["stability"]["prompts"], data["stability"]["seeds"]) == (6, 2)
    assert data["not_different"] == preset.surface.uncertainty(3.0).alike.sum()
    assert data["sweep"] == preset.surface.k_sweep().to_rows()
    assert data["coefficients"] == preset.at(*preset.surface.best(3.0)[:2]).to_dict()
    assert [path.rsplit("/", 1)[1] for path in data["files"]] == ["map.png", "map-sweep.png"]
    assert [Image.open(path).width for path in data["files"]] == [840, 840]


def test_it_takes_the_presets_own_k_and_coefficients(line, preset_file):
    data = line.ok("surface", "--preset", preset_file)
    assert data["stability"]["k"] == 1 and data["coefficients"] == {
        "c_x": [1.023, 1.0],
        "c_eps": [0.987, 1.0],
    }
    assert data["sweep"] is None and data["files"] == []


def test_in_words(line, preset_file):
    found = load_preset(preset_file).surface.stability(k=2.0)
    status, out, err = line.run("surface", "--preset", preset_file, "--k", "2", "--sweep")
    assert (status, err) == (0, "")
    for text in (
        "6 prompts x 2 seeds",
        "k = 2",
        f"wins in {100 * found['wins']:.0f} %",
        "out of bag",
        "Benjamini",
    ):
        assert text in out
    assert len([row for row in out.splitlines() if row.split()[:1] in (["0"], ["2.5"], ["5"])]) == 3


def test_one_image_per_cell_and_no_plain_cell_are_said(line, tmp_path):
    save_preset(make_preset(), tmp_path / "p.json")
    data = line.ok("surface", "--preset", tmp_path / "p.json")
    assert data["stability"]["wins"] is None and data["not_different"] is None
    _, out, _ = line.run("surface", "--preset", tmp_path / "p.json", "--sweep")
    assert "One image per cell" in out and "[-, -]" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "nowhere.json"], "no preset at nowhere.json"),
        (["--preset", "P", "--k", "-1"], "at least 0"),
        (["--preset", "P", "--k", "nan"], "no finite number"),
        (["--preset", "P", "--out", "OUT"], "no image's name"),
        (["--preset", "P", "--out", "OUT/a.jpg"], "ends with .png"),
        (["--preset", "P", "--out", "P/a.png"], "is no folder"),
        ([], "--preset"),
    ],
)
def test_bad_input_is_one_line(line, preset_file, tmp_path, argv, message):
    names = {"P": str(preset_file), "OUT": str(tmp_path)}
    replaced = [names.get(a.split("/")[0], a.split("/")[0]) + a[len(a.split("/")[0]) :] for a in argv]
    assert message in line.fails("surface", *replaced)
