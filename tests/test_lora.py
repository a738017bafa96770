"""LoRA adapters fused into the weights: the same as running them beside the layers, and one for each step
count.
"""

import weakref
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_models import PROMPTS, folder_of, fresh, lora_of, lora_weights

from qsched.hub.source import BackboneError
from qsched.models.lora import fuse_lora
from qsched.quantization import Quantization, quantize
from qsched.sampling.loop import draw_noise, sample

PIPELINES = {"pcm-sd15": StableDiffusionPipeline, "pcm-sdxl": StableDiffusionXLPipeline}
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"


def base(id):
    return (
        UNet2DConditionModel.from_pretrained(folder_of(id) / "unet", variant="fp16")
        .eval()
        .requires_grad_(False)
    )


def beside(unet, state):
    """The U-Net with the adapters run beside its layers, as they were trained."""
    layers = {name.replace(".", "_"): layer for name, layer in unet.named_modules()}

    def adapted(layer, args, output, down, up, scale):
        if down.ndim == 2:
            return output + scale * (args[0] @ down.T @ up.T)
        inner = torch.nn.functional.conv2d(args[0], down, stride=layer.stride, padding=layer.padding)
        return output + scale * torch.nn.functional.conv2d(inner, up)

    for key in {name.split(".")[0] for name in state}:
        down, up = state[f"{key}.lora_down.weight"], state[f"{key}.lora_up.weight"]
        scale = float(state[f"{key}.alpha"]) / len(down)
        hook = lambda layer, args, output, d=down, u=up, s=scale: adapted(layer, args, output, d, u, s)
        layers[key.removeprefix("lora_unet_")].register_forward_hook(hook)
    return unet


def call(unet, id):
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=generator)
    added = {"text_embeds": draw(1, 16), "time_ids": torch.ones(1, 6)} if id == "pcm-sdxl" else None
    inputs = draw(1, 4, 8, 8), 400, draw(1, 77, unet.config.cross_attention_dim)
    return unet(*inputs, added_cond_kwargs=added, return_dict=False)[0]


@pytest.mark.parametrize("id", PIPELINES)
def test_fused_is_the_adapters_run_beside_the_layers(id):
    lora = lora_of(id)
    file = Path(lora.repo) / lora.files[1]
    state, fused = load_file(file), base(id)
    layers = fuse_lora(fused, file, PIPELINES[id])
    assert layers == len(state) / 3 > 50
    expected = call(beside(base(id), state), id)
    torch.testing.assert_close(call(fused, id), expected, atol=1e-4, rtol=1e-4)
    assert (call(base(id), id) - expected).abs().mean() > 0.01


def test_weights_in_half_precision_are_rounded_once(tmp_path):
    unet, state = base("pcm-sd15"), lora_weights(base("pcm-sd15"), 0)
    save_file(state, tmp_path / "lora.safetensors")
    half = base("pcm-sd15").half()
    fuse_lora(unet, tmp_path / "lora.safetensors", StableDiffusionPipeline)
    fuse_lora(half, tmp_path / "lora.safetensors", StableDiffusionPipeline)
    assert all(torch.equal(a.half(), b) for a, b in zip(unet.parameters(), half.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda state: state | {f"{TEXT}.lora_{side}.weight": torch.ones(4, 4) for side in ("down", "up")},
            "else than",
        ),
        (
            lambda state: {k.replace("down_blocks_1", "down_blocks_7"): v for k, v in state.items()},
            "is missing or",
        ),
        (
            lambda state: {k: v[:, :3] if "to_q.lora_down" in k else v for k, v in state.items()},
            "another shape",
        ),
        (lambda state: {k: v for k, v in state.items() if "conv1.lora_up" not in k}, "cannot be read"),
        (lambda state: {"a": torch.ones(1)}, "else than"),
    ],
    ids=["text encoder", "foreign layer", "foreign shape", "half a pair", "no adapter"],
)
def test_foreign_adapters_change_nothing(tmp_path, change, says):
    file = tmp_path / "lora.safetensors"
    save_file({k: v.contiguous() for k, v in change(lora_weights(base("pcm-sd15"), 0)).items()}, file)
    unet, before = base("pcm-sd15"), [p.clone() for p in base("pcm-sd15").parameters()]
    with pytest.raises(BackboneError, match=says):
        fuse_lora(unet, file, StableDiffusionPipeline)
    assert all(torch.equal(a, b) for a, b in zip(before, unet.parameters(), strict=True))


@pytest.mark.slow
def test_each_step_count_has_its_own_weights():
    backbone = fresh("pcm-sd15")
    assert backbone.lora.endswith("pcm_sd15_smallcfg_4step_converted.safetensors")
    four, made = backbone.denoiser, backbone.quantized(Quantization("w4a8"))
    condition, noise = backbone.encode(PROMPTS[:1]), draw_noise(backbone.latent_shape, 0, [0])
    images = {steps: backbone.decode(sample(backbone, condition, noise, steps)) for steps in (4, 2, 4)}
    assert backbone.lora == backbone.spec.lora_file(4) and backbone.pipe.unet is backbone.denoiser
    assert backbone.denoiser is not four  # loaded anew, equal in every bit
    assert all(
        torch.equal(a, b) for a, b in zip(four.parameters(), backbone.denoiser.parameters(), strict=True)
    )
    assert not torch.allclose(images[2], images[4], atol=0.02)
    assert backbone.quantized(Quantization("w4a8")) is not made


@pytest.mark.slow
def test_the_old_weights_are_gone_before_the_new_ones_come():
    backbone = fresh("pcm-sdxl")
    made = weakref.ref(backbone.quantized(Quantization("w4a8", method="mixdq")).module)
    backbone.predict(torch.zeros(1, *backbone.latent_shape), 500.0, backbone.encode(PROMPTS[:1]))
    old, load, alive = weakref.ref(backbone.denoiser), backbone.weights, []
    backbone.weights = lambda file: (alive.append((old(), made())), load(file))[1]
    backbone.use(2)
    assert alive == [(None, None)] and backbone.lora == backbone.spec.lora_file(2)
    assert [type(part).__name__ for part in backbone.residency.there].count("UNet2DConditionModel") == 0


@pytest.mark.slow
def test_weights_that_cannot_be_had_bring_the_old_ones_back():
    backbone = fresh("pcm-sd15")
    condition, noise = backbone.encode(PROMPTS[:1]), draw_noise(backbone.latent_shape, 0, [0])
    before, load = sample(backbone, condition, noise, 4), backbone.weights

    def broken(file, *known):
        if file not in known:
            raise BackboneError("The LoRA cannot be read.")
        return load(file)

    backbone.weights = lambda file: broken(file, backbone.spec.lora_file(4))
    with pytest.raises(BackboneError, match="cannot be read"):
        backbone.use(2)
    assert backbone.ready_steps == 4 and torch.equal(sample(backbone, condition, noise, 4), before)
    backbone.weights = broken  # the folder is gone
    for _ in range(2):
        with pytest.raises(BackboneError, match="cannot be read"):
            backbone.use(8)
    backbone.weights = load
    assert torch.equal(sample(backbone, condition, noise, 4), before), "and comes back with the files"


def test_a_denoiser_for_another_step_count_is_refused():
    backbone = fresh("pcm-sdxl")
    module = backbone.quantized(Quantization("w4a8")).module
    condition, noise = backbone.encode(PROMPTS[:1]), draw_noise(backbone.latent_shape, 0, [0])
    sample(backbone, condition, noise, 4, None, module)
    with pytest.raises(ValueError, match="another step count"):
        sample(backbone, condition, noise, 2, None, module)
    with pytest.raises(BackboneError, match="no LoRA for 3 steps"):
        backbone.use(3)


def test_adapters_are_fused_before_quantization():
    backbone = fresh("pcm-sd15")
    module = backbone.quantized(Quantization("w8a8")).module
    plain = base("pcm-sd15")
    quantize(plain, "w8a8")
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    fused = backbone.denoiser.get_submodule(name).weight
    assert (module.get_submodule(name).dequantize() - fused).abs().max() < fused.abs().max() / 100
    assert (plain.get_submodule(name).dequantize() - fused).abs().max() > fused.abs().max() / 10
