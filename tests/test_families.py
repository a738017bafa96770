"""The real families on tiny random models: our loop draws what the stock diffusers pipeline draws."""

from dataclasses import replace

import diffusers
import pytest
import torch
from embedded_model import grey_levels
from tiny_models import NATIVE, PROMPTS, REAL, fresh, spec_of, tiny

from qsched.hub.source import Source
from qsched.models.devices import half_dtype
from qsched.models.diffusers_folder import load_pipeline
from qsched.models.registry import SPECS
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.loop import Noise, draw_noise, first_prediction, prepare_scheduler, sample

SEED = 7
SIZES = {"native": (NATIVE, NATIVE), "odd": (48, 80), "uneven": (56, 72)}
"""uneven: an odd number of latents, which a U-Net cannot halve."""


def ours(backbone, prompts, steps, coefficients=None, size=(NATIVE, NATIVE), **options):
    """Images (batch, 3, H, W) of prompt i with the seed SEED + i."""
    backbone.resize(*size)
    noise = Noise.join([draw_noise(backbone.latent_shape, SEED + i, [0]) for i in range(len(prompts))])
    latents = sample(backbone, backbone.encode(prompts), noise, steps, coefficients)
    images = backbone.decode(latents, **options)
    backbone.resize(NATIVE, NATIVE)
    return images


def stock(backbone, prompts, steps, size=(NATIVE, NATIVE), **options):
    """The same from the stock pipeline of the family, with the arguments that its authors recommend."""
    pipe, spec = backbone.pipe, backbone.spec
    pipe.scheduler = type(backbone.scheduler).from_config(backbone.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    guidance = {"guidance_scale": 0.0 if spec.guidance is None else spec.guidance}
    if spec.family == "flux":
        guidance["max_sequence_length"] = 256
    backbone.use(steps)
    generators = [torch.Generator().manual_seed(SEED + i) for i in range(len(prompts))]
    call = {"prompt": list(prompts), "num_inference_steps": steps, "height": size[0], "width": size[1]}
    images = pipe(**call, generator=generators, output_type="np", **guidance, **options).images
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def cases():
    for id in REAL:
        few, next, default, many = *SPECS[id].steps[:2], SPECS[id].default_steps, SPECS[id].steps[-1]
        yield from (
            (id, few, 3, "odd"),
            (id, default, 1, "odd"),
            (id, default, 3, "native"),
            (id, many, 1, "native"),
        )
        yield id, next, 3, "odd"
        if SPECS[id].family != "flux":  # its sides are multiples of two latents
            yield id, few, 3, "uneven"


@pytest.mark.parametrize(("id", "steps", "batch", "size"), dict.fromkeys(cases()))
def test_a_image_is_the_stock_pipelines(id, steps, batch, size):
    backbone = tiny(id)
    expected = stock(backbone, PROMPTS[:batch], steps, SIZES[size])
    assert expected.shape == (batch, 3, *SIZES[size])
    assert expected.std() > 0.05, "a flat image proves nothing"
    for coefficients in (None, Coefficients.ramp(1.0, 1.0)):
        images = ours(backbone, PROMPTS[:batch], steps, coefficients, SIZES[size])
        assert grey_levels(images, expected).max() <= 1


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
        ),
    ],
)
@pytest.mark.parametrize("id", ["lcm-dreamshaper-v7", "sdxl-turbo", "flux1-schnell"])
def test_in_half_precision_a_image_is_the_stock_pipelines(id, device):
    dtype = torch.bfloat16 if device == "cpu" else half_dtype(SPECS[id])
    backbone = load_pipeline(spec_of(id), torch.device(device), dtype)
    images = ours(backbone, PROMPTS[:1], 2).cpu()
    backbone.pipe.to(device)
    apart = grey_levels(images, stock(backbone, PROMPTS[:1], 2))
    assert images.std() > 0.05 and apart.mean() <= 1 and apart.max() <= 16, (
        "their rounding is a grey level or two"
    )


@pytest.mark.parametrize("id", REAL)
def test_the_scheduler_and_the_pipeline_are_the_published_ones(id):
    backbone, spec = tiny(id), SPECS[id]
    assert type(backbone.scheduler).__name__ == spec.scheduler
    assert type(backbone.pipe).__name__ == spec.pipeline
    assert all(backbone.scheduler.config[name] == value for name, value in spec.scheduler_config.items())


def differ(one, other):
    return float((grey_levels(one, other) > 1).float().mean())


@pytest.mark.parametrize("id", REAL)
def test_every_condition_reaches_the_image(id):
    backbone, steps = tiny(id), SPECS[id].default_steps
    plain = ours(backbone, PROMPTS[:1], steps)
    assert differ(plain, ours(backbone, ["something else"], steps)) > 0.02
    assert differ(plain, ours(backbone, PROMPTS[:1], steps, Coefficients.constant(1.1, 0.9))) > 0.02
    condition = backbone.encode(PROMPTS[:1])
    if condition.pooled.numel():
        x, t = draw_noise(backbone.latent_shape, 0, [0]).start, torch.tensor(500.0)
        other = replace(condition, pooled=-condition.pooled)
        assert not torch.allclose(backbone.predict(x, t, condition), backbone.predict(x, t, other), atol=1e-4)


def test_the_guidance_of_lcm_is_eight_and_matters():
    backbone = tiny("lcm-dreamshaper-v7")
    strong = ours(backbone, PROMPTS[:1], 4)
    assert differ(strong, _weak(backbone)) > 0.002


def _weak(backbone):
    backbone.spec, spec = replace(backbone.spec, guidance=1.0), backbone.spec
    try:
        return ours(backbone, PROMPTS[:1], 4)
    finally:
        backbone.spec = spec


def test_the_size_condition_of_sdxl_follows_the_image():
    backbone, seen = tiny("sdxl-turbo"), []
    hook = backbone.denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    try:
        ours(backbone, PROMPTS[:2], 1, size=(48, 80))
    finally:
        hook.remove()
    assert seen[0].tolist() == [[48, 80, 0, 0, 48, 80]] * 2


def test_flux_steps_as_its_pipeline_does_with_and_without_shift():
    backbone = tiny("flux1-schnell")
    assert prepare_scheduler(backbone, 4, None).timesteps.tolist() == [1000, 750, 500, 250]
    stretched = fresh("flux1-schnell")
    stretched.scheduler.register_to_config(use_dynamic_shifting=True, shift=3.0)
    expected = stock(stretched, PROMPTS[:1], 3, (48, 80))
    assert grey_levels(ours(stretched, PROMPTS[:1], 3, size=(48, 80)), expected).max() <= 1
    assert differ(expected, ours(backbone, PROMPTS[:1], 3, size=(48, 80))) > 0.02


@pytest.mark.parametrize("id", REAL)
def test_long_prompts_are_reported_and_nothing_is_said_on_stderr(id, capfd):
    backbone = tiny(id)
    tokens = 256 if SPECS[id].family == "flux" else 77
    condition = backbone.encode(
        ["fox", "fox " * (tokens + 10), "", "fox " * ((tokens - 4) // (2 if tokens == 256 else 1) // 3)]
    )
    assert condition.truncated == (False, True, False, False)
    assert condition.embeds.shape[1] == tokens and condition.embeds.isfinite().all()
    captured = capfd.readouterr()
    assert captured.err == "" and captured.out == ""


@pytest.mark.parametrize("id", REAL)
def test_conditions_are_selected_and_joined_in_any_batch(id):
    backbone = tiny(id)
    many = backbone.encode([*PROMPTS] * 6)  # more than are encoded at once
    assert len(many) == 18
    alone = backbone.encode(PROMPTS[1:2])
    picked = many.select([7, 0, 7]).to("cpu")
    assert torch.equal(picked.embeds[0], picked.embeds[2]) and torch.equal(picked.pooled[0], picked.pooled[2])
    torch.testing.assert_close(alone.embeds[0], picked.embeds[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("id", REAL)
def test_sizes_that_cannot_be_drawn_are_refused(id):
    backbone = tiny(id)
    for height, width in ((60, 64), (64, 60), (0, 64)):
        with pytest.raises(ValueError, match=f"multiples of {backbone.grain}"):
            backbone.resize(height, width)
    assert backbone.image == (NATIVE, NATIVE)


@pytest.mark.parametrize("id", REAL)
def test_the_tiny_decoder_draws_from_the_same_latents(id):
    backbone = tiny(id)
    assert backbone.has_tiny_decoder
    steps = SPECS[id].steps[0]
    small = ours(backbone, PROMPTS[:2], steps, tiny=True)
    backbone.pipe.vae, vae = backbone.tiny, backbone.pipe.vae
    try:
        expected = stock(backbone, PROMPTS[:2], steps)
    finally:
        backbone.pipe.vae = vae
    assert grey_levels(small, expected).max() <= 1
    assert differ(small, ours(backbone, PROMPTS[:2], steps)) > 0.5


def test_without_a_tiny_decoder_the_full_one_decodes():
    backbone = fresh("sdxl-turbo", tiny_vae=None)
    assert not backbone.has_tiny_decoder
    assert torch.equal(ours(backbone, PROMPTS[:1], 1, tiny=True), ours(backbone, PROMPTS[:1], 1))


def test_decoding_goes_image_by_image(monkeypatch):
    backbone, batches = tiny("sdxl-turbo"), []
    latents = torch.randn(5, *backbone.latent_shape)
    whole = backbone.decode(latents)
    monkeypatch.setattr("qsched.models.pipeline.DECODED_PIXELS", 2 * NATIVE * NATIVE)
    decode = backbone.pipe.vae.decode
    monkeypatch.setattr(backbone.pipe.vae, "decode", lambda z, **k: batches.append(len(z)) or decode(z, **k))
    sliced = backbone.decode(latents)
    assert batches == [2, 2, 1]
    assert grey_levels(whole, sliced).max() <= 1


def test_the_decoder_of_sdxl_is_kept_in_float32_where_half_precision_gives_black():
    half = load_pipeline(spec_of("sdxl-turbo"), torch.device("cpu"), torch.float16)
    assert (
        half.dtype == torch.float16
        and half.pipe.vae.dtype == torch.float32
        and half.denoiser.dtype == torch.float16
    )
    calm = load_pipeline(spec_of("lcm-dreamshaper-v7"), torch.device("cpu"), torch.float16)
    assert calm.pipe.vae.dtype == torch.float16


def test_sdxl_in_half_precision_draws_no_black_images():
    half = load_pipeline(spec_of("sdxl-turbo"), torch.device("cpu"), torch.float16)
    half.resize(NATIVE, NATIVE)
    vae, latents = half.pipe.vae, torch.randn(1, *half.latent_shape, dtype=torch.float16)
    for tensor in (vae.decoder.conv_in.weight, vae.decoder.conv_in.bias):
        # large activations, as the published decoder has; norms make an image of them again
        tensor.data *= 1e5
    assert half.decode(latents).isfinite().all() and half.decode(latents).std() > 0.05
    torch.nn.Module.to(vae, torch.float16)
    assert not half.decode(latents).isfinite().all(), "and in float16 they would be black"


def test_another_decoder_takes_the_place_of_the_sources_own(tmp_path):
    backbone = tiny("sdxl-turbo")
    other = diffusers.AutoencoderKL.from_config(backbone.pipe.vae.config, force_upcast=False)
    other.save_pretrained(tmp_path)
    loaded = fresh("sdxl-turbo", vae=Source(str(tmp_path)))
    assert loaded.pipe.vae.config.force_upcast is False
    assert torch.equal(loaded.pipe.vae.decoder.conv_in.weight, other.decoder.conv_in.weight)


@pytest.mark.parametrize("id", ["sdxl-turbo", "flux1-schnell"])
def test_bfloat16_draws_nearly_the_same(id):
    half = load_pipeline(spec_of(id), torch.device("cpu"), torch.bfloat16)
    half.resize(NATIVE, NATIVE)
    assert half.encode(PROMPTS[:1]).embeds.dtype == torch.bfloat16
    difference = (ours(half, PROMPTS[:1], 1) - ours(tiny(id), PROMPTS[:1], 1)).abs()
    assert 0 < difference.mean() < 0.05


@pytest.mark.parametrize("id", REAL)
def test_naive_quantization_is_the_stock_loop_on_packed_weights(id):
    backbone, steps = tiny(id), SPECS[id].default_steps
    backbone.use(steps)
    made = backbone.quantized(Quantization("w4a8"))
    noise, condition = draw_noise(backbone.latent_shape, 0, [0]), backbone.encode(PROMPTS[:1])
    first = first_prediction(backbone, condition, noise, steps, made.module)
    naive = sample(backbone, condition, noise, steps, None, made.module)
    assert torch.equal(
        naive, sample(backbone, condition, noise, steps, Coefficients.identity(), made.module, first)
    )
    assert not torch.allclose(naive, sample(backbone, condition, noise, steps), atol=1e-3)
    names = {layer.name for layer in made.report.kept}
    kept = (
        {
            "x_embedder",
            "context_embedder",
            "norm_out.linear",
            "proj_out",
            "time_text_embed.timestep_embedder.linear_1",
        }
        if SPECS[id].family == "flux"
        else {"conv_in", "conv_out", "time_embedding.linear_1", "down_blocks.0.resnets.0.time_emb_proj"}
    )
    assert kept <= names
    assert not any(name.startswith("single_transformer_blocks") or ".attentions." in name for name in names)
