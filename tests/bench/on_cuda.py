"""What quantization costs and saves on a CUDA device, on random weights of the published architectures.

    python tests/bench/on_cuda.py --out cuda.md [--backbones ID ...] [--bits w8a8 ...] [--batches 8 1]
    [--minutes 9] python tests/bench/on_cuda.py --device cpu --tiny --out dry.md      a dry run of everything
    on tiny networks

Nothing is downloaded, since speed and memory do not depend on the weights' values. Per variant: one denoiser
call, one whole image (all steps, the scheduler and the decoder, text encoded before) and the peak of the
device's memory, eager and compiled, all in the same run as half precision; then a drag and a batch of search
candidates as the app computes them. First the quantized layers' CUDA paths are compared with the CPU's; 1 is
returned if they disagree.

The most telling measurements come first, the report is written anew after each of them, and the run ends by
itself after --minutes: what was left out is named. A single measurement is given up after --row-seconds.

Beside torch this needs what requirements.txt lists up to safetensors; where only diffusers is missing and
there is no network, its wheel is enough: pip install --no-deps --target site diffusers-*.whl, then
PYTHONPATH=site.
"""

import argparse
import copy
import importlib.util
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# ruff: noqa: E402 - the repository before what is installed; this folder last, lest its names hide others'
sys.path[0] = str(Path(__file__).resolve().parents[2])
sys.path.append(str(Path(__file__).resolve().parent))
for name in ("torch", "diffusers", "transformers"):
    if importlib.util.find_spec(name) is None:
        print(
            f"on_cuda.py: the package {name} is missing: pip install {name}; offline, see --help.",
            file=sys.stderr,
        )
        if "--help" not in sys.argv:
            sys.exit(2)
        print(__doc__)
        sys.exit(0)

import torch
from cuda_models import compiled, random_backbone, random_condition, variant
from cuda_report import markdown
from torch import nn

from qsched.evaluation.benchmark import median_seconds, peak_memory
from qsched.evaluation.provenance import device_name, versions
from qsched.models.devices import pick_device
from qsched.models.memory import BITS, footprint
from qsched.models.pipeline import PipelineBackbone
from qsched.models.registry import SPECS
from qsched.quantization import quantize
from qsched.quiet import quiet
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.loop import Noise, draw_noise, first_prediction, sample

REAL = ("sdxl-turbo", "lcm-dreamshaper-v7", "flux1-schnell")
WIDTHS = ("w8a8", "w4a8", "w4a4")
TOLERANCE = {torch.float32: 1e-2, torch.float16: 5e-2, torch.bfloat16: 1e-1}
"""Relative differences to the CPU in the same dtype that rounding explains: a last bit moves an activation by
a level.
"""


class TimeIsUp(Exception):
    """A measurement took longer than it may."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Give the block up after so long."""

    def stop(*_: Any) -> None:
        raise TimeIsUp(f"not done within {seconds:.0f} s")

    usual = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)


class Inputs:
    """A batch to sample: conditions, noise, and the peak of the memory that a denoiser needs for it."""

    def __init__(self, backbone: PipelineBackbone, batch: int):
        self.backbone, self.steps = backbone, backbone.spec.default_steps
        torch.manual_seed(batch)
        self.condition = random_condition(backbone, batch)
        self.noise: Noise = draw_noise(backbone.latent_shape, 0, range(batch))
        self.start = self.noise.start.to(backbone.device, backbone.dtype)

    def call(self, denoiser: nn.Module) -> torch.Tensor:
        """One denoiser call."""
        return self.backbone.predict(self.start, 500.0, self.condition, denoiser)

    def image(self, denoiser: nn.Module, **options: Any) -> torch.Tensor:
        """All steps and the decoder, on the CPU in the end."""
        tiny = options.pop("tiny", False)
        latents = sample(self.backbone, self.condition, self.noise, self.steps, denoiser=denoiser, **options)
        return self.backbone.decode(latents, tiny).cpu()


@torch.inference_mode()
def measured(inputs: Inputs, denoiser: nn.Module, plain: nn.Module, repeats: int) -> dict[str, Any]:
    """Seconds of a call and of an image, peak bytes; with a compiled denoiser how long that took and how far
    it is off.

    plain: the same denoiser, not compiled. The peak counts the denoiser, the decoder and what they compute,
    as if nothing else were on the device.
    """
    backbone, device = inputs.backbone, inputs.backbone.device
    found: dict[str, Any] = {}
    if denoiser is not plain:
        expected, begin = inputs.call(plain).float(), time.perf_counter()
        difference = (inputs.call(denoiser).float() - expected).norm() / expected.norm()
        found = {"compile_s": time.perf_counter() - begin, "difference": difference.item()}
    others = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        needed = {
            t.data_ptr(): t.nbytes
            for part in (denoiser, backbone.pipe.vae)
            for t in part.state_dict().values()
        }
        others = torch.cuda.memory_allocated(device) - sum(needed.values())
    call = median_seconds(lambda: inputs.call(denoiser), device, repeats)
    image = median_seconds(lambda: inputs.image(denoiser), device, repeats)
    return found | {"call_s": call, "image_s": image, "peak_bytes": peak_memory(device) - others}


@torch.inference_mode()
def live(backbone: PipelineBackbone, denoiser: nn.Module, candidates: int, repeats: int) -> dict[str, Any]:
    """Seconds of a drag (steps - 1 calls, tiny decoder, image on the CPU) and of a batch of search
    candidates.
    """
    one, many = Inputs(backbone, 1), Inputs(backbone, candidates)
    first = [first_prediction(backbone, i.condition, i.noise, i.steps, denoiser) for i in (one, many)]
    spread = [Coefficients.constant(0.9 + 0.2 * i / candidates, 1.0) for i in range(candidates)]
    drag = lambda: one.image(denoiser, coefficients=Coefficients.ramp(1.05, 0.95), first=first[0], tiny=True)
    batch = lambda: many.image(denoiser, coefficients=spread, first=first[1], tiny=True)
    drag_s, batch_s = (median_seconds(run, backbone.device, repeats) for run in (drag, batch))
    return {"drag_s": drag_s, "batch_s": batch_s, "candidates": candidates, "steps": one.steps}


@torch.inference_mode()
def checked(device: torch.device, widths: list[str]) -> list[dict[str, Any]]:
    """How far the device's quantized layers are from the CPU's, by bits, dtype and the way they run."""
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(16, 64, 3, padding=1), nn.SiLU(), nn.Conv2d(64, 64, 1), nn.Flatten(2), nn.Linear(256, 64)
    )
    x, rows = torch.randn(3, 16, 16, 16), []
    for bits in widths:
        for execution in ("int8", "fake"):
            there = copy.deepcopy(plain)
            quantize(there, bits, keep=(), execution=execution)
            for dtype, limit in TOLERANCE.items():
                expected = copy.deepcopy(there).to(dtype)(x.to(dtype)).float()
                here = copy.deepcopy(there).to(device, dtype)
                found = here(x.to(device, dtype)).float().cpu()
                error = ((found - expected).norm() / expected.norm()).item()
                names = {"bits": bits, "execution": execution, "dtype": str(dtype).removeprefix("torch.")}
                rows.append(names | {"relative_error": error, "limit": limit, "ok": error <= limit})
    return rows


class Report:
    """What has been found so far, written after every measurement."""

    def __init__(self, args: argparse.Namespace, device: torch.device):
        self.args, self.ends = args, time.monotonic() + 60 * args.minutes
        self.data: dict[str, Any] = {"device": device_name(device), "versions": versions(), "tiny": args.tiny}
        self.data |= {"repeats": args.repeats, "checks": [], "rows": [], "live": [], "left_out": []}

    def add(self, table: str, names: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
        """One row of a table, or why it could not be had."""
        left, what = self.ends - time.monotonic(), " ".join(str(value) for value in names.values())
        if left <= 0:
            self.data["left_out"].append(what)
            return
        try:
            with at_most(min(left, self.args.row_seconds)):
                row = names | measure() | {"error": None}
        except torch.OutOfMemoryError:
            row = names | {"error": "out of memory"}
        # a compiler may fail in any way, and the other rows are still worth having
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), "")
            row = names | {"error": f"{type(error).__name__}: {first}"[:120]}
        self.data[table].append(row)
        self.write()
        print(f"{what}: {row['error'] or 'done'}", file=sys.stderr, flush=True)

    def write(self) -> None:
        """Both files, as far as they are asked for."""
        for path, text in (
            (self.args.out, markdown),
            (self.args.json, lambda data: json.dumps(data, indent=1) + "\n"),
        ):
            if path:
                Path(path).write_text(text(self.data))


def measure_backbone(report: Report, backbone: PipelineBackbone, args: argparse.Namespace) -> None:
    """All rows of a backbone; one quantized denoiser at a time lies beside full precision."""
    half = str(backbone.dtype).removeprefix("torch.")
    for mode in args.modes:
        for bits in (None, *args.bits):
            names = {"backbone": backbone.spec.id, "bits": bits or half, "mode": mode}
            made: dict[str, Any] = {}

            def denoiser(bits: str | None = bits, mode: str = mode, made: dict[str, Any] = made) -> nn.Module:
                if not made:
                    module, stored, execution = variant(backbone, bits)
                    run = compiled(module, args.compile_backend) if mode == "compiled" else module
                    made.update(plain=module, run=run, sizes={"stored_bytes": stored, "execution": execution})
                return made["run"]

            for batch in args.batches:
                row = lambda batch=batch, denoiser=denoiser, made=made: (
                    measured(Inputs(backbone, batch), denoiser(), made["plain"], args.repeats) | made["sizes"]
                )
                report.add("rows", names | {"batch": batch}, row)
            if bits in (None, "w4a8", "w8a8"):
                report.add(
                    "live",
                    names,
                    lambda denoiser=denoiser: live(backbone, denoiser(), args.candidates, args.repeats),
                )
            made.clear()
            if backbone.device.type == "cuda":
                torch.cuda.empty_cache()


def main(argv: list[str] | None = None) -> int:
    """Check, measure, write Markdown. 0: done; 1: the device's results differ from the CPU's; 2: it cannot
    run here.
    """
    args = parser().parse_args(argv)
    quiet(offline=True)
    if args.device == "cpu" and not args.tiny:
        print("on_cuda.py: on the CPU only the dry run makes sense: add --tiny.", file=sys.stderr)
        return 2
    try:
        device = pick_device(args.device)
    except ValueError as error:
        print(f"on_cuda.py: {str(error).split(';')[0]}; --device cpu --tiny is a dry run.", file=sys.stderr)
        return 2
    report = Report(args, device)
    report.data["checks"] = checked(device, args.bits)
    for id in args.backbones:
        if not args.tiny:
            report.data.setdefault("planned_bytes", {})[id] = vars(footprint(SPECS[id]))
        if report.ends <= time.monotonic():
            report.data["left_out"].append(id)
            continue
        try:
            measure_backbone(report, random_backbone(SPECS[id], device, args.tiny), args)
        except torch.OutOfMemoryError:
            report.data["left_out"].append(f"{id}, which does not fit on this device")
        report.write()
    report.write()
    print(markdown(report.data))
    return 0 if all(check["ok"] for check in report.data["checks"]) else 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--backbones", nargs="+", default=list(REAL), choices=REAL)
    options.add_argument("--bits", nargs="+", default=list(WIDTHS), choices=BITS)
    options.add_argument("--batches", nargs="+", type=int, default=[8, 1])
    options.add_argument(
        "--candidates", type=int, default=16, help="of a search, in one batch (default: %(default)s)"
    )
    options.add_argument("--modes", nargs="+", default=["eager", "compiled"], choices=("eager", "compiled"))
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--minutes", type=float, default=9.0, help="when to stop (default: %(default)s)")
    options.add_argument(
        "--row-seconds", type=float, default=150.0, help="for one measurement (default: %(default)s)"
    )
    options.add_argument(
        "--compile-backend", default="inductor", help="of torch.compile (default: %(default)s)"
    )
    options.add_argument("--device", default="cuda")
    options.add_argument(
        "--tiny", action="store_true", help="tiny networks of the same classes, to try this script"
    )
    options.add_argument("--out", metavar="FILE.md", help="the report, written anew after every measurement")
    options.add_argument("--json", metavar="FILE", help="the same for machines")
    return options


if __name__ == "__main__":
    sys.exit(main())
