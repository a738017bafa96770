"""Publishing a scheduler: what is pushed, that it works when it is loaded back, and every refusal in one
sentence.
"""

import json
import time

import numpy as np
import pytest
import yaml
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler
from embedded_model import make_preset
from fake_hub import connected, unused_port
from huggingface_hub import constants

from qsched.export.model_card import model_card
from qsched.export.publish import PublishError, publish
from qsched.hub.fetch import fetch
from qsched.hub.source import Source
from qsched.models.registry import SPECS
from qsched.presets import Preset, find_preset, save_preset
from qsched.sampling.coefficients import Coefficients
from qsched.schedulers import QSchedLCMScheduler
from qsched.surfaces.surface import Surface

REPO = "me/qsched-test"
FILES = ("README.md", "scheduler_config.json", "schedulers.py")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with connected(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def small(**changes):
    """A preset of a backbone that is on the Hub."""
    surface = Surface((0.9, 1.1), (0.9, 1.1), np.ones((2, 2, 2)), np.ones((2, 2, 2)))
    fields = dict(
        backbone="far", revision="abc123", bits="w4a4", steps=4, shape="ramp",
        coefficients=Coefficients.ramp(1.07, 0.92),
        surface=surface, prompts=["a secret prompt", "another | one"], settings={"group_size": 64},
    )  # fmt: skip
    return Preset(**fields | changes)


def header_and_text(card):
    _, header, text = card.split("---\n", 2)
    return yaml.safe_load(header), text


def test_what_is_pushed_works_when_it_is_loaded_back(hub, monkeypatch, tmp_path):
    preset = find_preset("emoji-lcm", "w4a8", 4)
    published = publish(preset, LCMScheduler(), REPO)
    assert published == (f"{hub.address}/{REPO}", FILES)
    repository = hub.repositories[REPO]
    assert sorted(repository.files) == list(FILES) and not repository.private
    assert repository.summary == "Q-Sched scheduler for emoji-lcm, w4a8, 4 steps"
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    for where in (REPO, fetch(Source(REPO))):
        scheduler = QSchedLCMScheduler.from_pretrained(where, cache_dir=tmp_path / "diffusers")
        scheduler.set_timesteps(4)
        assert Coefficients(scheduler.config.c_x, scheduler.config.c_eps) == preset.coefficients
        assert not preset.coefficients.is_identity and len(scheduler.timesteps) == 4


def test_a_second_push_updates_the_repository(hub):
    publish(small(), LCMScheduler(), REPO)
    publish(small(coefficients=Coefficients.constant(1.5, 0.5)), LCMScheduler(), REPO, private=True)
    config = json.loads(hub.repositories[REPO].files["scheduler_config.json"])
    assert (config["c_x"], config["c_eps"]) == (1.5, 0.5) and not hub.repositories[REPO].private


def test_private_and_token(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    publish(small(), LCMScheduler(), REPO, private=True, token="hf_right")
    assert hub.repositories[REPO].private
    assert b"a secret prompt" not in b"".join(hub.repositories[REPO].files.values())


def test_a_dry_run_touches_no_network(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert publish(small(), LCMScheduler(), REPO, dry_run=True) == (f"{hub.address}/{REPO}", FILES)
    assert not hub.requests


# the card


def test_the_card_tells_all_that_matters(monkeypatch):
    preset = find_preset("emoji-lcm", "w4a8", 4)
    header, text = header_and_text(model_card(preset, "QSchedLCMScheduler", "With the qsched package"))
    assert (
        header["license"] == "apache-2.0"
        and header["library_name"] == "diffusers"
        and "base_model" not in header
    )
    assert {"qsched", "quantization", "w4a8"} <= set(header["tags"])
    score = lambda row, metric: "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**row[metric])
    column, found = preset.held_out["columns"]["Q-Sched"], preset.provenance
    prompts, seeds = (len(preset.held_out[of]) for of in ("prompts", "seeds"))
    for told in (
        "These coefficients fit one denoiser",
        f"| c_x | {preset.coefficients.to_dict()['c_x']} |",
        "| steps | 4 |",
        "| bit-width | w4a8 (activation_scale token, scope all, keep_high_precision True, method plain) |",
        "| scorer | emoji-clip: CLIPScore",
        f"| calibration | {len(preset.prompts)} prompts, {len(found['seeds'])} noise seeds each |",
        f"| search | {found['strategy']}, {found['points_done']} points |",
        "| JAQ | CLIPScore | CLIP-IQA | SSIM |",
        f"| Q-Sched | {score(column, 'jaq')} | {score(column, 'alignment')}",
        f"| Q-Sched - naive (paired) | {score(preset.held_out['differences']['Q-Sched - naive'], 'jaq')}",
        f"{prompts} prompts x {seeds} noise seeds that the search never saw",
    ):
        assert told in text, told


def test_the_card_of_a_model_on_the_hub(hub, monkeypatch):
    spec = SPECS["emoji-lcm"]
    monkeypatch.setitem(
        SPECS, "far", type(spec)(**vars(spec) | {"id": "far", "title": "Far", "source": "org/model"})
    )
    publish(small(), FlowMatchEulerDiscreteScheduler(), REPO)
    header, text = header_and_text(hub.repositories[REPO].files["README.md"].decode())
    assert header["base_model"] == "org/model" and "# Q-Sched scheduler for Far, w4a4, 4 steps" in text
    assert (
        "DiffusionPipeline.from_pretrained('org/model')" in text
        and "quantize(pipe.transformer, 'w4a4'" in text
    )
    assert text.count(f"QSchedFlowMatchEulerDiscreteScheduler.from_pretrained('{REPO}')") == 2
    assert (
        "this folder" not in text
        and "held-out" not in text
        and "that of org/model, revision `abc123`" in text
    )


@pytest.mark.parametrize(
    "held_out",
    [
        {"naive": {"jaq": [1, 2]}},
        {"columns": {"naive": 3}},
        {"columns": {"naive": {"jaq": 3}}},
        {"columns": []},
    ],
)
def test_foreign_held_out_results_are_left_out(held_out):
    assert "held-out" not in model_card(small(held_out=held_out), "X", "")


def test_estimates_without_an_interval_are_shown_without():
    held_out = {
        "columns": {"naive": {"jaq": {"mean": 1.0, "low": None, "high": None}}},
        "prompts": ["a"],
        "seeds": [1],
    }
    assert "| naive | 1.000 |" in model_card(small(held_out=held_out), "X", "")


# refusals


def fails(*arguments, **options):
    begin = time.monotonic()
    with pytest.raises(PublishError) as caught:
        publish(*arguments, **options)
    assert time.monotonic() - begin < 10
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


@pytest.mark.parametrize("repo", ["name", "me/", "a/b/c", "me/a b", "me/..", "", "me/x--y", "me/x.git"])
def test_names_that_the_hub_does_not_take(hub, repo):
    assert "give OWNER/NAME" in fails(small(), LCMScheduler(), repo) and not hub.requests


def test_an_unsupported_scheduler_is_refused_first(hub):
    with pytest.raises(TypeError, match="DDIMScheduler"):
        publish(small(), DDIMScheduler(), REPO)
    assert not hub.requests


def test_without_a_token(hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "not logged in to the Hub: log in with `hf auth login`" in fails(small(), LCMScheduler(), REPO)


def test_with_a_wrong_token_and_without_permission(hub):
    assert "does not accept your token" in fails(small(), LCMScheduler(), REPO, token="hf_wrong")
    assert "You may not write to you/model" in fails(small(), LCMScheduler(), "you/model")
    assert not hub.repositories


def test_offline(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "cannot be pushed offline" in fails(small(), LCMScheduler(), REPO)


AT_EVERY_STEP = [
    (at, fault, words)
    for at in ("create", "preupload", "commit")
    for fault, words in ((403, "may not write"), ("hang", "does not answer; try again later."))
]


@pytest.mark.parametrize(
    ("at", "fault", "words"), [("create", 500, "problem of its own (status 500)"), *AT_EVERY_STEP]
)
def test_a_hub_that_fails_on_the_way(hub, at, fault, words):
    hub.fault = lambda kind, path: fault if at in path else None
    assert words in fails(small(), LCMScheduler(), REPO, timeout=1.5)
    hub.fault = None
    assert publish(small(), LCMScheduler(), REPO).files == FILES


@pytest.mark.parametrize("at", ["preupload", "commit"])
def test_a_hub_that_stumbles_is_asked_again(hub, at):
    faults = iter([503])
    hub.fault = lambda kind, path: next(faults, None) if at in path else None
    assert publish(small(), LCMScheduler(), REPO).files == FILES and not list(faults)


@pytest.mark.slow
def test_a_hub_that_goes_away_on_the_way(hub):
    def gone(kind, path):
        if "preupload" in path:
            hub.server.server_close()
            return "hang up"

    hub.fault = gone
    assert "does not answer; try again later." in fails(small(), LCMScheduler(), REPO, timeout=3)


def test_a_hub_that_is_not_there(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused_port()}")
    assert "cannot be reached: Connection refused" in fails(small(), LCMScheduler(), REPO)


# the command


@pytest.fixture
def preset_file(tmp_path):
    save_preset(make_preset(), tmp_path / "w4a8.json")
    return tmp_path / "w4a8.json"


def test_export_pushes(line, hub, preset_file, tmp_path):
    data = line.ok("export", "--preset", preset_file, "--push", REPO, "--private", "--dry-run")["published"]
    assert data["dry_run"] and data["files"] == list(FILES) and not hub.requests
    status, out, err = line.run("export", "--preset", preset_file, "--push", REPO, "--private")
    assert (status, err) == (0, "") and f"are published at {hub.address}/{REPO}." in out
    assert hub.repositories[REPO].private
    both = line.ok("export", "--preset", preset_file, "--push", REPO, "--out", tmp_path / "out")
    assert both["published"]["url"].endswith(REPO) and (tmp_path / "out" / "scheduler_config.json").is_file()


def test_export_refuses_in_one_line(line, hub, preset_file):
    assert "--out is missing" in line.fails("export", "--preset", preset_file)
    assert "there is no --push" in line.fails("export", "--preset", preset_file, "--out", "x", "--dry-run")
    assert "OWNER/NAME" in line.fails("export", "--preset", preset_file, "--push", "name", "--dry-run")
    hub.fault = 500
    assert "problem of its own" in line.fails("export", "--preset", preset_file, "--push", REPO)
