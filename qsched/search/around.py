"""The loss surface around any coefficients: a slice through the space of all of them."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from qsched.models.base import Backbone
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.slices import Slice
from qsched.search.job import Device, Job
from qsched.search.options import Candidate, SearchOptions, grid
from qsched.surfaces.surface import Surface

LOW, HIGH, CELLS = 0.6, 1.4, 9
"""The axes, which widen for coefficients outside."""


def slice_around(
    backbone: Backbone,
    options: SearchOptions,
    coefficients: Coefficients,
    of: str,
    device: Device | None = None,
) -> Iterator[Slice]:
    """The slice through these coefficients, a row of cells at a time, the nearest first.

    Args:
        options: the images that are scored; its own grid and shape are not used.
        of: says in words which images these are.
        device: runs every batch; a queue here lets other work in between.
    Yields:
        a Slice whose surface has the rows so far; the rest are NaN.
    Raises:
        ValueError: settings that cannot be run.
        SearchError: one image alone does not fit the device's memory.
    """
    options = replace(options, strategy="shared", shape="constant").checked(backbone)
    coefficients.expand(options.steps)
    (c_x, c_eps), job = coefficients.first, Job(backbone, options, device=device)
    empty = Surface.empty(_axis(c_x), _axis(c_eps), options.images, len(options.prompts))
    found = Slice(empty, coefficients, of)
    surface = found.surface
    for i in np.argsort(np.abs(np.asarray(surface.c_eps) - c_eps), kind="stable").tolist():
        row = [_candidate(found.at(x, surface.c_eps[i])) for x in surface.c_x]
        for j, scores in enumerate(job.compute(row)):
            surface.record(i, j, *scores)
        yield found


def _axis(value: float) -> tuple[float, ...]:
    return grid(min(LOW, value), max(HIGH, value), CELLS)


def _candidate(coefficients: Coefficients) -> Candidate:
    rows = (coefficients.c_x, coefficients.c_eps)
    count = max(len(row) if isinstance(row, tuple) else 1 for row in rows)
    return Candidate(*(row if isinstance(row, tuple) else (row,) * count for row in rows))
