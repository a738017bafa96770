"""The repository as its users find it: README, licences, sizes, layers, shipped presets."""

import ast
import itertools
import re
from pathlib import Path

import pytest
import yaml

from qsched.embedded.data.dataset import STYLES
from qsched.presets import PRESETS, load_preset

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_readme_opens_with_a_space_header_that_hugging_face_accepts():
    header = yaml.safe_load(README.split("---")[1])
    assert header["sdk"] == "gradio" and (ROOT / header["app_file"]).is_file()
    assert len(header["short_description"]) <= 60
    assert tuple(map(int, header["sdk_version"].split("."))) >= (6, 21)


def test_readme_commands_do_their_own_setup_and_name_existing_files():
    commands = re.findall(r"^python3 -m venv .*$", README, re.M)
    assert len(commands) == 2
    assert "-r requirements.txt" in commands[0] and commands[0].endswith("app.py")
    assert "-r requirements-dev.txt" in commands[1] and commands[1].endswith("-m pytest -n 2 --dist loadfile")
    for name in re.findall(r"requirements\S*\.txt|app\.py", " ".join(commands)):
        assert (ROOT / name).is_file()


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_readme_stays_short_and_names_every_page_and_command():
    from qsched.commands.cli import COMMANDS

    assert len(README.splitlines()) <= 150
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in README, page.name
    for command in COMMANDS:
        assert f"python -m qsched {command} " in README, command


def test_the_readme_states_the_numbers_of_the_presets():
    from qsched.presets import load_preset

    for bits in ("w8a8", "w4a8", "w3a8", "w4a4", "w2a8"):
        held_out = load_preset(ROOT / "presets" / "emoji-lcm" / f"{bits}-4steps.json").held_out
        row = next(line for line in README.splitlines() if line.startswith(f"| {bits.upper()} |"))
        cells = [cell.strip() for cell in row.split("|")]
        assert cells[3:5] == [
            f"{held_out['columns'][name]['jaq']['mean']:.3f}" for name in ("naive", "Q-Sched")
        ]
        gain = held_out["differences"]["Q-Sched - naive"]["jaq"]
        assert cells[5] == f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"


def test_assets_stay_small():
    files = [f for folder in ("assets", "presets") for f in (ROOT / folder).rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 64e6
    assert max(f.stat().st_size for f in files) < 50e6


@pytest.mark.parametrize("style", STYLES, ids=lambda s: s.word)
def test_every_art_set_has_its_licence_in_the_notice(style):
    notice = (ROOT / "NOTICE").read_text()
    line = next(line for line in notice.splitlines() if line.strip().startswith(f"{style.word} style"))
    number = re.search(r"\d\.\d", style.licence)
    assert (number.group() if number else style.licence) in line


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_only_the_page_knows_gradio():
    for path in (ROOT / "qsched").rglob("*.py"):
        if "ui" not in path.relative_to(ROOT).parts:
            assert not {n for n in imports(path) if n.split(".")[0] == "gradio"}, path


@pytest.mark.parametrize(
    ("name", "allowed"), [("schedulers.py", {"torch", "diffusers"}), ("quantization/*.py", {"torch"})]
)
def test_what_can_be_lifted_out_needs_little(name, allowed):
    files = [*(ROOT / "qsched").glob(name)]
    assert files
    folder = {file.stem for file in files if "/" in name}  # relative imports
    roots = {n.split(".")[0] for file in files for n in imports(file)} - folder
    import sys

    assert roots - set(sys.stdlib_module_names) <= allowed


def test_shipped_presets_belong_to_the_shipped_weights():
    from qsched import load_backbone
    from qsched.prompts.builtin import builtin_prompts

    backbone = load_backbone("emoji-lcm", device="cpu")
    shipped = {path: load_preset(path) for path in (PRESETS / "emoji-lcm").glob("*.json")}
    every = itertools.product(("w8a8", "w4a8", "w4a4", "w3a8", "w2a8"), (1, 2, 4, 8))
    assert {(preset.bits, preset.steps) for preset in shipped.values()} >= set(every)
    for path, preset in shipped.items():
        assert preset.revision == backbone.revision, f"{path.name} was searched on other weights"
        assert preset.prompts == builtin_prompts("emoji", "calibration")
        assert preset.surface.seeds >= 3 or preset.steps != backbone.spec.default_steps
        assert preset.held_out["prompts"] == builtin_prompts("emoji", "held-out")
