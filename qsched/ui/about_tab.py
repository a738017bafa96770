"""The About tab: what this is, what its numbers mean, and how to take the result away."""

import gradio as gr

from qsched.server.engine import Engine
from qsched.ui.compare import links
from qsched.ui.compare.script import script_shown
from qsched.ui.errors import reports_errors

TEXT = """
## What Q-Sched is

Few-step diffusion models draw an image with one to eight calls of a denoiser. Quantizing that denoiser to a few bits makes it small, and bends the path
from noise to image. Q-Sched leaves the quantized weights alone and bends the path back with two numbers per step:
"""  # noqa: E501

EQUATION = (
    '<p class="equation"><i>x</i><sub>i+1</sub> = Φ<sub>i</sub>( <b '
    'class="mark">c<sub>x</sub></b>[i] · <i>x</i><sub>i</sub> , '
    '<b class="mark">c<sub>ε</sub></b>[i] · <i>E</i><sub>Q</sub>(<i>x</i><sub>i</sub>, t<sub>i</sub>) )</p>'
)

MORE = """
Φ is the scheduler's own step, unchanged; *E*<sub>Q</sub> is the quantized denoiser. With c_x = c_ε = 1 it is the plain scheduler, bit for bit. The first
denoiser call does not depend on the coefficients, so moving a slider costs all steps but one, and one computed surface serves everybody.

Paper: [Q-Sched: Pushing the Boundaries of Few-Step Diffusion Models with Quantization-Aware Scheduling](https://arxiv.org/abs/2509.01624) ·
[the authors' code](https://github.com/enyac-group/q-sched)

## What is measured, and what is simulated

| | |
|---|---|
| **Stored size** | Measured: the denoiser's packed weights, scales and what stays in high precision, in bytes. The ratio is to the same weights at fp16. |
| **Latency** | Measured on this device: all denoiser calls and the decode. Q-Sched's number includes the shared first call, so it can be compared with the others. The first run of a denoiser, which also prepares kernels, is marked. |
| **Quantized weights** | Real: 2, 3, 4 or 8 bits per weight, packed into bytes. |
| **Quantized arithmetic** | Where the device multiplies integers exactly and no slower, real int8; elsewhere simulated in floating point with the same rounding. The line under the controls says which. |
| **CLIPScore, CLIP-IQA, JAQ** | Measured on the image by the scorer named beside the table. JAQ depends on the scorer: compare it only with itself. |
| **SSIM, PSNR** | Measured against the full-precision image of the same prompt, seed and noise. An image can score well and still be another image: look at both. |
| **Surface** | Computed once for the preset's prompts, on the machine that its file names. Alignment and quality are stored per image: another k weighs them anew and makes no image. |
| **Hatched cells** | Not different from the plain scheduler. The prompts are drawn again 2,000 times, each with its seeds (bootstrap); the paired difference in JAQ is tested per cell (bootstrap-t), and Benjamini-Hochberg accounts for the many cells: of those without hatching at most 5 % are expected to be there by chance. |
| **Outlined cells** | The smallest set of cells that holds the optimum of 95 % of those resamples. The best of many noisy cells is partly luck: what is left of its gain on prompts that did not choose it stands below the surface. Held-out prompts are the judge. |

## Use it in your own pipeline

The scheduler is a drop-in for diffusers; this script makes the Q-Sched image that the Compare tab shows now.
"""  # noqa: E501


def build_about(engine: Engine, tab: gr.Tab) -> None:
    """Fill the tab; the code is brought up to date whenever the tab is opened."""
    with gr.Column(elem_classes=["q-card", "about"]):
        gr.Markdown(TEXT)
        gr.HTML(EQUATION, elem_classes="plain")
        gr.Markdown(MORE)
        code = gr.HTML("", elem_id="snippet", elem_classes="plain")
        copy = gr.Button("Copy", elem_id="copy-snippet", size="sm")

    def show(request: gr.Request) -> str:
        """The script that makes what the Compare tab shows."""
        return script_shown(engine, request.session_hash)

    tab.select(
        reports_errors(show), None, code, api_name="snippet", api_visibility="private", show_progress="hidden"
    )
    copy.click(
        None,
        None,
        None,
        js=links.copy_code("#snippet", "#copy-snippet"),
        api_name="copy_snippet",
        api_visibility="private",
    )
