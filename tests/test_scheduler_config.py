"""The Q-Sched schedulers as configs: saving, loading, converting, refusing, and lifting the file out."""

import copy
import inspect
import math
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from diffusers.utils import hub_utils
from stock_schedulers import FAMILIES, assert_same, make, rows, trajectory, twin_class

from qsched import schedulers
from qsched.schedulers import with_coefficients


@pytest.fixture(params=FAMILIES)
def stock(request):
    return make(request.param)


def test_signatures_are_the_stock_ones_plus_the_coefficients(stock):
    twin = twin_class(stock)
    for name in ("step", "set_timesteps"):
        assert inspect.signature(getattr(twin, name)) == inspect.signature(getattr(type(stock), name))
    ours = inspect.signature(twin.__init__).parameters
    theirs = inspect.signature(type(stock).__init__).parameters
    assert {name: ours[name] for name in theirs} == dict(theirs)
    assert set(ours) - set(theirs) == {"c_x", "c_eps"}


@pytest.mark.parametrize(
    "c_x", [1.0, 1, 1.07, [0.9, 1.0], (0.9, 1.0), [1.0, 1.1, 0.9, 1.0], np.float32(1.5), np.ones(3)]
)
def test_save_and_load_keeps_the_coefficients_and_every_stock_setting(stock, tmp_path, c_x):
    scheduler = twin_class(stock).from_config(stock.config, c_x=c_x, c_eps=[0.92, 1.0])
    scheduler.save_pretrained(tmp_path)
    loaded = twin_class(stock).from_pretrained(tmp_path)
    expected = np.asarray(c_x).tolist()
    assert loaded.config.c_x == scheduler.config.c_x == expected and loaded.config.c_eps == [0.92, 1.0]
    visible = {k: v for k, v in stock.config.items() if not k.startswith("_")}
    assert {k: loaded.config[k] for k in visible} == visible
    assert set(loaded.config) - set(visible) - {"c_x", "c_eps"} <= {
        "_class_name",
        "_diffusers_version",
        "_use_default_values",
    }


def test_from_config_keeps_the_coefficients_unless_told_otherwise(stock):
    scheduler = with_coefficients(stock, [0.9, 1.0], 1.1)
    again = type(scheduler).from_config(scheduler.config)
    assert (again.config.c_x, again.config.c_eps) == ([0.9, 1.0], 1.1)
    changed = type(scheduler).from_config(scheduler.config, c_eps=1.2)
    assert (changed.config.c_x, changed.config.c_eps) == ([0.9, 1.0], 1.2)
    assert (scheduler.config.c_x, scheduler.config.c_eps) == ([0.9, 1.0], 1.1)


def test_coefficients_set_later_are_saved_too(stock, tmp_path):
    scheduler = with_coefficients(stock)
    scheduler.set_coefficients([0.9, 1.0], 1.0)
    scheduler.save_pretrained(tmp_path)
    loaded = type(scheduler).from_pretrained(tmp_path)
    assert (loaded.config.c_x, loaded.config.c_eps) == ([0.9, 1.0], 1.0)


def test_a_stock_config_with_foreign_keys_is_accepted(stock):
    config = {**DDIMScheduler(beta_end=0.013).config, **stock.config, "skip_prk_steps": True, "unknown": 3}
    scheduler = twin_class(stock).from_config(config, c_x=1.1)
    assert scheduler.config.c_x == 1.1 and scheduler.config.unknown == 3
    assert_same(trajectory(scheduler, 4), trajectory(stock, 4, rows=rows(1.1, 1.0, 4)))


def test_a_qsched_config_loads_into_the_stock_class_and_back(stock, tmp_path):
    scheduler = with_coefficients(stock, 1.1, [0.9, 1.0])
    scheduler.save_pretrained(tmp_path)
    for plain in (type(stock).from_config(scheduler.config), type(stock).from_pretrained(tmp_path)):
        assert type(plain) is type(stock)
        assert_same(trajectory(plain, 4), trajectory(stock, 4))
        back = twin_class(stock).from_config(plain.config)
        assert (back.config.c_x, back.config.c_eps) == (1.1, [0.9, 1.0])


def test_push_to_hub_uploads_the_coefficients(stock, tmp_path, monkeypatch):
    class Card:
        def save(self, path):
            pass

    def upload(folder_path, **_):
        shutil.copytree(folder_path, tmp_path / "hub")

    monkeypatch.setattr(hub_utils, "create_repo", lambda repo_id, **_: type("Repo", (), {"repo_id": repo_id}))
    monkeypatch.setattr(hub_utils, "load_or_create_model_card", lambda *_, **__: Card())
    monkeypatch.setattr(hub_utils, "populate_model_card", lambda card: card)
    monkeypatch.setattr(hub_utils, "upload_folder", upload)
    with_coefficients(stock, 1.1, [0.9, 1.0]).push_to_hub("someone/scheduler")
    loaded = twin_class(stock).from_pretrained(tmp_path / "hub")
    assert (loaded.config.c_x, loaded.config.c_eps) == (1.1, [0.9, 1.0])


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["copy", "pickle"]
)
def test_copies_are_independent(stock, duplicate):
    scheduler = with_coefficients(stock, torch.full((4, 3), 1.1), [0.9, 1.0])
    twin = duplicate(scheduler)
    scheduler.set_coefficients(2.0, 2.0)
    assert_same(trajectory(twin, 4), trajectory(stock, 4, rows=rows(1.1, [0.9, 1.0], 4)))


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ("1.0", "c_eps must be a number or a list of numbers, but '1.0' is neither"),
        ([], "c_eps is empty"),
        (math.nan, "c_eps must be finite and greater than 0, but it holds nan"),
        ([1.0, -1.0], "c_eps must be finite and greater than 0, but it holds -1"),
        (0.0, "c_eps must be finite and greater than 0, but it holds 0"),
        (None, "c_eps must be a number"),
        (torch.ones(2, 2, 2), "c_eps must have the shape"),
    ],
)
def test_bad_values_are_refused_at_once_and_change_nothing(stock, bad, sentence):
    twin = twin_class(stock)
    with pytest.raises(ValueError, match=sentence):
        twin(c_eps=bad)
    with pytest.raises(ValueError, match=sentence):
        twin.from_config(stock.config, c_eps=bad)
    scheduler = with_coefficients(stock, torch.full((4,), 1.1), 0.9)
    with pytest.raises(ValueError, match=sentence):
        scheduler.set_coefficients(1.5, bad)
    assert_same(trajectory(scheduler, 4), trajectory(stock, 4, rows=rows(1.1, 0.9, 4)))


# with_coefficients


def test_with_coefficients_makes_a_new_twin_with_the_same_config(stock):
    twin = with_coefficients(stock, 1.1, [0.9, 1.0])
    assert type(twin) is twin_class(stock) and isinstance(twin, type(stock))
    assert twin.config.c_x == 1.1 and twin.config.c_eps == [0.9, 1.0]
    assert not hasattr(stock.config, "c_x")
    plain = with_coefficients(twin)
    assert type(plain) is type(twin) and (plain.config.c_x, plain.config.c_eps) == (1.0, 1.0)


@pytest.mark.parametrize("unsupported", [DDIMScheduler(), type("MyLCM", (LCMScheduler,), {})(), None])
def test_with_coefficients_lists_what_it_supports(unsupported):
    with pytest.raises(TypeError) as error:
        with_coefficients(unsupported, 1.1, 0.9)
    assert type(unsupported).__name__ in str(error.value)
    assert all(scheduler_class.__name__ in str(error.value) for scheduler_class, _ in FAMILIES.values())


# The file on its own


@pytest.mark.slow
def test_the_file_can_be_lifted_out(tmp_path):
    shutil.copy(schedulers.__file__, tmp_path / "lifted.py")
    code = (
        "import sys, lifted; s = lifted.QSchedTCDScheduler(c_x=[1.1, 1.0]); s.set_timesteps(4);"
        "assert s.config.c_x == [1.1, 1.0]; assert 'qsched' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
