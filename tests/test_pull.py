"""`pull` on the command line, against a Hub on this machine."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
from command_line import CommandLine
from hub_files import FILES, NEEDED, REPO, SIZE, WEIGHTS, content
from tiny_models import folder_of, tiny_vae_of
from tiny_scorers import serve_scorers, write_scorers

from qsched.commands import cli
from qsched.hub.fetch import fetch
from qsched.models.registry import SPECS
from qsched.scoring.lpips import alexnet_place


@pytest.fixture
def line(capsys, monkeypatch, hub):
    far = replace(SPECS["emoji-lcm"], id="far", source=REPO, files=NEEDED.files)
    monkeypatch.setitem(SPECS, "far", far)
    return CommandLine(capsys, monkeypatch)


@pytest.fixture(scope="module")
def fakes(tmp_path_factory):
    """All scorers' weights, tiny and random."""
    return write_scorers(tmp_path_factory.mktemp("scorers"))


def test_pull_fetches_and_says_what_and_where(line, hub):
    data = line.ok("pull", "far")
    (part,) = data["sources"]
    assert (
        data["ready"] and data["downloaded_bytes"] == SIZE and part["revision"] == hub.repositories[REPO].sha
    )
    assert part["files"] == 5 and part["bytes"] > SIZE and content(fetch(NEEDED))
    status, out, err = line.run("pull", "far", "--offline")
    assert (status, err) == (0, "") and "nothing to fetch" in out and part["folder"] in out


def test_pull_from_another_repository_and_revision(line, hub):
    hub.add("me/tuned", {"model_index.json": b"{}"})
    commit = hub.repositories["me/tuned"].sha
    assert (
        line.ok("pull", "far", "--source", "me/tuned", "--revision", commit)["sources"][0]["revision"]
        == commit
    )
    assert line.ok("pull", "far", "--source", f"me/tuned@{commit}")["sources"][0]["revision"] == commit
    assert "has no revision v2" in line.fails("pull", "far", "--revision", "v2")
    assert "nothing to download" in line.ok("pull", "far", "--source", os.getcwd())["message"]


def test_pull_fails_in_one_line(line, hub):
    assert "offline" in line.fails("pull", "far", "--offline")
    hub.fault = 403
    assert "accept its licence" in line.fails("pull", "far")
    assert "Unknown backbone 'sd15'" in line.fails("pull", "sd15")


def test_pull_that_is_interrupted_goes_on(line, hub, monkeypatch):
    hub.speed, interrupted = 1e6, []
    others = SIZE - len(FILES[WEIGHTS])

    def refresh(bar):
        # Ctrl-C while the bar is drawn and some of the weights are here
        if bar.n > others and not interrupted:
            interrupted.append(bar.n)
            raise KeyboardInterrupt

    monkeypatch.setattr("tqdm.tqdm.refresh", refresh)
    status, out, err = line.run("pull", "far")
    assert status == 130 and out == "" and "the same command goes on" in err
    hub.speed, came = None, hub.served[WEIGHTS]
    assert came > 0 and line.ok("pull", "far")["downloaded_bytes"] < SIZE


@pytest.mark.slow
def test_after_a_pull_the_images_of_a_real_backbone_are_scored_without_a_network(
    line, hub, monkeypatch, tmp_path, fakes
):
    spec = replace(SPECS["lcm-dreamshaper-v7"], size=64)
    monkeypatch.setitem(SPECS, spec.id, spec)
    for repo, folder in (
        (spec.source, folder_of(spec.id)),
        (spec.tiny_vae.repo, Path(tiny_vae_of("sd").repo)),
    ):
        hub.add(repo, {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    serve_scorers(hub, monkeypatch, tmp_path / "torch", fakes)
    line.capsys.readouterr()  # what diffusers says when models are made
    generate = [
        "generate",
        "--backbone",
        spec.id,
        "--prompt",
        "a fox",
        "--steps",
        "1",
        "--out",
        str(tmp_path),
    ]
    assert f"pull {spec.id}" in line.fails("pull", spec.id, "--offline")
    listed = next(entry for entry in line.ok("backbones")["backbones"] if entry["id"] == spec.id)
    names = [part["repo"] for part in line.ok("pull", spec.id)["sources"]]
    assert [part["name"] for part in listed["downloads"]] == names, "what is announced is what is fetched"
    assert len(names) == 6 and names[:2] == [spec.source, spec.tiny_vae.repo] and "alexnet" in names[-1]
    asked, hub.fault = len(hub.requests), 500
    found = line.ok(*generate, "--tiny-decoder")
    assert len(hub.requests) == asked, "nobody was asked"
    assert found["scorer"]["name"] == "clip-l14" and not any("no scores" in note for note in found["notes"])
    assert all(column["lpips"] is not None and column["jaq"] is not None for column in found["columns"])
    sentence = " ".join(line.ok(*generate, "--scorer", "hps")["notes"])
    assert f"pull {spec.id} --scorer hps" in sentence, "nothing large comes unasked"
    hub.fault = None
    open_clip.add_model_config(fakes / "tiny-hps.json")
    monkeypatch.setattr("qsched.scoring.loading.HPS_ARCHITECTURE", "tiny-hps")
    assert line.ok("pull", spec.id, "--scorer", "hps")["downloaded_bytes"] > 0
    assert line.ok(*generate, "--scorer", "hps")["scorer"]["quality"] == "HPSv2.1"
    place = alexnet_place()
    shutil.rmtree(place.parent)
    assert line.ok("pull", spec.id)["downloaded_bytes"] == place.stat().st_size, "only what is missing"


def test_the_embedded_backbone_has_a_scorer_of_its_own(line, tmp_path):
    assert "leave out --scorer" in line.fails(
        "generate", "--prompt", "fox", "--scorer", "hps", "--out", str(tmp_path)
    )


def test_only_pull_may_ask_the_hub(line, monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "quiet", lambda offline: asked.append(offline))
    for command in (
        ["pull", "none"],
        ["pull", "none", "--offline"],
        ["evaluate", "--preset", "nowhere.json"],
    ):
        line.fails(*command)
    assert asked == [False, True, True]
