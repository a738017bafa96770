"""What the page and the API say of an error: one sentence, and nothing of where files lie on the server."""

import errno
import sqlite3

import gradio as gr
import pytest
from search_visits import html, run, search_tab

from qsched.export.publish import PublishError
from qsched.hub.source import BackboneError
from qsched.load import load_backbone
from qsched.presets import PresetError, load_preset
from qsched.prompts.files import read_prompts
from qsched.search.job import SearchError
from qsched.search.saved import load_search, saved_searches
from qsched.search.study import StorageError
from qsched.server.searches import Searches
from qsched.ui.errors import USER_ERRORS, reports_errors, sentence_for, without_paths
from qsched.ui.search import fragments as search_fragments


def corrupt(path, content="{"):
    path.write_text(content)
    return path


KINDS = {
    "a preset that is missing": lambda folder: load_preset(folder / "none.json"),
    "a preset that is corrupt": lambda folder: load_preset(corrupt(folder / "bad.json")),
    "prompts that are missing": lambda folder: read_prompts(folder / "none.txt"),
    "prompts of another kind": lambda folder: read_prompts(corrupt(folder / "bad.yaml", "a: [")),
    "prompts in a folder": lambda folder: read_prompts(folder),
    "a storage in no folder": lambda folder: saved_searches(f"sqlite:///{folder / 'no' / 's.sqlite3'}"),
    "a storage of another kind": lambda folder: saved_searches(
        f"sqlite:///{corrupt(folder / 's.db', 'x' * 5000)}"
    ),
    "a search that is not there": lambda folder: load_search(f"sqlite:///{folder / 's.sqlite3'}", "none"),
    "a file in the folder's place": lambda folder: Searches(corrupt(folder / "file") / "s.sqlite3").url,
    "a model's folder without a model": lambda folder: load_backbone("pcm-sd15", source=str(folder)),
    "a model's folder that is missing": lambda folder: load_backbone("pcm-sd15", source=str(folder / "none")),
    "a file that cannot be read": lambda folder: (folder / "none").read_text(),
    "a database without a sentence": lambda folder: sqlite3.connect(folder / "no" / "x"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_error_names_a_path_of_the_server(kind, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    with pytest.raises(Exception) as caught:
        KINDS[kind](folder)
    sentence = sentence_for(caught.value)
    assert sentence and "\n" not in sentence and "/" not in sentence.replace("OWNER/NAME", "")
    for page in (True, False):
        with pytest.raises(gr.Error) as shown:
            reports_errors(lambda: KINDS[kind](folder), page)()
        assert str(tmp_path) not in str(shown.value) and tmp_path.name not in str(shown.value)


@pytest.mark.parametrize("kind", [*USER_ERRORS.__args__, ValueError, TypeError])
@pytest.mark.parametrize(
    "path",
    [
        "/srv/a/x.json",
        "sqlite:////root/a/x.json",
        r"C:\Users\ann\x.json",
        "~/data/x.json",
        "/home/Ann Lee/a/x.json",
    ],
)
def test_every_class_of_errors_is_spoken_without_its_folders(kind, path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/Ann Lee")
    assert sentence_for(kind(f"The file {path} cannot be used: {path}.")).endswith("x.json.")
    assert "ann" not in sentence_for(kind(path)).lower() and "/" not in sentence_for(kind(f"'{path}'"))
    assert {BackboneError, PresetError, PublishError, SearchError, StorageError} == set(USER_ERRORS.__args__)


@pytest.mark.parametrize(
    "sentence",
    [
        "https://huggingface.co/owner/name does not answer.",
        "The repository owner/tmp-root is gated: 12.5 images/s and/or c_x/c_eps, 3 / 4, sd15/w4a8.json.",
        "The storage postgresql://me:***@127.0.0.1:1/x cannot be used.",
    ],
)
def test_what_is_no_path_stays(sentence):
    assert without_paths(sentence) == sentence


def test_an_error_of_the_system_is_one_sentence():
    assert "disk is full" in sentence_for(OSError(errno.ENOSPC, "No space left", "/srv/x"))
    assert "/srv" not in sentence_for(OSError(errno.EACCES, "Permission denied", "/srv/x"))


def test_a_search_stopped_before_its_first_point_was_stopped_and_did_not_fail(tmp_path):
    """Stopped between two batches of the first point, when its study holds nothing yet."""
    tab, batches = search_tab(tmp_path), []
    went_on = tab.runner.engine.device_thread.run

    def stopping(batch, patient=False):
        running = tab.runner.running()
        if running and running.name and running.frame().total:
            batches.append(1)
            running.stop()
        return went_on(batch, patient)

    tab.runner.engine.device_thread.run = stopping
    end = run(tab, count=25, strategy="exhaustive")
    assert batches and 'data-state="stopped"' in html(end, tab.results.progress)
    assert "Stopped before the first point was finished." in end[tab.results.notes]
    assert "storage" not in end[tab.results.notes] and "/" not in end[tab.results.notes].replace("</p>", "")


@pytest.mark.slow
def test_what_a_saved_search_was_loaded_from_is_named_without_its_folder(tmp_path):
    tab = search_tab(tmp_path)
    run(tab)
    (saved,) = tab.searches.list()
    object.__setattr__(saved, "source", "/srv/models/mine")
    assert "emoji-lcm@mine" in search_fragments.label(saved)
