"""How a preset's coefficients are used outside this app, as Markdown."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qsched.presets import Preset


def usage(preset: "Preset", twin: str, folder: str, source: str) -> str:
    """Markdown that shows how to use an exported scheduler folder, with the qsched package and without it.

    Args:
        twin: name of the Q-Sched scheduler class. folder: name of the folder. source: folder or Hub id of the pipeline.
    """
    options = "".join(
        f", {name}={preset.settings[name]!r}"
        for name in ("group_size", "activation_scale", "scope")
        if preset.settings.get(name) is not None
    )
    if preset.settings.get("keep_high_precision") is False:
        options += ", keep=()"
    part = "transformer" if "FlowMatch" in twin else "unet"
    given = "from qsched.quantization import quantize", f"quantize(pipe.{part}, {preset.bits!r}{options})"
    if preset.method != "plain":
        settings = "".join(f", {name}={value!r}" for name, value in preset.settings.items() if value is not None)
        made = f"load_backbone({preset.backbone!r}).quantized(Quantization({preset.bits!r}{settings}))"
        given = "from qsched.backbones import Quantization, load_backbone", f"pipe.{part} = {made}.module"
    use = f'image = pipe("...", num_inference_steps={preset.steps}).images[0]'
    chosen = ", ".join(f"{name} = {value}" for name, value in preset.coefficients.to_dict().items())
    origin = f"The coefficients were searched for the denoiser\nquantized to {preset.bits}"
    if preset.mark:
        origin = f"{preset.mark}\nThey are meant for the denoiser quantized to {preset.bits}"
    return f"""# Q-Sched scheduler for {preset.backbone}, {preset.bits}, {preset.steps} steps

{chosen} (one number: every step; two: first and last step). {origin}; with another denoiser or step count they are only a start.

With the qsched package:

```python
from diffusers import DiffusionPipeline
{given[0]}
from qsched.schedulers import {twin}

pipe = DiffusionPipeline.from_pretrained({source!r})
{given[1]}
pipe.scheduler = {twin}.from_pretrained({folder!r})  # the path of this folder
{use}
```

Without it (quantize as you like): copy schedulers.py from this folder next to your script.

```python
from diffusers import DiffusionPipeline
from schedulers import {twin}

pipe = DiffusionPipeline.from_pretrained({source!r})
pipe.scheduler = {twin}.from_pretrained({folder!r})  # the path of this folder
{use}
```
"""
