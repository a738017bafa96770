"""Searches: the surface is what single runs give, the cost is what it must be, and nothing stored is lost or repeated."""

import numpy as np
import optuna
import pytest
import torch
from embedded_model import PROMPTS, counted, embedded

from qsched import search_job
from qsched.backbones import Quantization
from qsched.presets import load_preset, save_preset
from qsched.sampling import draw_noise, sample
from qsched.search import Plan, SearchError, StorageError, estimate, grid, search
from qsched.studies import Study

STEPS = 2
OPTIONS = dict(steps=STEPS, c_range=(0.8, 1.2), resolution=3)
AXIS = (0.8, 1.0, 1.2)


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'search.sqlite3'}"


@pytest.fixture(scope="module")
def found():
    """One small search with two noise draws per prompt, and what it cost."""
    with counted(embedded()) as count:
        preset = search(embedded(), "w4a8", PROMPTS, seed=7, seeds=2, **OPTIONS)
    return preset, count


def trials(storage):
    name = optuna.get_all_study_names(storage)[0]
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def test_grids_are_even_and_round():
    axis = grid(0.8, 1.2, 11)
    assert axis == (0.8, 0.84, 0.88, 0.92, 0.96, 1.0, 1.04, 1.08, 1.12, 1.16, 1.2)


@pytest.mark.parametrize(
    "bad",
    [
        (1.2, 0.8, 5),
        (1, 1, 5),
        (0, 1, 5),
        (-1, 1, 5),
        (float("nan"), 1, 5),
        (0.8, float("inf"), 5),
        (0.8, 1.2, 1),
        (0.8, 1.2, 2.5),
        (1, 1.0000001, 9),
    ],
)
def test_bad_grids_are_refused(bad):
    with pytest.raises(ValueError, match=r"range|grid"):
        grid(*bad)


@pytest.mark.parametrize("shape", ["ramp", "constant"])
def test_every_cell_is_what_single_runs_give(found, shape):
    backbone = embedded()
    preset = found[0] if shape == "ramp" else search(backbone, "w4a8", PROMPTS, seed=7, seeds=2, shape=shape, **OPTIONS)
    surface, module = preset.surface, backbone.quantized(Quantization("w4a8")).module
    assert surface.c_x == surface.c_eps == AXIS and surface.images == 6 and preset.shape == shape
    for i, j in ((0, 2), (1, 1), (2, 0)):
        coefficients = preset.at(AXIS[j], AXIS[i])
        assert coefficients.shape == shape
        for image in (0, 5):
            seed, prompt = 7 + image // 3, image % 3
            noise = draw_noise(backbone.latent_shape, seed, [prompt])
            latents = sample(backbone, backbone.encode([PROMPTS[prompt]]), noise, STEPS, coefficients, module)
            score = backbone.scorer().score(backbone.decode(latents), [PROMPTS[prompt]])
            # Pictures of other batch sizes differ in single roundings, the other cells by far more.
            single = np.array([float(score.alignment), 100 * float(score.quality)])
            stored = np.stack([surface.alignment[:, :, image], 100 * surface.quality[:, :, image]], axis=-1)
            distance = np.abs(stored - single).sum(axis=-1)
            assert distance[i, j] < 3 and distance[i, j] < 0.5 * np.median(distance)


def test_the_first_prediction_is_computed_once_per_image(found):
    _, count = found
    assert (count.calls, count.full) == (6 + 9 * 6 * (STEPS - 1), 0)


def test_a_one_step_search_calls_the_denoiser_once_per_image():
    with counted(embedded()) as count:
        search(embedded(), "w4a8", PROMPTS, steps=1, resolution=4)
    assert count.calls == len(PROMPTS)


def test_the_preset_holds_the_best_point_and_how_it_came_about(found, tmp_path):
    preset, _ = found
    values = preset.surface.jaq(2.0)
    i, j = np.unravel_index(values.argmax(), values.shape)
    assert preset.coefficients == preset.at(AXIS[j], AXIS[i])
    assert (preset.backbone, preset.bits, preset.steps) == ("emoji-lcm", "w4a8", STEPS) and preset.prompts == PROMPTS
    facts = preset.provenance
    assert preset.revision == embedded().revision and Quantization(preset.bits, **preset.settings) == Quantization(
        "w4a8"
    )
    assert facts["seeds"] == [7, 8] and facts["k"] == 2 and facts["scorer"]["name"] == "emoji-clip"
    assert len(facts["timesteps"]) == STEPS and facts["points"] == facts["points_done"] == 9
    assert {"torch", "diffusers", "optuna", "qsched"} <= set(facts["versions"]) and facts["duration_s"] > 0
    save_preset(preset, tmp_path / "preset.json")
    assert load_preset(tmp_path / "preset.json") == preset


def test_the_best_point_is_the_best_jaq_and_not_the_best_alignment(monkeypatch):
    alignment = iter([[50.0], [20.0], [20.0], [20.0]])
    quality = iter([[0.1], [0.2], [0.9], [0.3]])
    fake = lambda self, points: [(next(alignment), next(quality)) for _ in points]
    monkeypatch.setattr(search_job.Job, "compute", fake)
    preset = search(embedded(), "w4a8", PROMPTS[:1], steps=1, resolution=2)
    assert preset.surface.best(2.0)[:2] == (0.8, 1.2) and preset.surface.best(0.0)[:2] == (0.8, 0.8)


def test_each_point_is_a_trial_with_its_parameters_value_and_scores(storage):
    points = []
    preset = search(embedded(), "w4a8", PROMPTS, storage=storage, on_point=points.append, **OPTIONS)
    stored = trials(storage)
    assert {(t.params["c_x"], t.params["c_eps"]) for t in stored} == {(x, e) for x in AXIS for e in AXIS}
    for trial in stored:
        i, j = preset.surface.nearest(trial.params["c_x"], trial.params["c_eps"])
        assert trial.user_attrs["alignment"] == preset.surface.alignment[i, j].tolist()
        assert trial.user_attrs["quality"] == preset.surface.quality[i, j].tolist()
        assert trial.value == pytest.approx(preset.surface.jaq(2.0)[i, j])
    assert [point.done for point in points] == list(range(1, 10)) and {point.total for point in points} == {9}


def test_a_stopped_search_goes_on_where_it_was(storage, monkeypatch):
    monkeypatch.setattr(search_job, "BATCH", 2 * len(PROMPTS))  # two points per batch
    seen = []
    first = search(
        embedded(), "w4a8", PROMPTS, storage=storage, on_point=seen.append, stop=lambda: len(seen) >= 4, **OPTIONS
    )
    assert first.provenance["points_done"] == 4 and first.surface.summary()["failed"] == 5
    with counted(embedded()) as count:
        whole = search(embedded(), "w4a8", PROMPTS, storage=storage, **OPTIONS)
    assert count.calls == len(PROMPTS) + 5 * len(PROMPTS) * (STEPS - 1) and len(trials(storage)) == 9
    assert (
        np.isfinite(whole.surface.jaq()).all()
        and np.nanmax(np.abs(whole.surface.alignment - first.surface.alignment)) == 0
    )
    with counted(embedded()) as count:
        again = search(embedded(), "w4a8", PROMPTS, storage=storage, **OPTIONS)
    assert count.calls == 0 and again.surface == whole.surface


def test_an_interrupt_keeps_what_is_finished(storage, monkeypatch):
    monkeypatch.setattr(search_job, "BATCH", len(PROMPTS))

    def interrupt(point):
        if point.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(embedded(), "w4a8", PROMPTS, storage=storage, on_point=interrupt, **OPTIONS)
    assert estimate(embedded(), "w4a8", PROMPTS, storage=storage, **OPTIONS).stored == 3


def test_points_of_a_killed_process_are_done_in_the_end(storage):
    job = search_job.Job(embedded(), Quantization("w4a8"), PROMPTS, STEPS, 0, 1, AXIS, "ramp", 2.0)
    abandoned = job.open(storage, None)
    abandoned.claim([(0.8, 0.8), (1.0, 0.8)])  # as kill -9 leaves them: running for ever
    points = []
    preset = search(embedded(), "w4a8", PROMPTS, storage=storage, on_point=points.append, **OPTIONS)
    assert np.isfinite(preset.surface.jaq()).all()
    assert {(point.c_x, point.c_eps) for point in points[-2:]} == {(0.8, 0.8), (1.0, 0.8)}


def test_a_finer_grid_reuses_the_points_it_shares(storage):
    coarse = search(embedded(), "w4a8", PROMPTS, storage=storage, **OPTIONS)
    with counted(embedded()) as count:
        fine = search(embedded(), "w4a8", PROMPTS, storage=storage, **(OPTIONS | {"resolution": 5}))
    assert count.calls == len(PROMPTS) + (25 - 9) * len(PROMPTS)
    assert np.array_equal(fine.surface.alignment[::2, ::2], coarse.surface.alignment)


def test_other_settings_are_another_study_and_fresh_starts_anew(storage):
    small = dict(steps=1, resolution=2, storage=storage)
    for change in ({}, {"seed": 1}, {"k": 1.0}, {"shape": "constant"}, {"resume": False}):
        with counted(embedded()) as count:
            search(embedded(), "w4a8", PROMPTS[:1], **(small | change))
        assert count.calls == 1
    assert len(optuna.get_all_study_names(storage)) == 5


def test_a_named_study_of_another_search_is_refused(storage):
    search(embedded(), "w4a8", PROMPTS[:1], steps=1, resolution=2, storage=storage, study_name="mine")
    with pytest.raises(StorageError, match=r"'mine' belongs to another search .*prompts"):
        search(embedded(), "w4a8", PROMPTS[:2], steps=1, resolution=2, storage=storage, study_name="mine")


def test_a_picture_that_is_not_finite_fails_its_point_for_good(storage):
    options = dict(steps=2, c_range=(1.0, 3e38), resolution=2, storage=storage)
    preset = search(embedded(), "w4a8", PROMPTS[:1], **options)
    failed = ~np.isfinite(preset.surface.jaq())
    assert failed[0, 1] and not failed[0, 0] and preset.surface.best()[:2] == (1.0, 1.0)
    states = {(t.params["c_x"], t.params["c_eps"]): (t.state.name, t.user_attrs.get("failed")) for t in trials(storage)}
    assert states[3e38, 1.0] == ("FAIL", "an image was not finite") and states[1.0, 1.0] == ("COMPLETE", None)
    with counted(embedded()) as count:
        search(embedded(), "w4a8", PROMPTS[:1], **options)
    assert count.calls == 0


def test_a_search_without_any_finite_point_says_so():
    with pytest.raises(SearchError, match="no point with finite images"):
        search(embedded(), "w4a8", PROMPTS[:1], steps=2, c_range=(1e38, 3e38), resolution=2)


def test_out_of_memory_halves_the_batch(monkeypatch):
    real, sizes = search_job.sample_candidates, []

    def limited(*args):
        sizes.append(args[-1])
        if args[-1] > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args)

    monkeypatch.setattr(search_job, "sample_candidates", limited)
    preset = search(embedded(), "w4a8", PROMPTS[:1], steps=1, resolution=2)
    assert sizes == [64, 32, 16] and np.isfinite(preset.surface.jaq()).all()


def test_an_estimate_counts_what_the_search_will_do(found, storage):
    plan = estimate(embedded(), "w4a8", PROMPTS, seed=7, seeds=2, **OPTIONS)
    assert isinstance(plan, Plan) and (plan.points, plan.stored, plan.images) == (9, 0, 54)
    assert plan.calls == found[1].calls and plan.seconds == pytest.approx(plan.images / plan.images_per_second)
    search(embedded(), "w4a8", PROMPTS, storage=storage, **OPTIONS)
    rest = estimate(embedded(), "w4a8", PROMPTS, storage=storage, **OPTIONS)
    assert (rest.stored, rest.images, rest.calls, rest.seconds) == (9, 0, 0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(prompts=[]), "at least one prompt"),
        (dict(prompts=["fox", "  "]), "none of them empty"),
        (dict(steps=9), "1 to 8 steps, not 9"),
        (dict(shape="ends"), "shape"),
        (dict(seeds=0), "seeds"),
        (dict(seed=-1), "seeds"),
        (dict(k=float("nan")), "k must be"),
        (dict(bits="w1a1"), "1"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_computed(change, message):
    with counted(embedded()) as count, pytest.raises(ValueError, match=message):
        search(**(dict(backbone=embedded(), bits="w4a8", prompts=PROMPTS, **OPTIONS) | change))
    assert count.calls == 0


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
        Study(url, "name", {}, 0.8, 1.2)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_left_alone(tmp_path):
    path = tmp_path / "notes.sqlite3"
    path.write_text("not a database, but mine " * 100)
    with pytest.raises(StorageError, match="not a database"):
        search(embedded(), "w4a8", PROMPTS[:1], steps=1, resolution=2, storage=f"sqlite:///{path}")
    assert path.read_text() == "not a database, but mine " * 100
