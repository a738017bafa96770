"""Closed-form coefficients for what one session looks at."""

from qsched.evaluation.closed_form import Fit, fit
from qsched.hub.source import BackboneError
from qsched.models.base import Backbone
from qsched.server.engine import Engine
from qsched.server.sessions import Session


def fit_session(engine: Engine, held: Session) -> Fit:
    """Least squares of the full-precision prediction on the quantized one, for the session's prompt, seed and
    settings: two denoiser calls a step.

    Raises:
        BackboneError: its backbone computes on a lent GPU. ValueError: a prediction is not finite.
    """
    if engine.lends(held.backbone):
        raise BackboneError("On a GPU that is lent for seconds nothing is fitted: use the command line.")
    settings = held.comparison.settings

    def work(backbone: Backbone) -> Fit:
        backbone.use(settings.steps)
        module = backbone.quantized(settings.quantization).module
        return fit(backbone, module, [settings.prompt], settings.steps, seed=settings.seed)

    return engine.on_device(held.backbone, work)
