"""Who may do what: every handler of the page, called by somebody from elsewhere, leaves the
machine as it is.
"""

import builtins
import inspect
import os
from types import SimpleNamespace

import gradio as gr
import pytest
from browser_app import tiny_backbone, write_preset
from http_events import send
from search_visits import in_background, run, settings, until, visitor

from qsched.export.publish import Published
from qsched.server.engine import Engine
from qsched.ui.errors import reports_errors
from qsched.ui.page import build_app
from qsched.ui.visitors import furnish, is_local

REFUSED = "Only somebody at the machine that runs this page may"
GUEST = {"x-forwarded-for": "203.0.113.7"}
SECRET = "private-models"


@pytest.mark.parametrize(
    "stranger",
    [
        visitor(client="192.168.1.7"),
        visitor(host="abc.gradio.live"),
        visitor(host="evil.example"),
        visitor(origin="https://evil.example"),
        visitor(origin="null"),
        visitor(x_forwarded_for="1.2.3.4"),
        visitor(X_Real_IP="1.2.3.4"),
        visitor(forwarded="for=1.2.3.4"),
        visitor(via="1.1 proxy"),
        visitor(page=SimpleNamespace(share=True, root_path="")),
        visitor(page=SimpleNamespace(share=False, root_path="/demo")),
        SimpleNamespace(session_hash="a"),
        None,
    ],
)
def test_nobody_is_local_who_may_come_from_elsewhere(stranger):
    assert not is_local(stranger) and "local-only" in furnish(stranger)


def test_somebody_at_the_machine_is_local_except_on_a_space(monkeypatch):
    for here in (
        visitor(),
        visitor(host="localhost:7861", origin="http://localhost:7861"),
        visitor(client="::1"),
    ):
        assert is_local(here) and furnish(here) == ""
    monkeypatch.setenv("SPACE_ID", "me/space")
    assert not is_local(visitor())


class Scene:
    """A page that is served, with a saved search of somebody else's; whatever reaches out of it is written
    down.

    touched: "publish", "download", and "source" where a folder or repository that a visitor named was looked
        for.
    """

    def __init__(self, folder, monkeypatch):
        self.touched, self.folder = set(), folder
        (folder / SECRET).mkdir()
        write_preset(folder / "presets")
        self.engine = Engine(load=self._load, presets=folder / "presets")
        self.app = build_app(engine=self.engine, searches=str(folder / "data" / "s.sqlite3"))
        self.tab = self.app.search
        monkeypatch.setattr("qsched.ui.search.export_files.publish", self._publish)
        monkeypatch.setattr("qsched.ui.compare.download.download_progress", self._download_progress)
        for place, name in ((os, "stat"), (os, "scandir"), (os, "listdir"), (builtins, "open")):
            monkeypatch.setattr(place, name, self._watched(getattr(place, name)))
        run(self.tab, "owner", steps=4)
        (self.saved,) = [search.name for search in self.tab.searches.list()]

    def _load(self, id, device, source):
        self._look(source)
        return tiny_backbone(id, device, source)

    def _look(self, place):
        if isinstance(place, str | os.PathLike) and SECRET in str(place):
            self.touched.add("source")

    def _publish(self, *args, **options):
        self.touched.add("publish")
        return Published("u", ("f",))

    def _download_progress(self, spec):
        self.touched.add("download")
        yield 1, 1

    def _watched(self, function):
        def watched(place=".", *args, **options):
            self._look(place)
            return function(place, *args, **options)

        return watched

    def state(self):
        """Saved searches and presets."""
        presets = {path.name: path.read_bytes() for path in self.engine.presets.rglob("*.json")}
        return sorted(search.name for search in self.tab.searches.list()), presets

    def data(self, fn):
        """Values that a visitor could send to a handler."""
        if fn.api_name == "compare":
            given = {"prompt": "fox", "source": self.source, "steps": 1}
            names = [name for name in inspect.signature(fn.fn).parameters if name != "request"]
            return [given.get(name, block.value) for name, block in zip(names, fn.inputs, strict=True)]
        typed = {"source": self.source, "search-repo": "me/x", "search-token": "hf_1"}
        return [
            [self.saved] if block.elem_id == "search-saved"
            else 0 if isinstance(block, gr.Dataset)
            else typed.get(block.elem_id, getattr(block, "value", None))
            for block in fn.inputs
        ]  # fmt: skip

    @property
    def source(self):
        return str(self.folder / SECRET)

    def call(self, url, fn, session, headers, data=None):
        """The server's answer to one event, as text, the way the page sends it."""
        data = self.data(fn) if data is None else data
        return send(url, fn, data, session, headers, {"source": self.source})

    def call_all(self, url, session, headers):
        """Every handler's answer by its name; what deletes, and what ends a visit, comes last, so that there
        is something to take before.
        """
        fns = [fn for fn in self.app.fns.values() if fn.fn is not None and fn.api_name != "search_start"]
        ends = lambda fn: any(event == "unload" for _, event in fn.targets)
        fns.sort(key=lambda fn: (ends(fn), "delete" in str(fn.api_name)))
        return {fn.api_name: self.call(url, fn, session, headers) for fn in fns}


@pytest.fixture
def scene(tmp_path, monkeypatch):
    scene = Scene(tmp_path, monkeypatch)
    _, url, _ = scene.app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    scene.url = url.rstrip("/")
    yield scene
    scene.app.close(verbose=False)


def local_only(app):
    """Names of the handlers that belong to widgets which only somebody at the machine is shown."""

    def hidden(block):
        return block is not None and ("local-only" in (block.elem_classes or ()) or hidden(block.parent))

    return {
        fn.api_name
        for fn in app.fns.values()
        if fn.fn is not None and any(hidden(app.blocks.get(id)) for id, _ in fn.targets)
    }


@pytest.mark.slow
def test_no_handler_lets_somebody_from_elsewhere_touch_what_is_here(scene):
    before = scene.state()
    thread, _ = in_background(scene.tab, resolution=21, count=25, steps=4)
    until(lambda: scene.tab.runner.running() and scene.tab.runner.running().frame().images)
    answers = scene.call_all(scene.url, "guest", GUEST)
    running = scene.tab.runner.running()
    assert running and not running.stopping, "somebody else's search goes on"
    scene.tab.stop(visitor())
    thread.join(30)
    saved, presets = scene.state()
    assert scene.saved in saved and presets == before[1] and not scene.touched
    hidden = local_only(scene.app)
    assert {"download", "search_keep", "search_push", "search_dry_run"} <= hidden
    for name in (*hidden, "generate", "compare", "search_delete", "search_replace"):
        assert REFUSED in answers[name], name
    assert "source is ignored" in answers["open"] and "<style>" in answers["furnish"]


@pytest.mark.slow
def test_the_same_calls_do_all_of_it_for_somebody_at_the_machine(scene):
    """Otherwise the test above could not fail."""
    before = scene.state()[1]
    answers = scene.call_all(scene.url, "here", {})
    saved, presets = scene.state()
    assert not saved and presets != before and scene.touched == {"publish", "download", "source"}
    assert all(REFUSED not in answer for answer in answers.values())


def test_somebody_from_elsewhere_stops_and_deletes_what_they_began_and_nothing_else(scene):
    tab, guest = scene.tab, visitor("guest", x_forwarded_for="203.0.113.7")
    thread, _ = in_background(tab, resolution=9, count=25, steps=4)
    until(lambda: tab.runner.running())
    for stranger in (guest, visitor(None), visitor("")):
        tab.stop(stranger)
    assert not tab.runner.running().stopping, "a request without a session is nobody's either"
    tab.stop(visitor())
    thread.join(30)
    for _ in tab.start(guest, settings(tab, bits="w2a8")):
        pass
    own = tab.visit("guest").shown.name
    for _ in tab.start(guest, settings(tab, steps=4)):  # goes on with the owner's: it stays the owner's
        pass
    assert tab.visit("guest").shown.name == scene.saved
    for chosen in ([scene.saved], [own, scene.saved]):
        with pytest.raises(gr.Error, match=REFUSED):
            reports_errors(tab.ask_delete)(guest, chosen)
        tab.visit("guest").to_delete = chosen
        with pytest.raises(gr.Error, match=REFUSED):
            reports_errors(tab.delete)(guest)
    tab.ask_delete(guest, [own])
    tab.delete(guest)
    saved = [search.name for search in tab.searches.list()]
    assert own not in saved and scene.saved in saved


def test_the_source_of_a_saved_search_is_nobodys_who_comes_from_elsewhere(scene):
    scene.tab.visit("guest").shown = scene.tab.visit("owner").shown
    scene.tab.visit("guest").shown.backbone = f"emoji-lcm@{scene.source}"
    with pytest.raises(gr.Error, match=REFUSED):
        reports_errors(scene.tab.use)(visitor("guest", client="10.0.0.9"), False, "naive", "Q-Sched")
    assert not scene.touched


def test_the_endpoint_takes_no_source_from_elsewhere_however_it_is_written(scene):
    (endpoint,) = [fn for fn in scene.app.fns.values() if fn.api_name == "compare"]
    names = [name for name in inspect.signature(endpoint.fn).parameters if name != "request"]
    for given in ({"source": scene.source}, {"backbone": f"emoji-lcm@{scene.source}"}):
        values = {"prompt": "fox", "steps": 1} | given
        data = [values.get(name, block.value) for name, block in zip(names, endpoint.inputs, strict=True)]
        assert REFUSED in scene.call(scene.url, endpoint, "guest", GUEST, data) and not scene.touched


def test_while_the_page_is_shared_nobody_is_known_to_be_at_the_machine(scene):
    (download,) = [fn for fn in scene.app.fns.values() if fn.api_name == "download"]
    data = ["emoji-lcm", ""]
    assert REFUSED not in scene.call(scene.url, download, "here", {}, data) and scene.touched == {"download"}
    scene.app.share = True  # as launch sets it; a tunnel's requests come from 127.0.0.1, like these
    scene.touched.clear()
    assert REFUSED in scene.call(scene.url, download, "here", {}, data) and not scene.touched
