"""A Hugging Face Hub on this machine: the part of its protocol that downloads and small commits need, and its
bad days.

    with FakeHub() as hub:
        hub.add("org/model", {"unet/config.json": b"{}", "unet/model.safetensors": weights})
        hub.fault = "hang"       # or a function of (kind, path): kind is "api", "file" or "push"
                                 # a status, "hang", "hang up", "nonsense"; files also "stall", "trickle",
                                 "cut", # "short", "corrupt", "no ranges"
        hub.address              # for HF_ENDPOINT
        hub.served["unet/model.safetensors"]  # bytes of content that left the server

As on the real one, large files (here: *.safetensors) are Git LFS files and served, after a redirect, by
another host.
"""

import base64
import hashlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from weakref import WeakValueDictionary

import huggingface_hub
import pytest
from huggingface_hub import constants

BLOCK = 16 << 10
COMMIT_ERRORS = {401: "RepoNotFound", 403: "GatedRepo"}


class Repository:
    """One model repository with a single branch, main."""

    def __init__(self, files: dict[str, bytes], private: bool = False):
        self.files, self.private, self.summary = dict(files), private, "initial commit"

    @property
    def sha(self) -> str:
        """Changes with the content, like a commit."""
        listing = [(path, hashlib.sha1(content).hexdigest()) for path, content in sorted(self.files.items())]
        return hashlib.sha1(repr(listing).encode()).hexdigest()

    def entries(self, flat: bool) -> list[dict]:
        """The files as model info (flat) or the tree lists them."""
        found = []
        for path, content in self.files.items():
            entry = (
                {"rfilename": path, "blobId": git_hash(content)} if flat else {"type": "file", "path": path}
            )
            entry |= {"size": len(content), "oid": git_hash(content)}
            if is_lfs(path):
                sha = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha, "oid": sha, "size": len(content), "pointerSize": 130}
            found.append(entry)
        return found


class FakeHub:
    """A server in a thread of this process; see the module's text.

    token: needed for pushes. speed: bytes per second of content, None = as fast as it goes.
    """

    def __init__(self, token: str = "hf_right"):
        self.token, self.user, self.fault, self.speed = token, "me", None, None
        self.repositories: dict[str, Repository] = {}
        self.served: Counter[str] = Counter()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.closing = threading.Event()
        self.server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.port = self.server.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def add(self, repo: str, files: dict[str, bytes], **options: bool) -> Repository:
        """Create or replace a repository."""
        self.repositories[repo] = Repository(files, **options)
        return self.repositories[repo]

    def fault_of(self, kind: str, path: str) -> object:
        """What goes wrong with this request, None if nothing does."""
        return self.fault(kind, path) if isinstance(self.fault, Callable) else self.fault


class _Server(ThreadingHTTPServer):
    """Clients that hang up are nothing to talk about."""

    daemon_threads, block_on_close = True, False

    def handle_error(self, *_arguments: object) -> None:
        """Stay silent."""


class _Handler(BaseHTTPRequestHandler):
    """Answers as the Hub does."""

    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_arguments: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        parts, query = self._begin()
        if parts[:1] == ["cdn"]:
            return self._content("/".join(parts[3:]), self.hub.repositories["/".join(parts[1:3])])
        if parts[:2] == ["api", "models"]:
            return self._models(parts[2:], query)
        if "resolve" in parts[1:3]:
            return self._resolve(parts)
        self._refuse(404)

    def do_HEAD(self) -> None:
        parts, _ = self._begin()
        self._resolve(parts) if "resolve" in parts[1:3] else self._refuse(404)

    def do_POST(self) -> None:
        parts, _ = self._begin()
        body = self._body()
        if parts == ["api", "validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        if not self._known("push"):
            return None
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        repository = self.hub.repositories.get("/".join(parts[2:4]))
        if repository is None:
            return self._refuse(404, "RepoNotFound")
        if parts[4] == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            return self._json(
                {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]}
            )
        for line in body.decode().splitlines():
            item = json.loads(line)
            if item["key"] == "header":
                repository.summary = item["value"]["summary"]
            else:
                repository.files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
        url = f"{self.hub.address}/{'/'.join(parts[2:4])}/commit/{repository.sha}"
        self._json({"commitUrl": url, "commitOid": repository.sha, "success": True})

    # what the repositories answer

    def _models(self, parts: list[str], query: dict) -> None:
        repo, rest = "/".join(parts[:2]), parts[2:]
        repository = self.hub.repositories.get(repo)
        if self._fails(self.hub.fault_of("api", repo), "api"):
            return None
        if repository is None:  # the Hub tells strangers no more than this
            return self._refuse(401, "RepoNotFound")
        if rest and rest[1] not in ("main", repository.sha):
            return self._refuse(404, "RevisionNotFound")
        if rest[:1] == ["tree"]:
            return self._json(repository.entries(flat=False))
        siblings = (
            repository.entries(flat=True)
            if "blobs" in query
            else [{"rfilename": p} for p in repository.files]
        )
        info = {"_id": "1", "id": repo, "modelId": repo, "sha": repository.sha, "private": repository.private}
        return self._json(
            info | {"gated": False, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}
        )

    def _resolve(self, parts: list[str]) -> None:
        index = parts.index("resolve")
        repo, revision, path = "/".join(parts[:index]), parts[index + 1], "/".join(parts[index + 2 :])
        repository = self.hub.repositories.get(repo)
        if repository is None:
            return self._refuse(401, "RepoNotFound")
        if revision not in ("main", repository.sha):
            return self._refuse(404, "RevisionNotFound")
        if path not in repository.files:
            return self._refuse(404, "EntryNotFound")
        if not is_lfs(path):
            return self._content(path, repository)
        content = repository.files[path]
        self.send_response(302)
        for name, value in {
            "X-Repo-Commit": repository.sha,
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": len(content),
            "Location": f"http://localhost:{self.hub.port}/cdn/{repo}/{path}",
            "Content-Length": 0,
        }.items():
            self.send_header(name, str(value))
        self.end_headers()

    def _content(self, path: str, repository: Repository) -> None:
        fault = self.hub.fault_of("file", path)
        if self._fails(fault, "file"):
            return
        whole = repository.files[path]
        content, begin = whole, 0
        if fault == "corrupt":
            content = bytes(255 - byte for byte in whole[:100]) + whole[100:]
        if fault == "short":
            content = whole[: len(whole) // 2]
        asked = self.headers.get("Range", "")
        if asked and fault != "no ranges":
            begin = int(asked.removeprefix("bytes=").partition("-")[0])
            if begin >= len(content):
                return self._refuse(416)
        self.send_response(206 if begin else 200)
        headers = {
            "Content-Length": len(content) - begin,
            "X-Repo-Commit": repository.sha,
            "Accept-Ranges": "bytes",
        }
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.send_header("ETag", f'"{git_hash(whole)}"')
        self.end_headers()
        if self.command == "GET":
            self._send(path, content[begin:], fault)

    def _send(self, path: str, content: bytes, fault: object) -> None:
        until = len(content) // 2 if fault in ("cut", "stall") else len(content)
        step = 1 if fault == "trickle" else BLOCK
        for begin in range(0, until, step):
            block = content[begin : min(begin + step, until)]
            self.wfile.write(block)
            self.hub.served[path] += len(block)
            if fault == "trickle" or self.hub.speed:
                pause = 0.1 if fault == "trickle" else len(block) / self.hub.speed
                if self.hub.closing.wait(pause):
                    break
        if fault == "stall":
            self.wfile.flush()
            self.hub.closing.wait(60)
        if until < len(content):
            self._hang_up()

    def _create(self, wanted: dict) -> None:
        owner, repo = wanted["organization"], f"{wanted['organization']}/{wanted['name']}"
        if owner != self.hub.user:
            return self._refuse(403)
        if repo in self.hub.repositories:
            return self._json({"url": f"{self.hub.address}/{repo}"}, 409)
        self.hub.add(repo, {}, private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
        self._json({"url": f"{self.hub.address}/{repo}"})

    # how they are carried

    def _begin(self) -> tuple[list[str], dict]:
        url = urlsplit(self.path)
        self.hub.requests.append(
            (self.command, unquote(url.path), {k.lower(): v for k, v in self.headers.items()})
        )
        return [unquote(part) for part in url.path.strip("/").split("/")], parse_qs(url.query)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _known(self, kind: str) -> bool:
        """Whether the request may go on: no fault, and the right token."""
        if self._fails(self.hub.fault_of(kind, self.path), kind):
            return False
        if self.headers.get("Authorization") == f"Bearer {self.hub.token}":
            return True
        self._refuse(401)
        return False

    def _fails(self, fault: object, kind: str) -> bool:
        if fault in ("hang", "hang up"):
            self.hub.closing.wait(60 if fault == "hang" else 0)
            self._hang_up()
        elif fault == "nonsense":
            self._json("<html>Please pay for the hotel's network</html>")
        elif isinstance(fault, int):
            self._refuse(fault, COMMIT_ERRORS.get(fault, "") if kind != "push" else "")
        else:
            return False
        return True

    def _json(self, data: object, status: int = 200) -> None:
        body = data.encode() if isinstance(data, str) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _hang_up(self) -> None:
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


@contextmanager
def connected(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[FakeHub]:
    """A running Hub, with an environment in which this program asks no other and keeps its files
    in `cache`.
    """
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # commands that ran earlier in this process may have set it
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setattr(
        "qsched.scoring.loading._loaded", WeakValueDictionary()
    )  # no scorer outlives the weights that it was made of
    huggingface_hub.close_session()
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


def is_lfs(path: str) -> bool:
    """Whether the Hub keeps such a file in LFS."""
    return path.endswith(".safetensors")


def git_hash(content: bytes) -> str:
    """The name that git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def unused_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Return as soon as the condition holds.

    Raises:
        AssertionError: if it does not come true in time.
    """
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.01)
