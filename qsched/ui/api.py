"""What scripts can call: one endpoint that does what the page does and answers with numbers."""

import uuid
from collections.abc import Callable
from typing import Any

from qsched.coefficients import Coefficients
from qsched.comparison import Settings, record
from qsched.scoring import K_DEFAULT
from qsched.ui import values
from qsched.ui.engine import Engine


def public_compare(engine: Engine) -> Callable[..., dict]:
    """The endpoint /compare of an engine."""

    def compare(
        prompt: str,
        bits: str = "w4a8",
        seed: int = 0,
        steps: int = 4,
        c_x: list[float] | None = None,
        c_eps: list[float] | None = None,
        backbone: str = engine.default,
        k: float = K_DEFAULT,
    ) -> dict[str, Any]:
        """Compare full precision, naive quantization and Q-Sched on one prompt; answers with everything that reproduces it.

        Args:
            prompt: what to draw.
            bits: bit-width such as w4a8.
            seed: of the noise.
            steps: denoiser calls per picture.
            c_x: one number (constant), two (first and last step) or one per step; empty for the best known.
            c_eps: likewise.
            backbone: id of the model.
            k: weight of CLIP-IQA in JAQ, 0 to 5.
        """
        settings = Settings(prompt, seed, steps, values.quantization_from(bits, None, "token", "all", True))
        k = values.k_from(k)
        if c_x or c_eps:
            pick = lambda numbers: 1.0 if not numbers else numbers[0] if len(numbers) == 1 else tuple(numbers)
            coefficients = Coefficients(pick(c_x), pick(c_eps))
        else:
            coefficients = engine.best_known(backbone, settings, k) or Coefficients.identity()
        visit = f"api-{uuid.uuid4().hex}"
        try:
            comparison = engine.compare(visit, backbone, settings, coefficients)
        finally:
            engine.forget(visit)
        return record(engine.backbone(backbone), comparison, k)

    return compare
