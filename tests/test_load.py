"""The page under the load of a few visitors at once; tests/bench/load.py measures the app with many."""

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
from browser_app import NEEDS_BROWSER, serving, tiny_backbone, write_preset
from test_browser_state import SLOW

from qsched.server.engine import Engine

sys.path.append(str(Path(__file__).parent / "bench"))
import load

pytestmark = NEEDS_BROWSER


def test_visitors_get_their_own_images_in_their_turn_while_a_search_goes_on(tmp_path, monkeypatch):
    write_preset(tmp_path)
    monkeypatch.setattr(SLOW, "seconds", 0.02)
    monkeypatch.setattr(load, "WARM_S", 1)
    options = SimpleNamespace(sessions=6, browsers=1, seconds=15)
    with serving(tmp_path, load=SLOW) as (url, _):
        result, seen = asyncio.run(load.loaded(url, psutil.Process(), options))
    assert not result["errors"] and result["drags"] >= 5 and result["generated"] >= 5
    assert result["images"] == 6 and not load.unlike(seen, Engine(load=tiny_backbone, presets=tmp_path))
    assert result["highest_queue_position"] > 1 and result["search_points"] > 0
