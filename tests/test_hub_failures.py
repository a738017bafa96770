"""Every way in which a download can fail: one sentence within 10 s, a cache that is whole, success as soon as
it can be.
"""

import errno
import os
import shutil
import socket
import time

import pytest
from fake_hub import unused_port
from hub_files import FILES, NEEDED, REPO, SHORT, WEIGHTS, content, fails

from qsched.hub import cache as hub_cache
from qsched.hub import transfer
from qsched.hub.fetch import fetch, is_ready
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
    assert words in fails(timeout=SHORT)
    hub.fault = None
    assert content(fetch(NEEDED))[WEIGHTS] == FILES[WEIGHTS]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("stall", "does not answer"),
        ("trickle", "does not answer"),
        ("cut", "cut off"),
        ("short", "cut off after 300000 of 600000 bytes"),
        ("corrupt", "wrong checksum"),
    ],
)
def test_a_file_that_does_not_arrive_as_it_should(hub, fault, words):
    tries = iter(["cut"] if fault == "cut" else [])
    hub.fault = lambda kind, path: next(tries, 416 if fault == "cut" else fault) if path == WEIGHTS else None
    assert words in fails(timeout=SHORT)
    hub.fault = None
    assert content(fetch(NEEDED))[WEIGHTS] == FILES[WEIGHTS]


def test_the_default_patience_ends_within_ten_seconds(hub):
    hub.fault = lambda kind, path: "stall" if path == WEIGHTS else None
    hub.speed = 1e6
    assert "what has arrived is kept" in fails()


def test_a_hub_that_is_not_there(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused_port()}")
    assert "cannot be reached: Connection refused" in fails()
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    assert "cannot be reached" in fails()
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    assert fetch(NEEDED)


def test_a_name_server_that_does_not_answer(hub, monkeypatch):
    real = socket.getaddrinfo
    slow = lambda host, *rest, **more: (time.sleep(5), real(host, *rest, **more))[1]
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    begin = time.monotonic()
    assert "does not answer" in fails(timeout=1)
    assert time.monotonic() - begin < 3
    monkeypatch.undo()


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
    folder = fetch(NEEDED)
    (folder / "unet/config.json").unlink()
    assert not is_ready(NEEDED) and "offline" in fails(offline=True)
    fetch(NEEDED)
    (folder / WEIGHTS).resolve().write_bytes(b"half")
    assert not is_ready(NEEDED)
    assert content(fetch(NEEDED))[WEIGHTS] == FILES[WEIGHTS]
    (listing,) = (folder.parents[1] / hub_cache.LISTS).glob("*.json")
    listing.write_text("{")
    assert not is_ready(NEEDED) and fetch(NEEDED) == folder and is_ready(NEEDED)


def test_a_full_disk_is_noticed_before_and_during(hub, monkeypatch):
    usage = shutil.disk_usage
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1000))
        assert "too full for 0.7 MB of org/model: 0.0 MB are free" in fails()
        assert not hub.served

    class Full:
        """A file on a disk that is full after 100 kB."""

        def __init__(self, *arguments):
            self.file = open(*arguments)

        def __enter__(self):
            return self

        def __exit__(self, *_error):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, block):
            if self.file.tell() > 100_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(block)

    with monkeypatch.context() as full:
        full.setattr(transfer, "open", Full, raising=False)
        assert "The disk is too full for the rest of org/model" in fails()
    hub.served.clear()
    assert content(fetch(NEEDED))[WEIGHTS] == FILES[WEIGHTS]
    assert hub.served[WEIGHTS] < len(FILES[WEIGHTS])


def test_a_cache_that_cannot_be_written(hub, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    assert "cannot be written: Not a directory (HF_HOME chooses another folder)" in fails()
