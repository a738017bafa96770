"""Q-Sched: few-step diffusion models, quantized, and repaired by rescaling the sampling trajectory (arXiv
2509.01624).
"""

from typing import Any

from qsched.version import __version__

__all__ = ["__version__", "load_backbone"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for, so that `from qsched.schedulers import ...` needs only diffusers.
    if name == "load_backbone":
        from qsched.load import load_backbone

        return load_backbone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
