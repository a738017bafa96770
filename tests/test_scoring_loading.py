"""Scorers by name: from a local folder, from the Hub's cache, and one sentence within ten seconds where
neither has them.
"""

import ast
import hashlib
import http.server
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
from fake_hub import connected, unused_port
from tiny_scorers import write_scorers

import qsched.scoring
from qsched.hub.source import BackboneError
from qsched.scoring import ScorerError, load_scorer, loading
from qsched.scoring.loading import CLIP_B32, CLIP_RN50, SCORERS, scorer_weights
from qsched.scoring.lpips import LINEAR, load_lpips
from qsched.scoring.weights import Weights, fetch_url


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scorers(tmp_path_factory.mktemp("scorers"))


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """No weights on this machine, and a Hub that has none either."""
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch"))
    with connected(monkeypatch, tmp_path / "hub") as hub:
        yield hub


def sentence(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text and "Traceback" not in text and text.endswith(".")
    return text


def in_cache(tmp_path: Path, weights: Weights, local: Path) -> None:
    """A snapshot in the Hub cache's layout, as any tool leaves it."""
    source = weights.source
    storage = tmp_path / "hub" / f"models--{source.repo.replace('/', '--')}"
    snapshot = storage / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text("a" * 40)
    for name in source.files:
        shutil.copy(local / weights.folder_name / name, snapshot / name)


def test_a_scorer_from_the_hubs_cache_asks_nobody(tmp_path, folder):
    for source in (CLIP_B32, CLIP_RN50):
        in_cache(tmp_path, source, folder)
    from_cache, local = load_scorer("clip-b32", offline=True), load_scorer("clip-b32", folder=folder)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(from_cache.quality(images), local.quality(images))
    assert CLIP_B32.source.repo in from_cache.definition and "local copy" not in from_cache.definition
    assert "local copy" in local.definition and str(folder) not in local.definition


def test_the_same_scorer_is_loaded_once(folder):
    assert load_scorer("clip-b32", folder=folder) is (kept := load_scorer("clip-b32", folder=str(folder)))
    assert load_scorer("clip-l14", folder=folder) is not kept


def test_what_a_scorer_needs_is_known_without_loading_it():
    for name, spec in SCORERS.items():
        needed = [weights.source for weights in scorer_weights(name)]
        assert needed == [weights.source for weights in (*spec.weights, LINEAR)]
        assert all(source.repo.count("/") == 1 and source.files and source.bytes > 0 for source in needed)


@pytest.mark.slow
def test_a_scorer_comes_from_the_hub_and_stays(hub, folder):
    for weights in (CLIP_B32, CLIP_RN50):
        names = ("README.md", *weights.source.files)
        contents = [
            b"",
            *((folder / weights.folder_name / name).read_bytes() for name in weights.source.files),
        ]
        hub.add(weights.source.repo, dict(zip(names, contents, strict=True)))
    scorer, local = load_scorer("clip-b32"), load_scorer("clip-b32", folder=folder)
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(scorer.alignment(images, ["a fox"]), local.alignment(images, ["a fox"]))
    assert hub.served["README.md"] == 0 and hub.served["open_clip_model.safetensors"] > 0
    del scorer
    hub.fault = 500
    assert load_scorer("clip-b32").name == "clip-b32"


@pytest.mark.parametrize("name", [*SCORERS, "lpips"])
def test_a_hub_that_refuses_is_one_sentence_at_once(name, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused_port()}")
    begin = time.perf_counter()
    with pytest.raises(ScorerError) as caught:
        load_lpips() if name == "lpips" else load_scorer(name)
    assert time.perf_counter() - begin < 10
    assert "cannot be had: The Hub" in sentence(caught) and isinstance(caught.value, BackboneError)


@pytest.mark.parametrize("fault", ["hang", "trickle", 401, 404, 500, "nonsense"])
def test_a_bad_day_of_the_hub_is_one_sentence(hub, fault, monkeypatch):
    monkeypatch.setattr("qsched.scoring.weights.TIMEOUT", 1.0)
    hub.add(CLIP_B32.source.repo, dict.fromkeys(CLIP_B32.source.files, b"x" * 100_000))
    hub.fault = fault
    begin = time.perf_counter()
    with pytest.raises(ScorerError) as caught:
        load_scorer("clip-b32")
    assert time.perf_counter() - begin < 10 and "CLIP ViT-B-32" in sentence(caught)


def test_a_quick_failure_is_forgotten_at_once(folder, tmp_path):
    with pytest.raises(ScorerError):
        load_scorer("clip-b32", offline=True)
    for weights in (CLIP_B32, CLIP_RN50):
        in_cache(tmp_path, weights, folder)
    assert load_scorer("clip-b32", offline=True).name == "clip-b32"


def test_offline_says_how_to_get_the_weights():
    with pytest.raises(ScorerError, match="is offline") as caught:
        load_scorer("clip-l14", offline=True)
    assert "CLIP ViT-L-14" in sentence(caught) and "vit_large_patch14_clip_224.openai" in str(caught.value)
    with pytest.raises(ScorerError, match="is offline"):
        load_lpips(offline=True)


def test_the_environment_can_forbid_the_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ScorerError, match="is offline"):
        load_scorer("clip-b32")


def test_a_local_folder_is_all_that_is_looked_at(folder, tmp_path):
    with pytest.raises(ScorerError, match=r"open_clip_config\.json is missing") as caught:
        load_scorer("clip-b32", folder=tmp_path)
    assert str(tmp_path) in sentence(caught)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / LINEAR.folder_name / LINEAR.source.files[0]).unlink()
    with pytest.raises(ScorerError, match="LPIPS"):
        load_lpips(folder=copy)


@pytest.mark.parametrize(
    ("repository", "name"),
    [(CLIP_B32.folder_name, "open_clip_model.safetensors"), (CLIP_B32.folder_name, "open_clip_config.json"),
     (CLIP_RN50.folder_name, "open_clip_model.safetensors")],
)  # fmt: skip
def test_damaged_weights_are_one_sentence(folder, tmp_path, repository, name):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / repository / name).write_bytes(b"not what it says")
    with pytest.raises(ScorerError, match="clip-b32 cannot be loaded"):
        load_scorer("clip-b32", folder=copy)


def test_damaged_lpips_weights_are_one_sentence(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / LINEAR.folder_name / LINEAR.source.files[0]).write_bytes(b"?")
    with pytest.raises(ScorerError, match="LPIPS cannot be loaded"):
        load_lpips(folder=copy)


def test_no_memory_is_one_sentence(folder, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loading.ClipModel, "from_folder", full)
    with pytest.raises(ScorerError, match="no memory left on cpu") as caught:
        load_scorer("clip-b32", folder=folder, offline=True)
    sentence(caught)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="known are clip-b32, clip-l14, hps"):
        load_scorer("clip")


# files that are not on the Hub


@pytest.fixture
def server(tmp_path):
    """(address of a file, its content, where the requests began); of "broken" the connection breaks once."""
    content, asked = b"weights" * 1000, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if "status=" in self.path:
                return self.send_error(int(self.path[-3:]))
            begin = int(self.headers.get("Range", "bytes=0-")[6:-1])
            asked.append(begin)
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            broken = "broken" in self.path and not begin
            self.wfile.write(content[begin : 3000 if broken else None])
            return None

        def log_message(self, *args): ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/file.pth", content, asked
        running.shutdown()


@pytest.mark.slow
def test_a_server_that_hangs_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("qsched.scoring.weights.TIMEOUT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.perf_counter()
        with pytest.raises(ScorerError, match="cannot be downloaded") as caught:
            fetch_url("The file", f"http://127.0.0.1:{silent.getsockname()[1]}/", tmp_path / "file", "00")
        assert time.perf_counter() - begin < 10 and sentence(caught)
    assert not list(tmp_path.glob("*file*"))


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_server_that_refuses_is_one_sentence(server, tmp_path, status):
    with pytest.raises(ScorerError, match=f"cannot be downloaded .*{status}") as caught:
        fetch_url("The file", f"{server[0]}?status={status}", tmp_path / "file.pth", "00")
    assert sentence(caught) and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_file_is_fetched_once_and_checked(server, tmp_path):
    url, content, _ = server
    place, checksum = tmp_path / "new" / "file.pth", hashlib.sha256(content).hexdigest()[:8]
    assert fetch_url("The file", url, place, checksum).read_bytes() == content
    assert fetch_url("The file", "http://127.0.0.1:9/", place, checksum) == place
    with pytest.raises(ScorerError, match="arrived damaged"):
        fetch_url("The file", url, tmp_path / "other" / "file.pth", "00000000")
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.slow
def test_a_file_that_breaks_off_is_no_file_and_the_next_call_fetches_it(server, tmp_path):
    url, content, asked = server
    checksum, seen = hashlib.sha256(content).hexdigest()[:8], []
    with pytest.raises(ScorerError, match="arrived damaged or in part") as caught:
        fetch_url("The file", url + "?broken", tmp_path / "file.pth", checksum)
    assert sentence(caught) and list(tmp_path.iterdir()) == []
    tell = lambda done, total: seen.append((done, total))
    assert fetch_url("The file", url, tmp_path / "file.pth", checksum, None, tell).read_bytes() == content
    assert len(asked) == 2 and seen[-1] == (7000, 7000)
    assert list(tmp_path.iterdir()) == [tmp_path / "file.pth"]


# the start of the app


def test_nothing_imports_pyiqa_before_a_photo_is_scored():
    for path in Path(qsched.scoring.__file__).parents[1].rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            )
            module = getattr(node, "module", None) or ""
            assert not any(name.startswith("pyiqa") for name in [*names, module]), path
    for module in ("comparison/comparison", "server/engine", "ui/fragments", "load", "models/base"):
        text = Path(qsched.scoring.__file__).parents[1].joinpath(f"{module}.py").read_text()
        assert "scoring.loading" not in text and "scoring.photo" not in text
