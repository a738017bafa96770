"""Downloads: what arrives, what is resumed, and every way in which a Hub can fail, against a server on this machine."""

import errno
import hashlib
import os
import shutil
import signal
import socket
import threading
import time
from dataclasses import replace

import huggingface_hub
import pytest
from command_line import CommandLine
from fake_hub import FakeHub, unused_port, wait_until
from huggingface_hub import constants

from qsched import cli
from qsched.backbones import hub as hub_module
from qsched.backbones import hub_cache, transfer
from qsched.backbones.hub import fetch, is_ready, revision_of
from qsched.backbones.spec import SPECS, BackboneError, Source

REPO = "org/model"
WEIGHTS = "unet/diffusion_pytorch_model.fp16.safetensors"
FILES = {
    "model_index.json": b'{"_class_name": "None"}',
    "unet/config.json": b'{"in_channels": 4}',
    WEIGHTS: os.urandom(600_000),
    "unet/diffusion_pytorch_model.safetensors": os.urandom(1_200_000),
    "tokenizer/vocab.json": b"vocabulary" * 5000,
    "tokenizer_2/vocab.json": b"vocabulary" * 5000,
    "README.md": b"",
}
NEEDED = Source(REPO, ("*.json", "*.fp16.safetensors"))
SIZE = sum(len(FILES[name]) for name in ("model_index.json", "unet/config.json", WEIGHTS, "tokenizer/vocab.json"))
SHORT = 2.0  # seconds of patience, where the test has to wait for their end


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    huggingface_hub.close_session()
    with FakeHub() as hub:
        hub.add(REPO, FILES)
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "models--org--model"


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fails(source=NEEDED, **options):
    """The sentence of a fetch that must fail, within 10 s and without a broken cache."""
    begin = time.monotonic()
    with pytest.raises(BackboneError) as caught:
        fetch(source, **options)
    assert time.monotonic() - begin < 10
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and not is_ready(source)
    return message


# what works


def test_only_the_needed_files_arrive_and_each_content_once(hub):
    assert not is_ready(NEEDED)
    folder = fetch(NEEDED)
    wanted = {name: FILES[name] for name in FILES if name.endswith((".json", ".fp16.safetensors"))}
    assert content(folder) == wanted and is_ready(NEEDED)
    assert sum(hub.served.values()) == SIZE and "unet/diffusion_pytorch_model.safetensors" not in hub.served
    assert content(fetch(Source(REPO))) == FILES  # the rest, an empty file among it
    assert sum(hub.served.values()) == SIZE + len(FILES["unet/diffusion_pytorch_model.safetensors"])


def test_what_is_complete_is_used_without_asking(hub):
    folder = fetch(NEEDED)
    hub.requests.clear()
    hub.fault = 500
    assert fetch(NEEDED) == folder == fetch(NEEDED, offline=True) and not hub.requests


def test_the_token_does_not_leave_the_hub(hub):
    fetch(NEEDED)
    tokens = {"cdn" in path: headers.get("authorization") for _, path, headers in hub.requests}
    assert tokens == {False: "Bearer hf_right", True: None}


def test_other_tools_find_the_files(hub):
    folder = fetch(NEEDED)
    found = huggingface_hub.hf_hub_download(REPO, WEIGHTS, cache_dir=os.environ["HF_HUB_CACHE"], local_files_only=True)
    assert found == str(folder / WEIGHTS)
    (repo,) = huggingface_hub.scan_cache_dir(os.environ["HF_HUB_CACHE"]).repos
    assert repo.repo_id == REPO and {file.file_name for rev in repo.revisions for file in rev.files} >= {"vocab.json"}


def test_what_another_tool_has_fetched_is_used(hub, cache):
    huggingface_hub.snapshot_download(
        REPO, allow_patterns=list(NEEDED.files), cache_dir=cache.parent, endpoint=hub.address, max_workers=1
    )
    served = sum(hub.served.values())
    assert content(fetch(NEEDED)).keys() >= {WEIGHTS} and sum(hub.served.values()) == served


def test_progress_counts_bytes_up_to_the_total(hub):
    hub.speed, seen = 2e6, []
    fetch(NEEDED, on_progress=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {SIZE} and seen[-1][0] == SIZE
    done = [count for count, _ in seen]
    assert done == sorted(done) and len(set(done)) >= 3


def test_an_error_in_the_callback_is_not_the_hubs_fault(hub):
    def cancel(done, total):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fetch(NEEDED, on_progress=cancel)
    assert fetch(NEEDED)


def test_a_local_folder_is_taken_as_it_is(hub, tmp_path):
    assert fetch(Source(str(tmp_path), ("*.none",)), offline=True) == tmp_path and is_ready(Source(str(tmp_path)))
    assert not hub.requests


def test_revisions_are_pinned_by_their_commit(hub):
    folder = fetch(NEEDED)
    commit = hub.repositories[REPO].sha
    assert revision_of(folder) == revision_of(folder / "unet") == commit
    pinned = Source(REPO, NEEDED.files, commit)
    assert is_ready(pinned) and fetch(pinned) == folder
    assert not is_ready(Source(REPO, NEEDED.files, "0" * 40))


def test_a_branch_that_moves_on_does_not_take_away_what_is_here(hub):
    first = fetch(NEEDED)
    hub.add(REPO, FILES | {"README.md": b"second edition", "new.txt": b"new"})
    assert content(fetch(Source(REPO, ("new.txt",))))["new.txt"] == b"new"
    assert fetch(NEEDED, offline=True) == first


def test_a_plain_folder_is_known_by_all_its_weights(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "unet" / "w.safetensors").write_bytes(b"0" * 3_000_000)
        (tmp_path / name / "config.json").write_text(name)
    assert revision_of(tmp_path / "a") == revision_of(tmp_path / "b") and len(revision_of(tmp_path / "a")) == 12
    (tmp_path / "b" / "unet" / "w.safetensors").write_bytes(b"0" * 1_500_000 + b"1" + b"0" * 1_499_999)
    assert revision_of(tmp_path / "a") != revision_of(tmp_path / "b")


# broken off


def test_killed_in_the_middle_it_fetches_only_the_rest(hub, cache):
    hub.speed = 1e6
    child = os.fork()
    if child == 0:
        fetch(NEEDED)
        os._exit(0)
    wait_until(lambda: hub.served[WEIGHTS] > 200_000)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL and not is_ready(NEEDED)
    hub.speed = None
    time.sleep(0.1)  # what the server had on its way
    kept = sum(path.stat().st_size for path in (cache / "blobs").iterdir())
    hub.served.clear()
    seen = []
    folder = fetch(NEEDED, on_progress=lambda done, total: seen.append(done))
    assert folder.joinpath(WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert kept > 100_000 and sum(hub.served.values()) == SIZE - kept and seen[0] == kept
    assert not list(cache.rglob("*.incomplete"))


def test_a_connection_that_breaks_is_taken_up_again_at_once(hub):
    cuts = iter([True, True])
    hub.fault = lambda kind, path: "cut" if path == WEIGHTS and next(cuts, False) else None
    assert content(fetch(NEEDED))[WEIGHTS] == FILES[WEIGHTS]
    assert hub.served[WEIGHTS] == len(FILES[WEIGHTS])
    assert sum("cdn" in path for _, path, _ in hub.requests) == 3


def test_a_server_without_ranges_starts_over(hub):
    hub.fault = lambda kind, path: "cut" if path == WEIGHTS and not hub.served[WEIGHTS] else "no ranges"
    assert content(fetch(NEEDED))[WEIGHTS] == FILES[WEIGHTS]
    assert hub.served[WEIGHTS] == 1.5 * len(FILES[WEIGHTS])


def test_damage_left_by_an_earlier_attempt_is_repaired(hub, cache):
    (cache / "blobs").mkdir(parents=True)
    blob = cache / "blobs" / hashlib.sha256(FILES[WEIGHTS]).hexdigest()
    for rubbish in (b"rubbish", b"rubbish" * 200_000):
        shutil.rmtree(cache / "snapshots", ignore_errors=True)
        blob.unlink(missing_ok=True)
        transfer.partial_path(blob).write_bytes(rubbish)
        done = []
        assert content(fetch(NEEDED, on_progress=lambda *at, done=done: done.append(at)))[WEIGHTS] == FILES[WEIGHTS]
        assert done[-1] == (SIZE, SIZE)


def test_two_at_once_share_one_download(hub):
    hub.speed, folders = 2e6, []
    threads = [threading.Thread(target=lambda: folders.append(fetch(NEEDED))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2 and folders[0] == folders[1] and sum(hub.served.values()) == SIZE


def test_a_stuck_other_process_is_not_waited_for_forever(hub, cache):
    (cache / "qsched").mkdir(parents=True)
    with hub_module.WeakFileLock(cache / "qsched" / "lock"):
        assert "Another process" in fails(timeout=1)
    assert fetch(NEEDED)


# everything that can go wrong


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
    monkeypatch.setitem(SPECS, "mine", replace(SPECS["emoji-lcm"], id="mine", source=REPO))
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
        assert "too full for 0.00 GB of org/model: 0.00 GB are free" in fails()
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


# the command


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
    hub.add("me/tuned", {"a.json": b"{}"})
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
    hub.speed = 1e6
    timer = threading.Timer(0.4, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
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
