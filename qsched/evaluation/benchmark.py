"""What this machine does: latency per column, throughput per batch size, memory; medians after a warm-up."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from qsched.comparison.comparison import compare, rescale
from qsched.comparison.result import Settings
from qsched.evaluation.provenance import device_name, versions
from qsched.models.base import Backbone
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.loop import draw_noise, sample

WARM_UP = 2


def benchmark(
    backbone: Backbone,
    widths: Sequence[Quantization],
    *,
    steps: int,
    batches: Sequence[int] = (1, 4, 16),
    repeats: int = 5,
    on_width: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Measure full precision and every bit-width.

    Returns:
        JSON friendly. Latencies in seconds at batch 1: "image" for all steps and the decode, "drag" for a new
        pair of coefficients (steps - 1 calls, decode, scores, as in the app). Throughput in images per second
        by batch size. Memory in bytes: of the denoiser as stored and as held, and the process's peak.
    """
    prompt = backbone.spec.examples[0] if backbone.spec.examples else "red apple"
    columns = [_measure(backbone, None, prompt, steps, batches, repeats)]
    for quantization in widths:
        columns.append(_measure(backbone, quantization, prompt, steps, batches, repeats))
        if on_width is not None:
            on_width()
    return {
        "backbone": backbone.spec.id,
        "revision": backbone.revision,
        "steps": steps,
        "device": device_name(backbone.device),
        "threads": torch.get_num_threads(),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "repeats": repeats,
        "versions": versions(),
        "columns": columns,
        "peak_memory_bytes": peak_memory(backbone.device),
    }


def _measure(
    backbone: Backbone,
    quantization: Quantization | None,
    prompt: str,
    steps: int,
    batches: Sequence[int],
    repeats: int,
) -> dict:
    if quantization is None:
        module, stored = None, backbone.full_precision_bytes
        held = sum(p.numel() * p.element_size() for p in backbone.denoiser.parameters())
        column: dict[str, Any] = {"name": "full precision", "execution": None, "drag_s": None}
    else:
        backbone.use(steps)
        made = backbone.quantized(quantization)
        module, stored = made.module, made.report.bytes_after
        held = made.report.bytes_in_memory + made.report.cache_bytes
        column = {
            "name": quantization.bits,
            "execution": made.report.execution,
            "drag_s": _drag(backbone, quantization, prompt, steps, repeats),
        }
    throughput = {}
    for batch in batches:
        condition = backbone.encode([prompt]).select([0] * batch)
        noise = draw_noise(backbone.latent_shape, 0, range(batch))
        seconds = median_seconds(
            lambda c=condition, n=noise: backbone.decode(sample(backbone, c, n, steps, denoiser=module)),
            backbone.device,
            repeats,
        )
        throughput[str(batch)] = batch / seconds
    column["image_s"] = 1 / throughput["1"] if "1" in throughput else None
    return column | {"images_per_second": throughput, "stored_bytes": stored, "held_bytes": held}


def _drag(backbone: Backbone, quantization: Quantization, prompt: str, steps: int, repeats: int) -> float:
    comparison = compare(backbone, Settings(prompt, 0, steps, quantization), Coefficients.identity())
    # a position that was seen before would be answered from memory
    fresh = iter(range(1, WARM_UP + repeats + 1))
    return median_seconds(
        lambda: rescale(backbone, comparison, Coefficients.ramp(1 + next(fresh) / 1000, 1.0)),
        backbone.device,
        repeats,
    )


def median_seconds(run: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median wall-clock seconds of a call, after WARM_UP calls that do not count."""
    times = []
    for _ in range(WARM_UP + repeats):
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[WARM_UP:])


def peak_memory(device: torch.device) -> int | None:
    """Peak bytes: of the tensors on a GPU, or of this process on a CPU;

    None where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
