"""The app as a Space: what is uploaded, and that it is enough to start."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from command_line import CommandLine
from fake_hub import connected

from qsched.export.publish import PublishError
from qsched.export.space import NEEDED, ROOT, publish_space
from qsched.hub.worker import push
from qsched.models.download import fetch_all

REPO = "me/q-sched"


@pytest.fixture
def cli(capsys, monkeypatch):
    return CommandLine(capsys, monkeypatch)


def test_a_space_fetches_the_backbone_that_its_first_visitor_sees(monkeypatch):
    fetched = []
    parts = [SimpleNamespace(is_here=lambda: False, fetch=lambda: fetched.append("weights"))]
    monkeypatch.setattr("qsched.models.download.parts", lambda spec: parts)
    fetch_all("emoji-lcm")
    assert not fetched
    fetch_all("sdxl-turbo")
    assert fetched == ["weights"]


def test_a_dry_run_names_what_the_app_needs_and_nothing_else(cli):
    data = cli.ok("space", REPO, "--dry-run")
    files = data["files"]
    assert data["url"].endswith(f"/spaces/{REPO}") and data["dry_run"]
    assert {"app.py", "README.md", ".gitattributes", "assets/emoji-lcm/unet/config.json"} <= set(files)
    assert {name.split("/")[0] for name in files} == {*NEEDED, ".gitattributes"}
    assert not [name for name in files if "__pycache__" in name or name.startswith(("tests", ".ci"))]
    large = [name for name in files if (ROOT / name).is_file() and (ROOT / name).stat().st_size > 10_000_000]
    assert large and all(name.endswith(".safetensors") for name in large), "what .gitattributes keeps in LFS"


@pytest.mark.parametrize("name", ["q-sched", "me/q/sched", "me/bad name", ""])
def test_a_name_that_is_none_is_one_line(cli, name):
    assert "give OWNER/NAME" in cli.fails("space", name, "--dry-run")


def test_a_part_of_the_repository_is_refused(tmp_path):
    with pytest.raises(PublishError, match=r"app\.py is missing"):
        publish_space(REPO, dry_run=True, root=tmp_path)


def test_no_login_and_no_hub_are_one_line(cli, monkeypatch, tmp_path):
    with connected(monkeypatch, tmp_path) as hub:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        monkeypatch.setattr("qsched.export.publish.get_token", lambda: None)
        assert "not logged in" in cli.fails("space", REPO) and not hub.requests


def test_the_space_is_made_with_its_sdk_and_gets_the_folder(monkeypatch, tmp_path):
    asked = []

    class Api:
        def __init__(self, **options):
            asked.append(options["token"])

        def create_repo(self, repo, **options):
            asked.append((repo, options))

        def upload_folder(self, **options):
            asked.append(options)
            return "https://hub/commit"

    monkeypatch.setattr("qsched.hub.worker.HfApi", Api)
    assert push(str(tmp_path), REPO, "space", False, "The app", "hf_x") == "https://hub/commit"
    token, (repo, made), uploaded = asked
    assert (token, repo) == ("hf_x", REPO)
    assert made == {"repo_type": "space", "space_sdk": "gradio", "private": None, "exist_ok": True}
    assert uploaded["repo_type"] == "space" and uploaded["folder_path"] == str(tmp_path)


@pytest.mark.slow
def test_what_is_uploaded_starts(monkeypatch, tmp_path):
    """The folder as the Space gets it, in a process of its own."""
    import shutil

    kept = tmp_path / "space"
    monkeypatch.setattr(
        "qsched.export.space.push", lambda folder, *args, **options: shutil.copytree(folder, kept)
    )
    publish_space(REPO)
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "XDG_DATA_HOME": str(tmp_path)}
    app = subprocess.Popen(
        [sys.executable, "app.py", "--offline"], cwd=kept, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    line = app.stdout.readline()
    app.terminate()
    _, errors = app.communicate(timeout=60)
    assert "Q-Sched is ready" in line, errors
