"""`pull` on the command line, against a Hub on this machine."""

import os
from dataclasses import replace

import pytest
from command_line import CommandLine
from hub_files import NEEDED, REPO, SIZE, WEIGHTS, content

from qsched import cli
from qsched.backbones.hub import fetch
from qsched.backbones.spec import SPECS


@pytest.fixture
def line(capsys, monkeypatch, hub):
    far = replace(SPECS["emoji-lcm"], id="far", source=REPO, files=NEEDED.files)
    monkeypatch.setitem(SPECS, "far", far)
    return CommandLine(capsys, monkeypatch)


def test_pull_fetches_and_says_what_and_where(line, hub):
    data = line.ok("pull", "far")
    (part,) = data["sources"]
    assert data["ready"] and data["downloaded_bytes"] == SIZE and part["revision"] == hub.repositories[REPO].sha
    assert part["files"] == 5 and part["bytes"] > SIZE and content(fetch(NEEDED))
    status, out, err = line.run("pull", "far", "--offline")
    assert (status, err) == (0, "") and "nothing to fetch" in out and part["folder"] in out


def test_pull_from_another_repository_and_revision(line, hub):
    hub.add("me/tuned", {"model_index.json": b"{}"})
    commit = hub.repositories["me/tuned"].sha
    assert line.ok("pull", "far", "--source", "me/tuned", "--revision", commit)["sources"][0]["revision"] == commit
    assert "has no revision v2" in line.fails("pull", "far", "--revision", "v2")
    assert "nothing to download" in line.ok("pull", "far", "--source", os.getcwd())["message"]


def test_pull_fails_in_one_line(line, hub):
    assert "offline" in line.fails("pull", "far", "--offline")
    hub.fault = 403
    assert "accept its licence" in line.fails("pull", "far")
    assert "Unknown backbone 'sd15'" in line.fails("pull", "sd15")


def test_pull_that_is_interrupted_goes_on(line, hub, monkeypatch):
    hub.speed, interrupted = 1e6, []

    def refresh(bar):
        if bar.n and not interrupted:  # Ctrl-C while the bar is drawn
            interrupted.append(bar.n)
            raise KeyboardInterrupt

    monkeypatch.setattr("tqdm.tqdm.refresh", refresh)
    status, out, err = line.run("pull", "far")
    assert status == 130 and out == "" and "the same command goes on" in err
    hub.speed, came = None, hub.served[WEIGHTS]
    assert came > 0 and line.ok("pull", "far")["downloaded_bytes"] < SIZE


def test_only_pull_may_ask_the_hub(line, monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "quiet", lambda offline: asked.append(offline))
    for command in (["pull", "none"], ["pull", "none", "--offline"], ["evaluate", "--preset", "nowhere.json"]):
        line.fails(*command)
    assert asked == [False, True, True]
