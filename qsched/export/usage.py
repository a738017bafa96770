"""How coefficients are used outside this app, as code that runs as it stands."""

import os
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from qsched import schedulers
from qsched.comparison.result import Settings
from qsched.models.registry import SPECS
from qsched.models.spec import BackboneSpec
from qsched.presets import Preset, PresetError
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.words import steps_in_words


def export_scheduler(
    preset: Preset, scheduler: Any, folder: str | Path, source: str | None = None, called: str | None = None
) -> str:
    """Write a diffusers scheduler folder: scheduler_config.json with the coefficients, a copy of the one file
    that knows them (schedulers.py), and README.md with the text that is returned.

    Args:
        preset: whose coefficients to use.
        scheduler: the backbone's diffusers scheduler, stock or Q-Sched.
        folder: is made if it does not exist.
        source: folder or Hub id of the pipeline, for the text; None is the backbone's own.
        called: path or Hub id that the text loads the scheduler from; None is `folder`.
    Returns:
        Markdown that shows how to load the folder, with the qsched package and without it.
    Raises:
        TypeError: if the scheduler has no Q-Sched twin.
        PresetError: if the folder cannot be written.
    """
    twin = schedulers.with_coefficients(scheduler, **preset.coefficients.to_dict())
    folder = Path(folder)
    text = usage(preset, type(twin).__name__, called or str(folder), source)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as beside:
            twin.save_pretrained(beside)
            (Path(beside) / "README.md").write_text(text, "utf-8")
            for file in Path(beside).iterdir():  # whole under its own name, or not there
                os.replace(file, folder / file.name)
    except OSError as error:
        raise PresetError(f"The scheduler cannot be written to {folder}: {error.strerror}.") from None
    return text


PROMPT = "a red fox in fresh snow, golden hour, photograph"


def usage(preset: Preset, twin: str, folder: str, source: str | None = None) -> str:
    """Markdown that shows how to use an exported scheduler folder, with the qsched package and without it.

    Args:
        twin: name of the Q-Sched scheduler class. folder: path or Hub id of the scheduler. source: folder or
            Hub id of the pipeline; None is the backbone's own.
    """
    spec, quantization = SPECS.get(preset.backbone), Quantization(preset.bits, **preset.settings)
    embedded = source is None and spec is not None and Path(spec.source).exists()
    scheduler = f"{twin}.from_pretrained({folder!r})"
    chosen = ", ".join(f"{name} = {value}" for name, value in preset.coefficients.to_dict().items())
    origin = f"The coefficients were searched for the denoiser\nquantized to {preset.bits}"
    if preset.mark:
        origin = f"{preset.mark}\nThey are meant for the denoiser quantized to {preset.bits}"
    if embedded:
        made = _embedded_image(quantization, spec.examples[0], 0, preset.steps)
        code = f"""from torchvision.transforms.functional import to_pil_image
from qsched import load_backbone
{_EMBEDDED_IMPORTS}
from qsched.schedulers import {twin}

backbone = load_backbone({preset.backbone!r})
config = {scheduler}.config
coefficients = Coefficients(config.c_x, config.c_eps)
{made}"""
        without = f"from schedulers import {twin}\n\nscheduler = {scheduler}"
    else:
        load, call = _pipeline(spec, preset.steps, source, PROMPT)
        imports, quantized = _quantized(preset.backbone, quantization, twin)
        code = f"""from diffusers import DiffusionPipeline
{imports}
from qsched.schedulers import {twin}

{load}
{quantized}  # the coefficients belong to the quantized denoiser: they hurt the unquantized one
pipe.scheduler = {scheduler}
{call}"""
        without = f"""from diffusers import DiffusionPipeline
from schedulers import {twin}

{load}
pipe.scheduler = {scheduler}
{call}"""
    return f"""# Q-Sched scheduler for {preset.backbone}, {preset.bits}, {steps_in_words(preset.steps)}

{chosen} (one number: every step; two: first and last step). {origin}; with another denoiser or step count they are only a start.

With the qsched package:

```python
{code}
```

Without it (quantize the denoiser to {preset.bits} with a tool of yours first): copy schedulers.py from this folder next to your script.

```python
{without}
```

A pipeline that is saved with this scheduler (`pipe.save_pretrained("my-pipeline")`, before quantizing) carries schedulers.py in
its folder scheduler/ and loads in any process by `DiffusionPipeline.from_pretrained("my-pipeline", trust_remote_code=True)`.
"""  # noqa: E501


def script(
    backbone: str, settings: Settings, coefficients: Coefficients, twin: str, source: str | None = None
) -> str:
    """A Python script that makes the Q-Sched image of a comparison: it loads, quantizes, sets the scheduler,
    generates and saves.

    Args:
        backbone: id. twin: name of the Q-Sched scheduler class. source: folder or Hub id of the pipeline;
            None is the backbone's own.
    """
    quantization, steps, spec = settings.quantization, settings.steps, SPECS[backbone]
    numbers = ", ".join(f"{name}={value}" for name, value in coefficients.to_dict().items())
    if spec.family == "emoji":
        load = f"{backbone!r}" + (f", source={source!r}" if source else "")
        made = _embedded_image(quantization, settings.prompt, settings.seed, steps)
        return f"""from torchvision.transforms.functional import to_pil_image

from qsched import load_backbone
{_EMBEDDED_IMPORTS}

coefficients = Coefficients({numbers})

backbone = load_backbone({load})
{made}
image.save("qsched.png")
"""
    load, call = _pipeline(spec, steps, source, settings.prompt, settings.seed)
    imports, quantized = _quantized(backbone, quantization, twin)
    return f"""import torch
from diffusers import DiffusionPipeline

{imports}
from qsched.schedulers import {twin}

{load}
{quantized}
pipe.scheduler = {twin}.from_config(
    pipe.scheduler.config, {numbers}
)
{call}
image.save("qsched.png")
"""


_EMBEDDED_IMPORTS = """from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.loop import draw_noise, sample"""


def _embedded_image(quantization: Quantization, prompt: str, seed: int, steps: int) -> str:
    """The embedded model is no diffusers pipeline: the package samples it."""
    return f"""denoiser = backbone.quantized({_written(quantization)}).module
condition, noise = backbone.encode([{prompt!r}]), draw_noise(backbone.latent_shape, {seed}, [0])
latents = sample(backbone, condition, noise, {steps}, coefficients, denoiser)
image = to_pil_image(backbone.decode(latents)[0])"""


def _pipeline(
    spec: BackboneSpec | None, steps: int, source: str | None, prompt: str, seed: int | None = None
) -> tuple[str, str]:
    """The lines that load the pipeline, and those that call it."""
    load = f"pipe = DiffusionPipeline.from_pretrained({source or (spec and spec.source) or 'OWNER/NAME'!r})"
    if spec is not None and spec.lora is not None:
        folder, _, name = spec.lora_file(steps).rpartition("/")
        where = f"{spec.lora.repo!r}, subfolder={folder!r}, weight_name={name!r}"
        load += f"\npipe.load_lora_weights({where})\npipe.fuse_lora()\npipe.unload_lora_weights()"
    options = f"num_inference_steps={steps}"
    if spec is not None:
        options += f", guidance_scale={spec.guidance or 0.0}"
        options += ", max_sequence_length=256" if spec.family == "flux" else ""
    if seed is not None:
        options += f",\n             generator=torch.Generator().manual_seed({seed})"
    return load, f"image = pipe({prompt!r}, {options}).images[0]"


def _quantized(backbone: str, quantization: Quantization, twin: str) -> tuple[str, str]:
    """The import that quantizes the pipeline's denoiser, and the line that does."""
    part = "transformer" if "FlowMatch" in twin else "unet"
    if quantization.method != "plain":
        made = f"load_backbone({backbone!r}).quantized({_written(quantization)}).module"
        return (
            "from qsched import load_backbone\nfrom qsched.quantization import Quantization",
            f"pipe.{part} = {made}",
        )
    options = _chosen(quantization, "group_size", "activation_scale", "scope")
    if not quantization.keep_high_precision:
        options += ", keep=()"
    return (
        "from qsched.quantization import quantize",
        f"quantize(pipe.{part}, {quantization.bits!r}{options})",
    )


def _written(quantization: Quantization) -> str:
    """A Quantization as code."""
    names = [field.name for field in fields(quantization)][1:]
    return f"Quantization({quantization.bits!r}{_chosen(quantization, *names)})"


def _chosen(quantization: Quantization, *names: str) -> str:
    """Those of its options that differ from the usual, as further arguments."""
    usual = Quantization()
    given = [(name, getattr(quantization, name)) for name in names]
    return "".join(f", {name}={value!r}" for name, value in given if value != getattr(usual, name))
