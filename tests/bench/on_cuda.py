"""What quantization costs and saves on a CUDA device, on random weights of the published architectures.

    python tests/bench/on_cuda.py [--backbones ID ...] [--bits w8a8 ...] [--batches 1 8] [--modes eager compiled] [--json FILE]
    python tests/bench/on_cuda.py --device cpu --tiny          a dry run of everything on tiny networks

Speed and memory do not depend on the weights' values, so nothing is downloaded. Per variant: one denoiser call, one whole
image (all steps, the scheduler and the decoder, text encoded before), the peak of the device's memory, all in the same run
as half precision. First the quantized layers' CUDA paths are compared with the CPU's; 1 is returned if they disagree.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# ruff: noqa: E402 - in this folder's place, since torch would take this file for the package `cuda`
sys.path[0] = str(Path(__file__).resolve().parents[2])

import diffusers
import torch
from torch import Tensor, nn

from qsched.backbones import SPECS, BackboneSpec, pick_device
from qsched.backbones.architectures import build
from qsched.backbones.memory import BITS, decoder_dtype, facts, half_dtype
from qsched.benchmark import median_seconds, peak_memory
from qsched.provenance import device_name, versions
from qsched.quantization import quantize, stored_bytes
from qsched.quiet import quiet

REAL = ("lcm-dreamshaper-v7", "sdxl-turbo", "flux1-schnell")
WIDTHS = ("w8a8", "w4a8", "w4a4")
TOLERANCE = {torch.float32: 1e-2, torch.float16: 5e-2, torch.bfloat16: 1e-1}
"""Relative differences to the CPU in the same dtype that rounding explains: a last bit moves an activation by a level."""
TARGETS = (("sdxl-turbo", "w8a8", 0.8), ("sdxl-turbo", "w4a8", 1.1))
"""(backbone, bits, time of a compiled call over half precision's at the largest batch)."""
TINY_UNET = {"sample_size": 8, "cross_attention_dim": 32, "layers_per_block": 1}
TINY_VAE = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
TINY: dict[str, dict[str, dict[str, Any]]] = {
    "lcm": {"unet": TINY_UNET | {"block_out_channels": (32, 64, 64, 64), "attention_head_dim": 2}, "vae": TINY_VAE},
    "sdxl": {
        "unet": TINY_UNET
        | {
            "block_out_channels": (32, 64, 64),
            "attention_head_dim": (1, 2, 2),
            "transformer_layers_per_block": (1, 1, 1),
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 16,
        },
        "vae": TINY_VAE,
    },
    "flux": {
        "transformer": {
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 16,
            "axes_dims_rope": (4, 6, 6),
        },
        "vae": TINY_VAE,
    },
}


class Bench:
    """One backbone: its denoisers, its decoder, its inputs."""

    def __init__(self, spec: BackboneSpec, device: torch.device, tiny: bool):
        self.spec, self.device, self.dtype = spec, device, torch.float32 if device.type == "cpu" else half_dtype(spec)
        self.changes = TINY[spec.architecture] if tiny else {}
        self.part = "transformer" if spec.family == "flux" else "unet"
        self.side = (64 if tiny else spec.size) // 8
        self.vae = self._made("vae")
        kept = decoder_dtype(self.vae.config if spec.family == "sdxl" else {}, self.dtype)
        nn.Module.to(self.vae, kept)  # diffusers' own would warn

    def _made(self, part: str) -> nn.Module:
        torch.manual_seed(0)
        usual = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            made = build(self.spec.architecture, part, self.device, **self.changes.get(part, {}))
        finally:
            torch.set_default_dtype(usual)
        return made.eval().requires_grad_(False)

    def denoiser(self, bits: str | None) -> tuple[nn.Module, int, dict[str, int]]:
        """(module, bytes stored, how its layers run) in half precision or quantized; the same weights every time."""
        module = self._made(self.part)
        if bits is None:
            return module, stored_bytes(module), {}
        report = quantize(module, bits)
        return module, report.bytes_after, report.execution

    def inputs(self, batch: int) -> tuple[Tensor, Callable[[nn.Module, Tensor, Tensor], Tensor]]:
        """(start latents, how a denoiser is called on latents and a timestep)."""
        draw = lambda *shape: torch.randn(*shape, device=self.device, dtype=self.dtype)
        config = build(self.spec.architecture, self.part, "meta", **self.changes.get(self.part, {})).config
        if self.spec.family == "flux":
            tokens = self.side * self.side // 4
            text, pooled = draw(batch, 256, config.joint_attention_dim), draw(batch, config.pooled_projection_dim)
            ids = torch.zeros(256, 3, device=self.device), torch.zeros(tokens, 3, device=self.device)
            options = {"pooled_projections": pooled, "txt_ids": ids[0], "img_ids": ids[1], "return_dict": False}
            return draw(batch, tokens, config.in_channels), lambda denoiser, x, t: denoiser(
                x, encoder_hidden_states=text, timestep=t.expand(batch).to(x.dtype) / 1000, **options
            )[0]
        options = {"encoder_hidden_states": draw(batch, 77, config.cross_attention_dim), "return_dict": False}
        if config.addition_embed_type == "text_time":
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            options["added_cond_kwargs"] = {"text_embeds": draw(batch, pooled), "time_ids": draw(batch, 6)}
        if config.time_cond_proj_dim:
            options["timestep_cond"] = draw(batch, config.time_cond_proj_dim)
        return draw(batch, 4, self.side, self.side), lambda denoiser, x, t: denoiser(x, t, **options)[0]

    def image(self, denoiser: nn.Module, latents: Tensor, call: Callable) -> Tensor:
        """All steps and the decoder, as sampling does it; pictures are decoded one by one."""
        scheduler = getattr(diffusers, self.spec.scheduler)(**self.spec.scheduler_config)
        scheduler.set_timesteps(self.spec.default_steps, device=self.device)
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(latents, t) if hasattr(scheduler, "scale_model_input") else latents
            latents = scheduler.step(call(denoiser, seen, t), t, latents, return_dict=False)[0].to(self.dtype)
        if self.spec.family == "flux":  # 2 x 2 latents are one token
            half = self.side // 2
            latents = latents.view(len(latents), half, half, 16, 2, 2).permute(0, 3, 1, 4, 2, 5)
            latents = latents.reshape(len(latents), 16, self.side, self.side)
        return torch.cat([self.vae.decode(x.to(self.vae.dtype), return_dict=False)[0] for x in latents.split(1)])


@torch.inference_mode()
def measured(bench: Bench, bits: str | None, mode: str, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """One row: seconds of a call and of an image, peak bytes; or why there are none."""
    device = bench.device
    row = {
        "backbone": bench.spec.id,
        "bits": bits or str(bench.dtype).removeprefix("torch."),
        "mode": mode,
        "batch": batch,
    }
    try:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        module, stored, execution = bench.denoiser(bits)
        if mode == "compiled":
            latents, call = bench.inputs(batch)
            call(module, latents, torch.tensor(500.0, device=device))  # packed layers choose how to run, and unpack
            torch.compiler.reset()
            torch._dynamo.config.recompile_limit = 1024  # one per shape of a packed layer is usual
            module = torch.compile(module, backend=args.compile_backend)
        latents, call = bench.inputs(batch)
        timestep = torch.tensor(500.0, device=device)
        seconds = median_seconds(lambda: call(module, latents, timestep), device, args.repeats)
        image = median_seconds(lambda: bench.image(module, latents, call), device, args.repeats)
        found = {"call_s": seconds, "image_s": image, "peak_bytes": peak_memory(device)}
        return row | found | {"stored_bytes": stored, "execution": execution, "error": None}
    except torch.OutOfMemoryError:
        return row | {"error": "out of memory"}
    except Exception as error:  # a compiler may fail in any way, and the other rows are still worth having
        first = next(iter(str(error).strip().splitlines()), "")
        return row | {"error": f"{type(error).__name__}: {first}"[:120]}


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


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; factors are to half precision of the same backbone, mode and batch."""
    lines = ["| backbone | bits | mode | batch | call | of half | image | of half | peak | stored |", "|---" * 10 + "|"]
    for row in rows:
        cells = [row["backbone"], row["bits"].upper(), row["mode"], str(row["batch"])]
        if row["error"]:
            lines.append(f"| {' | '.join(cells)} | {row['error']} | | | | | |")
            continue
        base = reference(rows, row)
        share = lambda name, row=row, base=base: f"{row[name] / base[name]:.2f}x" if base else "–"
        stored = f"{row['stored_bytes'] / 2**20:.0f} MiB" + (
            f", {base['stored_bytes'] / row['stored_bytes']:.2f}x smaller" if base and base is not row else ""
        )
        cells += [
            f"{1000 * row['call_s']:.2f} ms",
            share("call_s"),
            f"{1000 * row['image_s']:.1f} ms",
            share("image_s"),
        ]
        cells += [f"{(row['peak_bytes'] or 0) / 2**30:.2f} GiB", stored]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def reference(rows: list[dict[str, Any]], row: dict[str, Any]) -> dict[str, Any] | None:
    """The row in half precision that a row is compared with, None if that has failed."""
    same = lambda other: all(other[name] == row[name] for name in ("backbone", "mode", "batch"))
    return next((other for other in rows if same(other) and not other["error"] and other["bits"] not in BITS), None)


def judged(rows: list[dict[str, Any]]) -> list[str]:
    """Each target that was measured, kept or missed by how much."""
    found = []
    for backbone, bits, limit in TARGETS:
        mine = [
            r for r in rows if (r["backbone"], r["bits"], r["mode"]) == (backbone, bits, "compiled") and not r["error"]
        ]
        row = max(mine, key=lambda r: r["batch"], default=None)
        base = row and reference(rows, row)
        if base:
            factor = row["call_s"] / base["call_s"]
            verdict = "kept" if factor <= limit else f"missed by {100 * (factor / limit - 1):.0f} %"
            found.append(
                f"{backbone} {bits.upper()} at batch {row['batch']}: {factor:.2f}x, target {limit:g}x: {verdict}"
            )
    return found


def main(argv: list[str] | None = None) -> int:
    """Check, measure, print Markdown. 0: done; 1: the device's results differ from the CPU's; 2: it cannot run here."""
    args = parser().parse_args(argv)
    quiet(offline=True)
    if args.device == "cpu" and not args.tiny:
        print("cuda.py: on the CPU only the dry run makes sense: add --tiny.", file=sys.stderr)
        return 2
    try:
        device = pick_device(args.device)
    except ValueError as error:
        print(f"cuda.py: {str(error).split(';')[0]}; --device cpu --tiny is a dry run.", file=sys.stderr)
        return 2
    checks, rows = checked(device, args.bits), []
    for id in args.backbones:
        bench = Bench(SPECS[id], device, args.tiny)
        for batch in args.batches:
            for mode in args.modes:
                for bits in (None, *args.bits):
                    rows.append(measured(bench, bits, mode, batch, args))
                    print(f"{id} {bits or 'half'} {mode} batch {batch}", file=sys.stderr)
        del bench
    data = {"device": device_name(device), "versions": versions(), "tiny": args.tiny, "repeats": args.repeats}
    data |= {"checks": checks, "rows": rows, "targets": judged(rows)}
    if not args.tiny:
        data["planned_bytes"] = {id: vars(facts(SPECS[id])) | {} for id in args.backbones}
    if args.json:
        Path(args.json).write_text(json.dumps(data, indent=1, default=dict) + "\n")
    wrong = [row for row in checks if not row["ok"]]
    worst = max(row["relative_error"] / row["limit"] for row in checks)
    print(f"{data['device']}, torch {torch.__version__}, medians of {args.repeats}{', tiny networks' * args.tiny}.\n")
    print(
        f"{table(rows)}\n\n{len(checks) - len(wrong)} of {len(checks)} checks against the CPU hold (worst: {worst:.0%} of its limit)."
    )
    print("\n".join([*data["targets"], *(f"WRONG {row}" for row in wrong)]))
    return 1 if wrong else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description="Speed and memory of quantized denoisers on a CUDA device.")
    options.add_argument("--backbones", nargs="+", default=list(REAL), choices=REAL)
    options.add_argument("--bits", nargs="+", default=list(WIDTHS), choices=BITS)
    options.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    options.add_argument("--modes", nargs="+", default=["eager", "compiled"], choices=("eager", "compiled"))
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--compile-backend", default="inductor", help="of torch.compile (default: %(default)s)")
    options.add_argument("--device", default="cuda")
    options.add_argument("--tiny", action="store_true", help="tiny networks of the same classes, to try this script")
    options.add_argument("--json", metavar="FILE")
    return options


if __name__ == "__main__":
    sys.exit(main())
