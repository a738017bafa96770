"""The Q-Sched schedulers inside stock diffusers pipelines, by assigning pipe.scheduler (tiny
random models).
"""

import functools
import os
import subprocess
import sys

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    FluxPipeline,
    LatentConsistencyModelPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from stock_schedulers import make, rows, twin_class
from tiny_models import random_transformer, random_unet, random_vae

from qsched.schedulers import QSchedMixin, with_coefficients

C_X, C_EPS, STEPS = [0.85, 1.1], [1.2, 0.9], 4
NO_EXTRAS = {"text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}
# What Stable Diffusion pipelines would otherwise correct in a scheduler's config, with a warning.
SD_SETTINGS = {
    "lcm": {"steps_offset": 1, "clip_sample": False},
    "tcd": {"steps_offset": 1, "clip_sample": False},
    "euler-ancestral": {"steps_offset": 1},
}


def build(name):
    """A stock pipeline with a stock scheduler, and the arguments of one call."""
    torch.manual_seed(0)
    embeds = torch.randn(2, 5, 32)
    call = {"prompt_embeds": embeds, "num_inference_steps": STEPS, "output_type": "np"}
    call |= {"height": 64, "width": 64}
    if name == "flow-match":
        absent = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
        parts = {"vae": random_vae(16, shift_factor=0.0), "transformer": random_transformer()}
        pipe = FluxPipeline(make("flow-match"), **parts, **absent)
        return pipe, call | {"pooled_prompt_embeds": torch.randn(2, 16)}
    pipeline_class, settings = StableDiffusionPipeline, {"cross_attention_dim": 32}
    if name == "lcm":
        pipeline_class, settings["time_cond_proj_dim"] = LatentConsistencyModelPipeline, 4
    else:
        call["negative_prompt_embeds"] = torch.zeros(2, 5, 32)
    if name == "image to image":
        pipeline_class, name = StableDiffusionImg2ImgPipeline, "tcd"
        call = {k: v for k, v in call.items() if k not in ("height", "width")}
        call |= {"image": torch.rand(2, 3, 64, 64), "strength": 0.5}
    parts = {"vae": random_vae(), "unet": random_unet(**settings)}
    parts |= {"scheduler": make(name, **SD_SETTINGS[name]), **NO_EXTRAS}
    return pipeline_class(**parts, requires_safety_checker=False), call


@pytest.fixture(params=["lcm", "tcd", "euler-ancestral", "flow-match", "image to image"])
def pipeline_and_call(request):
    pipe, call = build(request.param)
    pipe.set_progress_bar_config(disable=True)
    return pipe, call


def images(pipe, call):
    generator = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    return torch.from_numpy(pipe(**call, generator=generator).images)


def images_scaled_by_hand(pipe, call, expected, monkeypatch):
    """The stock pipeline and scheduler, the two multiplications done in front of the scheduler's step."""
    scheduler, step = pipe.scheduler, pipe.scheduler.step

    @functools.wraps(step)  # the pipeline looks at the signature to see whether it may pass eta and generator
    def scaled(model_output, timestep, sample, *args, **kwargs):
        c_x, c_eps = expected[scheduler.timesteps.tolist().index(float(timestep))]
        return step(c_eps * model_output, timestep, c_x * sample, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "step", scaled)
        return images(pipe, call)


def test_at_1_the_images_equal_those_of_the_stock_scheduler(pipeline_and_call):
    pipe, call = pipeline_and_call
    plain = images(pipe, call)
    pipe.scheduler = twin_class(pipe.scheduler).from_config(pipe.scheduler.config)
    assert isinstance(pipe.scheduler, QSchedMixin)
    assert torch.equal(images(pipe, call), plain)


def test_the_images_equal_scaling_in_front_of_the_stock_step(pipeline_and_call, monkeypatch):
    pipe, call = pipeline_and_call
    plain = images(pipe, call)
    expected = images_scaled_by_hand(pipe, call, rows(C_X, C_EPS, STEPS), monkeypatch)
    pipe.scheduler = twin_class(pipe.scheduler).from_config(pipe.scheduler.config, c_x=C_X, c_eps=C_EPS)
    assert torch.equal(images(pipe, call), expected)
    assert not torch.equal(expected, plain)


def test_candidates_run_side_by_side_in_a_stock_pipeline(pipeline_and_call):
    pipe, call = pipeline_and_call
    stock = pipe.scheduler
    pipe.scheduler = with_coefficients(
        stock, torch.tensor([[0.9, 1.1]] * STEPS), torch.tensor([[1.1, 0.9]] * STEPS)
    )
    together = images(pipe, call)
    for column, (c_x, c_eps) in enumerate([(0.9, 1.1), (1.1, 0.9)]):
        pipe.scheduler = with_coefficients(stock, c_x, c_eps)
        assert torch.equal(images(pipe, call)[column], together[column])


def test_a_whole_pipeline_is_saved_and_loaded_with_its_coefficients(pipeline_and_call, tmp_path):
    pipe, call = pipeline_and_call
    pipe.scheduler = with_coefficients(pipe.scheduler, C_X, C_EPS)
    expected = images(pipe, call)
    pipe.save_pretrained(tmp_path)
    absent = {name: None for name, part in pipe.components.items() if part is None}
    loaded = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True, **absent)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler).__name__ == type(pipe.scheduler).__name__
    assert type(with_coefficients(loaded.scheduler, 1.1)) is type(pipe.scheduler)
    assert (loaded.scheduler.config.c_x, loaded.scheduler.config.c_eps) == (C_X, C_EPS)
    torch.testing.assert_close(images(loaded, call), expected)


@pytest.mark.slow
def test_a_saved_pipeline_loads_in_a_fresh_process_without_this_package(tmp_path):
    pipe, _ = build("tcd")
    pipe.scheduler = with_coefficients(pipe.scheduler, C_X, C_EPS)
    pipe.save_pretrained(tmp_path / "pipe")
    code = (
        "import sys; sys.modules['qsched'] = None; from diffusers import DiffusionPipeline;"
        "absent = dict.fromkeys(sys.argv[2:]);"
        "pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True, **absent);"
        "pipe.scheduler.set_timesteps(4); pipe.save_pretrained(sys.argv[1] + '-again');"
        "print(type(pipe.scheduler).__name__, pipe.scheduler.config.c_x, pipe.scheduler.config.c_eps)"
    )
    absent = [name for name, part in pipe.components.items() if part is None]
    for folder in (tmp_path / "pipe", tmp_path / "pipe-again"):  # what was loaded so is saved so
        command = [sys.executable, "-W", "ignore", "-c", code, str(folder), *absent]
        environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )
        assert done.stdout.strip() == f"QSchedTCDScheduler {C_X} {C_EPS}", done.stderr
