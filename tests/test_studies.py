"""What is stored of a search: one trial per candidate, claimed by one process, resumed, listed and turned
into presets.
"""

import dataclasses
import sqlite3
import time

import numpy as np
import optuna
import pytest
from embedded_model import PROMPTS, counted, embedded
from sqlalchemy.exc import IntegrityError, OperationalError

from qsched import load_backbone
from qsched.quantization import layers as packed_layers
from qsched.search import saved as saved_module
from qsched.search import study as studies
from qsched.search.options import Candidate, SearchOptions
from qsched.search.run import estimate, search
from qsched.search.saved import delete_search, find_search, load_search, open_study, saved_searches
from qsched.search.strategies.choice import strategy_of
from qsched.search.strategies.gaussian_process import GaussianProcess
from qsched.search.study import Scores, StorageError, Study, open_storage

STEPS = 2
SMALL = SearchOptions("w4a8", PROMPTS, STEPS, resolution=3)
TINY = SearchOptions("w4a8", PROMPTS[:1], 1, resolution=2)
AXIS = (0.8, 1.0, 1.2)
ONE, OTHER = Candidate.pair(0.8, 0.8), Candidate.pair(1.0, 0.8)
DONE = Scores([50.0], [0.5])


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'search.sqlite3'}"


def trials(storage):
    name = optuna.get_all_study_names(storage)[0]
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def study(storage):
    return Study(storage, "study", {"what": "a test"}, (0.8, 1.2), {})


@pytest.mark.parametrize(
    "candidate", [Candidate.pair(1.04, 0.9), Candidate((1.0,) * 12, tuple(1 + i / 100 for i in range(12)))]
)
def test_a_candidate_survives_its_parameters(candidate):
    shuffled = dict(sorted(candidate.params().items()))  # c_x_10 sorts before c_x_2
    assert Candidate.of(candidate.params()) == Candidate.of(shuffled) == candidate


def test_each_point_is_a_trial_with_its_parameters_value_and_scores(storage):
    preset = search(embedded(), SMALL, storage=storage)
    stored = trials(storage)
    assert {(t.params["c_x"], t.params["c_eps"]) for t in stored} == {(x, e) for x in AXIS for e in AXIS}
    for trial in stored:
        i, j = preset.surface.nearest(trial.params["c_x"], trial.params["c_eps"])
        assert trial.user_attrs["alignment"] == preset.surface.alignment[i, j].tolist()
        assert trial.user_attrs["quality"] == preset.surface.quality[i, j].tolist()
        assert trial.value == pytest.approx(preset.surface.jaq(2.0)[i, j])


@pytest.mark.slow
def test_a_search_per_step_stores_one_parameter_per_step(storage):
    search(embedded(), dataclasses.replace(TINY, steps=2, strategy="per-step"), storage=storage)
    names = {tuple(sorted(trial.params)) for trial in trials(storage)}
    assert names == {("c_eps", "c_x"), ("c_eps_0", "c_eps_1", "c_x_0", "c_x_1")}


@pytest.mark.slow
def test_a_search_keeps_to_the_products_that_it_began_with(storage, monkeypatch):
    backbone = fresh_embedded()
    done = []
    options = dict(storage=storage, batch_size=2 * len(PROMPTS))
    search(
        backbone,
        SMALL,
        **options,
        on_progress=lambda progress: done.append(progress),
        stop=lambda: bool(done),
    )
    before = [(trial.params, trial.user_attrs.get("alignment")) for trial in trials(storage)]
    monkeypatch.setattr(packed_layers, "_int_mm_is_exact", lambda: False)
    with pytest.raises(StorageError, match="computed by int8 products, and this machine computes by fake"):
        search(fresh_embedded(), SMALL, **options)
    assert [(trial.params, trial.user_attrs.get("alignment")) for trial in trials(storage)] == before
    monkeypatch.undo()
    whole, at_once = search(fresh_embedded(), SMALL, **options), search(fresh_embedded(), SMALL)
    assert np.array_equal(whole.surface.alignment, at_once.surface.alignment)
    assert np.array_equal(whole.surface.quality, at_once.surface.quality)


def fresh_embedded():
    """A backbone that has not quantized anything yet."""
    return load_backbone("emoji-lcm", device="cpu")


@pytest.mark.slow
def test_a_stopped_search_goes_on_where_it_was(storage):
    done = []
    first = search(
        embedded(),
        SMALL,
        storage=storage,
        batch_size=2 * len(PROMPTS),  # two points per round
        on_progress=lambda progress: done.append(progress.done),
        stop=lambda: bool(done) and done[-1] >= 4,
    )
    assert first.provenance["points_done"] == 4 and np.isfinite(first.surface.jaq()).sum() == 4
    with counted(embedded()) as count:
        whole = search(embedded(), SMALL, storage=storage)
    assert count.calls == len(PROMPTS) + 5 * len(PROMPTS) * (STEPS - 1) and len(trials(storage)) == 9
    assert np.nanmax(np.abs(whole.surface.alignment - first.surface.alignment)) == 0
    assert whole.surface == search(embedded(), SMALL).surface  # interrupted or not: the same numbers
    with counted(embedded()) as count:
        again = search(embedded(), SMALL, storage=storage)
    assert count.calls == 0 and again.surface == whole.surface


@pytest.mark.slow
def test_another_k_of_a_grid_needs_no_image(storage):
    search(embedded(), SMALL, storage=storage)
    with counted(embedded()) as count:
        preset = search(embedded(), dataclasses.replace(SMALL, k=0.0), storage=storage)
    assert count.calls == 0 and preset.provenance["k"] == 0
    assert preset.coefficients == preset.at(*preset.surface.best(0.0)[:2])


@pytest.mark.slow
def test_an_interrupt_keeps_what_is_finished(storage):
    def interrupt(progress):
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(embedded(), SMALL, storage=storage, batch_size=3, on_progress=interrupt)
    assert estimate(embedded(), SMALL, storage=storage).stored == 3
    assert not [trial for trial in trials(storage) if trial.state.name == "RUNNING"]


@pytest.mark.slow
def test_a_finer_grid_reuses_the_points_it_shares(storage):
    coarse = search(embedded(), SMALL, storage=storage)
    with counted(embedded()) as count:
        fine = search(embedded(), dataclasses.replace(SMALL, resolution=5), storage=storage)
    assert count.calls == len(PROMPTS) + (25 - 9) * len(PROMPTS)
    assert np.array_equal(fine.surface.alignment[::2, ::2], coarse.surface.alignment)


@pytest.mark.slow
def test_other_settings_are_another_study_and_fresh_starts_anew(storage):
    for change in (
        {},
        {"seed": 1},
        {"shape": "constant"},
        {"strategy": "exhaustive"},
        {"strategy": "adaptive"},
    ):
        search(embedded(), dataclasses.replace(TINY, **change), storage=storage)
    search(embedded(), TINY, storage=storage, resume=False)
    assert len(optuna.get_all_study_names(storage)) == 6


def test_a_named_study_of_another_search_is_refused(storage):
    search(embedded(), TINY, storage=storage, study_name="mine")
    with pytest.raises(StorageError, match=r"'mine' belongs to another search .*prompts"):
        search(embedded(), dataclasses.replace(TINY, prompts=PROMPTS[1:]), storage=storage, study_name="mine")


def test_saved_searches_are_listed_loaded_and_deleted(storage):
    half = []
    options = dataclasses.replace(SMALL, strategy="adaptive", k=1.0)
    search(embedded(), TINY, storage=storage, study_name="first")
    search(
        embedded(), options, storage=storage, on_progress=lambda p: half.append(1), stop=lambda: bool(half)
    )
    optuna.create_study(storage=storage, study_name="somebody else's")
    listed = {search.options.strategy: search for search in saved_searches(storage)}
    assert set(listed) == {"shared", "adaptive"} and listed["shared"].name == "first"
    assert listed["shared"].done == listed["shared"].total == 4
    partial = listed["adaptive"]
    assert 0 < partial.done < partial.total and partial.options == options.checked(embedded())
    preset = load_search(storage, partial.name)
    assert preset.provenance["k"] == 1 and preset.provenance["points_done"] == partial.done
    assert preset.coefficients == partial.best[0].coefficients("ramp")
    delete_search(storage, "first")
    assert [search.name for search in saved_searches(storage)] == [partial.name]
    with pytest.raises(StorageError, match="holds no such search"):
        load_search(storage, "first")


def test_a_candidate_is_claimed_once(storage):
    one, other = study(storage), study(storage)
    with one.at_work(), other.at_work():
        (claim,) = one.claim([ONE])
        assert other.look().busy == {ONE} and not one.look().busy
        assert [claim.candidate for claim in other.claim([ONE, OTHER])] == [OTHER]
        one.store(claim, DONE, 5.0)
        assert one.look().done == {ONE: DONE} and not other.claim([ONE])
        failing = one.claim([Candidate.pair(1.2, 1.2)])[0]
        one.store(failing, Scores([float("nan")], [0.0]), None)
        assert not other.claim([failing.candidate]) and other.look().done[failing.candidate] == Scores([], [])


def test_released_claims_can_be_claimed_again(storage):
    one, other = study(storage), study(storage)
    one.release(one.claim([ONE]))
    assert not other.look().busy and [claim.candidate for claim in other.claim([ONE])] == [ONE]


def test_the_claims_of_a_process_without_a_heartbeat_are_taken_over(storage, monkeypatch):
    monkeypatch.setattr(studies, "GRACE", 2)  # in the whole seconds of SQLite's clock
    monkeypatch.setattr(studies, "INTERVAL", 0.2)
    sleeping, beating, here = study(storage), study(storage), study(storage)
    (late,) = sleeping.claim([ONE])
    with beating.at_work():
        beating.claim([OTHER])
        assert here.look().busy == {ONE, OTHER}
        wait_for(lambda: ONE not in here.look().busy)
        assert here.look().busy == {OTHER}
    (claim,) = here.claim([ONE])
    sleeping.store(late, Scores([1.0], [0.1]), 0.2)  # it wakes up, too late
    here.store(claim, DONE, 5.0)
    assert here.look().done[ONE] == DONE


def test_a_claim_whose_process_died_before_its_first_heartbeat_is_taken_over(storage, monkeypatch):
    monkeypatch.setattr(studies, "GRACE", 1)
    monkeypatch.setattr(studies, "INTERVAL", 0.2)
    dying, here = study(storage), study(storage)
    monkeypatch.setattr(dying, "_beat", lambda trial: None)
    dying.claim([ONE])
    assert here.look().busy == {ONE}
    wait_for(lambda: not here.look().busy)
    assert [claim.candidate for claim in here.claim([ONE])] == [ONE]


@pytest.mark.slow
@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_a_clock_that_jumps_kills_no_search_and_keeps_no_dead_one_alive(storage, monkeypatch, jump_s):
    monkeypatch.setattr(studies, "GRACE", 2)
    monkeypatch.setattr(studies, "INTERVAL", 0.2)
    ahead, wall = [0], time.time
    now = lambda: time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(wall() + ahead[0]))
    connect = studies._Connection.__init__

    def connected(self, *arguments, **options):
        connect(self, *arguments, **options)
        self.create_function("current_timestamp", 0, now)

    monkeypatch.setattr(studies._Connection, "__init__", connected)
    living, dying, here = study(storage), study(storage), study(storage)
    with living.at_work():
        (claim,) = living.claim([ONE])
        dying.claim([OTHER])
        dying._beat(*dying._claims)
        time.sleep(0.5)  # heartbeats of the time before
        ahead[0] = jump_s
        assert here.look().busy == {ONE, OTHER}
        wait_for(lambda: here.look().busy == {ONE})
        living.store(claim, DONE, 5.0)
    assert here.look().done == {ONE: DONE}


def wait_for(check):
    until = time.monotonic() + 60
    while not check():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "no storage URL"),
        ("sqlite:////nowhere/at/all/x.sqlite3", "unable to open database file"),
        ("postgresql+nodriver://anna:secret@localhost/db", "cannot be used|driver"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_sentence_without_the_password(url, message):
    with pytest.raises(StorageError, match=message) as caught:
        study(url)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_read_only_storage_is_one_sentence(storage):
    open_study(embedded(), SMALL.checked(embedded()), storage)
    path = storage.removeprefix("sqlite:///")
    with pytest.raises(StorageError, match="readonly database") as caught:
        Study(f"sqlite:///file:{path}?mode=ro&uri=true", "new", {}, (0.8, 1.2), {})
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_what_a_saved_search_says_is_computed_once_per_state_of_its_trials(storage, monkeypatch):
    fits, reads = [], []
    fit, read = GaussianProcess.__init__, saved_module.finished
    monkeypatch.setattr(GaussianProcess, "__init__", lambda *args: fits.append(1) or fit(*args))
    monkeypatch.setattr(saved_module, "finished", lambda study: reads.append(1) or read(study))
    half = []
    options = dataclasses.replace(SMALL, strategy="adaptive")
    search(
        embedded(), options, storage=storage, on_progress=lambda p: half.append(1), stop=lambda: bool(half)
    )
    (first,) = saved_searches(storage)
    preset = load_search(storage, first.name)
    fits.clear(), reads.clear()
    for _ in range(3):
        assert saved_searches(storage) == [first] == [find_search(storage, first.name)]
        again = load_search(storage, first.name)
        assert again == preset
        again.provenance.clear()  # what is handed out is nobody else's
    assert not fits and not reads
    checked = options.checked(embedded())
    unfinished = open_study(embedded(), checked, storage)
    missing = [point for point in strategy_of(checked).points if point not in unfinished.look().done]
    (claim,) = unfinished.claim(missing[:1])
    unfinished.store(claim, Scores([50.0] * len(PROMPTS), [0.5] * len(PROMPTS)), 5.0)
    assert find_search(storage, first.name).done == first.done + 1 and reads
    delete_search(storage, first.name)
    assert find_search(storage, first.name) is None


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("CREATE", None, sqlite3.OperationalError("table studies already exists")),
        IntegrityError("INSERT", None, sqlite3.IntegrityError("UNIQUE constraint failed: alembic_version")),
    ],
)
def test_a_storage_whose_tables_another_process_makes_is_opened_a_little_later(storage, monkeypatch, error):
    real, raised = optuna.storages.RDBStorage, []

    def half_made(*where, **how):
        if not raised:
            raised.append(error)
            raise error
        return real(*where, **how)

    monkeypatch.setattr(optuna.storages, "RDBStorage", half_made)
    assert open_storage(storage).get_all_studies() == [] and raised
