"""Faults of the machine: each ends as one sentence without a traceback, and nothing stored is lost."""

import errno
import itertools
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import http_events
import httpx
import pytest
import torch
import uvicorn
from browser_app import given
from embedded_model import embedded, make_preset
from search_visits import html, run, search_tab, settings, visitor

from qsched.export.usage import export_scheduler
from qsched.hub.source import BackboneError
from qsched.load import load_backbone
from qsched.models.registry import SPECS
from qsched.presets import save_preset
from qsched.scoring import ImageScores
from qsched.server.searches import Searches
from qsched.ui.errors import USER_ERRORS, explained, reports_errors, sentence_for
from qsched.ui.images import stored
from qsched.ui.page import build_app
from qsched.ui.search import export_files
from qsched.ui.search.export_handlers import ExportHandlers

ROOT = Path(__file__).resolve().parents[1]
WRITES = {"open", "write", "flush", "close", "__exit__", "fsync", "replace", "rename", "mkdir", "sendfile"}


def killed(after, function):
    """Whether a process that runs the function dies by SIGKILL after so many steps on files."""
    if (child := os.fork()) == 0:
        steps = itertools.count(1)

        def profile(frame, event, called):
            if event == "c_return" and called.__name__ in WRITES and next(steps) == after:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(profile)
        function()
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def save(folder):
    save_preset(make_preset(steps=2), folder / "p.json")


def export(folder):
    export_scheduler(make_preset(steps=2), embedded().scheduler, folder, called="x")


def download(folder):
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    stored(b"content" * 10_000, "p.json")


@pytest.mark.slow
@pytest.mark.parametrize("write", [save, export, download])
def test_a_kill_at_any_moment_leaves_each_file_as_it_was_or_complete(tmp_path, write):
    write_files = lambda folder: {path.name: path.read_bytes() for path in visible(folder)}
    write(whole := tmp_path / "whole")
    whole, folder = write_files(whole), tmp_path / "folder"
    if write is save:
        save_preset(make_preset(), folder / "p.json")
    old, moments = write_files(folder), 0
    while killed(moments + 1, lambda: write(folder)):
        moments += 1
        for name, content in write_files(folder).items():
            assert content in (old.get(name), whole[name]), f"{name} after {moments} steps"
    assert moments > 3 and write_files(folder) == whole


def visible(folder):
    """Files under their own names: what begins with a dot is not looked at by anything."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [
        path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


@contextmanager
def read_only(folder):
    """Nothing can be written into the folder, even where the tests run as root."""
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.geteuid():
            path.chmod(path.stat().st_mode | 0o555)
    folder.chmod(0o555)
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


def said(handler, *arguments):
    """The sentence of the toast that a handler ends with."""
    with pytest.raises(gr.Error) as caught:
        reports_errors(handler)(*arguments)
    message = str(caught.value.message)
    assert message.endswith(".") and "\n" not in message and "Traceback" not in message
    return message


@pytest.mark.slow
def test_a_read_only_folder_is_one_sentence_and_what_is_there_stays(tmp_path, monkeypatch, caplog):
    tab = search_tab(tmp_path)
    run(tab)
    take, best = ExportHandlers(tab), export_files.best_known_path(tab.preset(visitor()), tab.engine)
    save_preset(make_preset(), best)
    before = best.read_bytes(), tab.searches.list()
    with read_only(best.parent):
        assert "cannot be written" in said(take.replace, visitor())
    (tmp_path / "files").mkdir()
    with monkeypatch.context() as patch, read_only(tmp_path / "files"):
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files" / "gradio"))
        for handler in (take.save, take.export):
            assert "may not write" in said(handler, visitor())
    (tmp_path / "data" / "s.sqlite3").chmod(0o444)
    (tmp_path / "files").chmod(0o777)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    with read_only(tmp_path / "data"):
        end = run(tab, count=2)
        assert 'data-state="failed"' in html(end, tab.results.progress)
        assert "cannot be used" in end[tab.results.notes] and "/" not in html(end, tab.results.notes)[:-5]
    (tmp_path / "data" / "s.sqlite3").chmod(0o644)
    assert (best.read_bytes(), tab.searches.list()) == before
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EMFILE])
def test_what_the_system_refuses_is_said_and_logged_in_one_line(number, caplog):
    sentence = explained(OSError(number, os.strerror(number), "/srv/x"), "here")
    assert "went wrong" not in sentence and "/srv" not in sentence and "\n" not in caplog.text.strip()


@pytest.mark.slow
def test_a_damaged_storage_is_one_sentence_or_is_read(tmp_path):
    tab = search_tab(tmp_path)
    run(tab)
    with sqlite3.connect(tmp_path / "data" / "s.sqlite3") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole, chance, failed = (tmp_path / "data" / "s.sqlite3").read_bytes(), random.Random(0), 0
    for number in range(45):
        content, begin = bytearray(whole), chance.randrange(100, len(whole))
        content[begin : begin + 2000] = (b"", chance.randbytes(2000), b"\0" * 2000)[number % 3]
        (tmp_path / f"{number}.sqlite3").write_bytes(content)
        searches = Searches(tmp_path / f"{number}.sqlite3")
        try:
            for search in searches.list():
                searches.load(search.name)
        except Exception as error:
            assert isinstance(error, USER_ERRORS), f"{number}: {error!r}"
            assert "\n" not in sentence_for(error)
            failed += 1
    assert failed > 9


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff\xfe", "half", "other"])
def test_a_corrupt_tokenizer_is_one_sentence(tmp_path, content):
    source = Path(SPECS["emoji-lcm"].source)
    for name in ("emoji-lcm", "emoji-clip"):
        shutil.copytree(source.parent / name, tmp_path / name)
    file = tmp_path / "emoji-clip" / "tokenizer.json"
    half = file.read_bytes()[: file.stat().st_size // 2]
    changed = file.read_bytes().replace(b'"model"', b'"nodel"')
    file.write_bytes({"half": half, "other": changed}.get(content, content))
    with pytest.raises(BackboneError) as caught:
        load_backbone("emoji-lcm", source=str(tmp_path / "emoji-lcm"))
    assert "\n" not in str(caught.value) and "tokenizer" in str(caught.value).lower()


class NanScorer:
    name, definition = "broken", "no numbers"

    def score(self, images, prompts):
        return ImageScores(torch.full((len(images),), torch.nan), torch.full((len(images),), torch.nan))


def test_a_scorer_that_gives_no_numbers_ends_a_search_with_a_sentence_and_leaves_the_page_its_images(
    tmp_path, monkeypatch, caplog
):
    tab = search_tab(tmp_path)
    monkeypatch.setattr(tab.engine.backbone("emoji-lcm"), "scorer", NanScorer)
    compare = tab.compare
    shown = reports_errors(compare.generate)(visitor(), given(compare))
    assert shown[compare.results.images[2]] and "no finite number" in shown[compare.results.notes]
    assert not [update for update in shown.values() if re.search(r"\bnan\b", str(update)[:3000], re.I)]
    end = run(tab)
    assert 'data-state="failed"' in html(end, tab.results.progress)
    assert "no point with finite" in end[tab.results.notes] and not caplog.records


@pytest.mark.slow
def test_two_apps_share_one_storage(tmp_path):
    tabs, ends = [search_tab(tmp_path), search_tab(tmp_path)], {}
    work = lambda tab: ends.setdefault(tab, run(tab, resolution=5))
    threads = [threading.Thread(target=work, args=(tab,)) for tab in tabs]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for tab in tabs:
        assert 'data-state="done"' in html(ends[tab], tab.results.progress), ends[tab][tab.results.notes]
        (search,) = tab.searches.list()
        assert search.done == search.total == 25


@pytest.mark.slow
def test_a_search_that_another_app_deletes_ends_with_a_sentence(tmp_path):
    here, there = search_tab(tmp_path), search_tab(tmp_path)
    end = {}
    for updates in here.start(visitor(), settings(here, resolution=9, count=10)):
        end |= updates
        if here.runner.running() and there.searches.list():
            there.searches.delete(there.searches.list()[0].name)
    assert 'data-state="failed"' in html(end, here.results.progress)
    assert 'class="note"' in end[here.results.notes] and "went wrong" not in end[here.results.notes]


def test_a_tab_that_is_closed_while_it_opens_is_one_sentence(tmp_path, monkeypatch):
    tab = search_tab(tmp_path).compare
    monkeypatch.setattr(tab.engine.sessions, "weigh", lambda session, k: tab.engine.forget(session))
    assert "no longer knows this page" in said(tab.open, visitor(), False, "naive", "Q-Sched")


@pytest.mark.slow
def test_an_app_with_few_file_descriptors_serves_its_page_or_says_why(tmp_path):
    command = f"ulimit -n 64 && exec {sys.executable} app.py --offline --searches {tmp_path}/s.sqlite3"
    log = tmp_path / "log"
    environment = os.environ | {"GRADIO_TEMP_DIR": str(tmp_path / "images")}
    app = subprocess.Popen(
        ["bash", "-c", command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=log.open("w"),
        text=True,
    )
    try:
        if "ready on" not in (ready := app.stdout.readline()):
            assert app.wait(60) == 2 and len(log.read_text().strip().splitlines()) == 1
            return
        url = ready.split("ready on ")[1].split()[0].rstrip("/")
        config = httpx.get(f"{url}/config", trust_env=False).json()
        events = {event["api_name"]: event for event in config["dependencies"]}
        first = {part["id"]: part["props"].get("value") for part in config["components"]}
        ask = lambda name, session: http_events.send(
            url, SimpleNamespace(_id=events[name]["id"], queue=events[name]["queue"], api_name=name),
            [first[id] for id in events[name]["inputs"]], session,
        )  # fmt: skip
        assert "image-qsched" not in ask("open", "a") and '"success": true' in ask("generate", "a")
        idle = [socket.create_connection(tuple(url.removeprefix("http://").split(":"))) for _ in range(80)]
        time.sleep(2)
        [connection.close() for connection in idle]
        time.sleep(2)
        assert '"success": true' in ask("generate", "b")
    finally:
        app.terminate()
        app.wait(60)
    assert "Too many files are open" in log.read_text() and "Traceback" not in log.read_text()


def test_a_page_starts_where_another_program_takes_the_port_at_the_last_moment(monkeypatch, engine):
    page, others, config = build_app(engine=engine), [], uvicorn.Config

    def late(*args, **options):  # gradio has seen that the port is free
        others.append(socket.create_server(("127.0.0.1", options["port"])) if not others else None)
        return config(*args, **options)

    monkeypatch.setattr("gradio.http_server.uvicorn.Config", late)
    try:
        _, url, _ = page.launch(
            server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, mcp_server=True
        )
        assert httpx.get(url, trust_env=False).status_code == 200
        assert f":{others[0].getsockname()[1]}" not in url
    finally:
        page.close(verbose=False)
        others[0].close()


def test_a_page_starts_on_a_machine_that_is_too_busy_for_gradio(monkeypatch, engine):
    monkeypatch.setattr("gradio.networking.url_ok", lambda url: False)  # gradio waits 3 seconds, once,
    hasty = SimpleNamespace(time=itertools.count(0, 10).__next__, sleep=time.sleep)  # and 5 for the server
    monkeypatch.setattr("gradio.http_server.time", hasty)
    with socket.create_server(("127.0.0.1", 7999)):  # a port that is taken is passed by all the same
        page = build_app(engine=engine)
        monkeypatch.setattr("gradio.http_server.INITIAL_PORT_VALUE", 7999)
        try:
            _, url, _ = page.launch(
                server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, mcp_server=True
            )
            assert httpx.get(url, trust_env=False).status_code == 200 and ":7999" not in url
        finally:
            page.close(verbose=False)
