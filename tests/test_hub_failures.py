"""Every way in which a download can fail: one sentence within 10 s, a cache that is whole, success as soon as
it can be.
"""

import errno
import os
import shutil
from pathlib import Path

import pytest
from fake_hub import unused_port
from hub_files import FILES, NEEDED, REPO, SHORT, WEIGHTS, content, fails

from qsched.hub.errors import Failure, explain
from qsched.hub.fetch import fetch, is_ready
from qsched.hub.process import converse
from qsched.hub.source import OWNERS, Source

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["api", "file"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("hang", "does not answer"),
        (401, "hf auth login"),
        (403, "hf auth login` and accept its licence at http://127.0.0.1"),
        (404, "org/model"),
        (429, "asked too often"),
        (500, "problem of its own (status 500)"),
        ("nonsense", ""),
    ],
)
def test_a_hub_that_refuses(hub, kind, fault, words):
    hub.fault = lambda what, path: fault if what == kind else None
    retried = kind == "file" and fault in (429, 500)  # with growing pauses: it looks like silence
    assert ("does not answer" if retried else words) in fails(timeout=SHORT)
    hub.fault = None
    assert content(fetch(NEEDED))[WEIGHTS] == FILES[WEIGHTS]


@pytest.mark.parametrize(("fault", "words"), [("stall", "does not answer"), ("short", "")])
def test_a_file_that_does_not_arrive_as_it_should(hub, fault, words):
    hub.fault = lambda kind, path: fault if path == WEIGHTS else None
    assert words in fails(timeout=SHORT)
    hub.fault = None
    assert content(fetch(NEEDED))[WEIGHTS] == FILES[WEIGHTS]


def test_the_default_patience_ends_within_ten_seconds(hub):
    hub.fault = lambda kind, path: "stall" if path == WEIGHTS else None
    hub.speed = 1e6
    assert "that have arrived are kept" in fails()


def test_a_hub_that_is_not_there(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused_port()}")
    assert "cannot be reached: Connection refused" in fails()
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    assert "cannot be reached" in fails()
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    assert fetch(NEEDED)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Source("org/none"), "shows no org/none: check the name"),
        (Source(REPO, revision="v9"), "has no revision v9"),
        (Source(REPO, ("*.gguf",)), "none of the files that are needed: *.gguf"),
        (Source("a/b/c"), "neither a folder nor the name of a repository"),
        (Source("/no/such/folder"), "neither a folder nor the name of a repository"),
        (Source(REPO, revision="../../etc"), "cannot be a revision"),
    ],
)
def test_sources_that_do_not_exist(hub, source, words):
    assert words in fails(source)


def test_a_listing_cannot_write_outside_the_cache(hub, tmp_path):
    hub.add(REPO, {"../../../../escaped.json": b"{}"})
    assert "makes no sense" in fails()
    assert not list(tmp_path.rglob("escaped.json"))


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_offline_without_the_files_says_how_to_get_them(hub, by, monkeypatch):
    if by == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = fails(offline=True if by == "argument" else None)
    assert "python -m qsched pull ID --source org/model" in message and not hub.requests
    monkeypatch.setitem(OWNERS, REPO, "mine")
    assert "`python -m qsched pull mine`" in fails(offline=True)


def test_an_incomplete_snapshot_is_never_complete(hub):
    hub_cache = Path(os.environ["HF_HUB_CACHE"])
    folder = fetch(NEEDED)
    (folder / "unet/config.json").unlink()
    assert not is_ready(NEEDED) and "offline" in fails(offline=True)
    fetch(NEEDED)
    folder = hub_cache / "models--org--other"
    for name, text in {"refs/main": "0" * 40, f"snapshots/{'0' * 40}/config.json": "{}"}.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    assert not is_ready(Source("org/other")), "nobody can tell a part from the whole without the list"


def test_a_full_disk_is_noticed_before_and_during(hub, monkeypatch):
    usage = shutil.disk_usage
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1000))
        assert "too full for 0.7 MB of org/model: 0.0 MB are free" in fails()
        assert not hub.served

    full = Failure(["OSError"], errno=errno.ENOSPC, text="[Errno 28] No space left on device")
    assert "The disk is too full for org/model" in explain(full, REPO)
    assert content(fetch(NEEDED))[WEIGHTS] == FILES[WEIGHTS]


def test_a_cache_that_cannot_be_written(hub, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    assert "cannot be written: Not a directory (HF_HOME chooses another folder)" in fails()


def test_a_machine_that_takes_long_to_begin_is_not_a_hub_that_is_silent(tmp_path, monkeypatch):
    slow = tmp_path / "slow" / "torch"
    slow.mkdir(parents=True)
    (slow / "__init__.py").write_text("import time\ntime.sleep(3)\n")
    write = "def download_url_to_file(url, place, hash_prefix): open(place, 'w').write(url)\n"
    (slow / "hub.py").write_text(write)
    monkeypatch.syspath_prepend(slow.parent)
    place = tmp_path / "file"
    converse("file", 2.0, url="http://any", place=str(place), sha256="")
    assert place.read_text() == "http://any"
