"""Downloads from a Hub on this machine: what arrives, what is found in the cache, what is resumed."""

import os
import signal
import threading
import time

import huggingface_hub
import pytest
from fake_hub import git_hash, wait_until
from hub_files import FILES, NEEDED, REPO, SIZE, WEIGHTS, content

from qsched.hub.fetch import fetch, is_ready, revision_of
from qsched.hub.source import Source


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "models--org--model"


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
    found = huggingface_hub.hf_hub_download(
        REPO, WEIGHTS, cache_dir=os.environ["HF_HUB_CACHE"], local_files_only=True
    )
    assert found == str(folder / WEIGHTS)
    (repo,) = huggingface_hub.scan_cache_dir(os.environ["HF_HUB_CACHE"]).repos
    assert repo.repo_id == REPO and {file.file_name for rev in repo.revisions for file in rev.files} >= {
        "vocab.json"
    }


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
    assert fetch(Source(str(tmp_path), ("*.none",)), offline=True) == tmp_path and is_ready(
        Source(str(tmp_path))
    )
    assert not hub.requests


def test_revisions_are_pinned_by_their_commit(hub):
    folder = fetch(NEEDED)
    commit = hub.repositories[REPO].sha
    assert revision_of(folder) == revision_of(folder / "unet") == commit
    pinned = Source(REPO, NEEDED.files, commit)
    assert is_ready(pinned) and fetch(pinned) == folder
    assert not is_ready(Source(REPO, NEEDED.files, "0" * 40))


def test_a_plain_folder_is_known_by_all_its_weights(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "unet" / "w.safetensors").write_bytes(b"0" * 3_000_000)
        (tmp_path / name / "config.json").write_text(name)
    assert (
        revision_of(tmp_path / "a") == revision_of(tmp_path / "b") and len(revision_of(tmp_path / "a")) == 12
    )
    (tmp_path / "b" / "unet" / "w.safetensors").write_bytes(b"0" * 1_500_000 + b"1" + b"0" * 1_499_999)
    assert revision_of(tmp_path / "a") != revision_of(tmp_path / "b")


# broken off


def test_killed_in_the_middle_it_fetches_only_the_files_that_are_missing(hub, cache):
    hub.speed = 1e6
    child = os.fork()
    if child == 0:
        fetch(NEEDED)
        os._exit(0)
    small = cache / "blobs" / git_hash(FILES["unet/config.json"])
    wait_until(lambda: hub.served[WEIGHTS] > 200_000 and small.exists())
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL and not is_ready(NEEDED)
    hub.speed = None
    hub.served.clear()
    assert content(fetch(NEEDED))[WEIGHTS] == FILES[WEIGHTS]
    assert "unet/config.json" not in hub.served


def test_what_a_killed_download_left_is_cleared_away(hub, cache):
    (cache / "blobs").mkdir(parents=True)
    left, fresh = (cache / "blobs" / f"{name}.incomplete" for name in ("old", "new"))
    left.write_bytes(b"half"), fresh.write_bytes(b"half")
    os.utime(left, (time.time() - 7200,) * 2)
    fetch(NEEDED)
    assert not left.exists() and fresh.exists()


def test_two_at_once_share_one_download(hub):
    hub.speed, folders = 2e6, []
    threads = [threading.Thread(target=lambda: folders.append(fetch(NEEDED))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2 and folders[0] == folders[1] and sum(hub.served.values()) == SIZE
