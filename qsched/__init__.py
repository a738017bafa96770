"""Q-Sched: few-step diffusion models, quantized, and repaired by rescaling the sampling trajectory (arXiv 2509.01624)."""

from qsched.backbones import load_backbone

__all__ = ["load_backbone"]
__version__ = "0.1.0"
