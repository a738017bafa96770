"""Hostile input: every endpoint gets values of all kinds, and answers soon, without a traceback, and without
touching what is not its own.
"""

import builtins
import gc
import os
import time
import traceback

import pytest
from browser_app import SLOW, tiny_backbone, write_preset
from http_events import send
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qsched.server.engine import Engine
from qsched.ui.page import build_app

SECRET = "nobody-may-look"
LONGEST_S = 5.0
"""Of work: a busy machine is no fault."""
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0, -1, 1e308, 2**31, 0.1, True]),
)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        ["", "a fox", "<script>alert(1)</script>", "\x00", "../" * 9 + "etc/passwd", "%s%n", "w4a8" * 500,
         "emoji-lcm@/etc", "sdxl-turbo", "naive", "x" * 20_000, "{SECRET}", "file://{SECRET}", "1e999"]
    ),
)  # fmt: skip
FILES = st.builds(lambda path: {"path": path, "meta": {"_type": "gradio.FileData"}}, TEXTS)
JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, FILES),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
LONG_WORK = ("search_start", "search_cost")
"""With what the page sends they compute for longer; with junk they refuse."""


class Target:
    """A served page with somebody's session on it; looked: whether a path outside was looked at."""

    def __init__(self, folder):
        self.secret, self.looked = folder / SECRET, []
        self.secret.mkdir()
        (self.secret / "model_index.json").write_text("{}")
        write_preset(folder / "presets")
        self.engine = Engine(load=tiny_backbone, presets=folder / "presets")
        self.app = build_app(engine=self.engine, searches=str(folder / "s.sqlite3"))
        _, self.url, _ = self.app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
        self.engine.compare("somebody", "emoji-lcm", *self.engine.opening())
        self.fns = [fn for fn in self.app.fns.values() if fn.fn is not None]

    def watched(self, function):
        def watch(place=".", *args, **options):
            if isinstance(place, str | os.PathLike) and SECRET in str(place):
                stack = "".join(traceback.format_stack(limit=12))
                if "processing_utils.py" not in stack:  # gradio looks at a path before it refuses it
                    self.looked.append(stack)
            return function(place, *args, **options)

        return watch


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        made = Target(tmp_path_factory.mktemp("fuzz"))
        for place, name in ((os, "stat"), (os, "scandir"), (os, "listdir"), (builtins, "open")):
            patch.setattr(place, name, made.watched(getattr(place, name)))
        yield made
        made.app.close(verbose=False)


def attack(target, capfd, caplog, data):
    fn = target.fns[data.draw(st.integers(0, len(target.fns) - 1), label="endpoint")]
    usual = [getattr(block, "value", None) for block in fn.inputs]
    kept = st.just(False) if fn.api_name in LONG_WORK else st.booleans()
    values = [value if data.draw(kept) else data.draw(JUNK) for value in usual]
    values = values[: data.draw(st.integers(0, len(values)))] if data.draw(st.integers(0, 9)) == 0 else values
    session = data.draw(st.sampled_from(["stranger", "<b>", "../x", "a" * 300]), label="session")
    values = filled(values, str(target.secret))
    before = target.engine.session("somebody")
    answer, took, busy = asked(target, fn, values, session)
    looked, target.looked[:] = "\n".join(target.looked), []
    written = [*capfd.readouterr(), caplog.text]
    caplog.clear()
    told = f"{fn.api_name} {values!r}"
    assert busy < LONGEST_S and took < SLOW / 1000, f"{busy:.1f} s of work, {took:.1f} s in all: {told}"
    assert answer and "Not Found" not in answer, told
    for text in (answer, *written):
        assert "Traceback" not in text, told
        assert str(target.secret) not in text or str(target.secret) in told, "a path that nobody named"
    assert not looked, told + looked
    assert target.engine.session("somebody") is before, told


def asked(target, fn, values, session):
    """The answer, with the seconds it took and those of work in the whole process, but for collecting the
    garbage of thousands of cases."""
    headers = {"host": "example.org", "x-forwarded-for": "10.0.0.9"}
    gc.disable()
    begin, used = time.monotonic(), time.process_time()
    try:
        answer = send(target.url, fn, values, session, headers)
        return answer, time.monotonic() - begin, time.process_time() - used
    finally:
        gc.enable()


def filled(value, secret):
    """The value with the path of a folder that nobody may look at in it."""
    if isinstance(value, str):
        return value.replace("{SECRET}", secret)
    if isinstance(value, list):
        return [filled(part, secret) for part in value]
    return {key: filled(part, secret) for key, part in value.items()} if isinstance(value, dict) else value


def cases(count):
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    bounds = settings(max_examples=count, deadline=None, suppress_health_check=quiet, derandomize=True)
    return lambda test: bounds(given(data=st.data())(test))


@cases(300)
def test_hostile_values_are_answered_soon_and_touch_nothing(target, capfd, caplog, data):
    attack(target, capfd, caplog, data)


@pytest.mark.slow
@cases(10_000)
def test_ten_thousand_hostile_values(target, capfd, caplog, data):
    attack(target, capfd, caplog, data)
