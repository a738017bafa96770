"""Figures: the loss surface with its noise, and how its optimum moves with k (matplotlib without pyplot)."""

from qsched.plots.geometry import SurfaceImage
from qsched.plots.heatmap import surface_figure
from qsched.plots.look import SIZE
from qsched.plots.sweep import k_sweep_figure
from qsched.plots.working import WorkingCell

__all__ = ["SIZE", "SurfaceImage", "WorkingCell", "k_sweep_figure", "surface_figure"]
