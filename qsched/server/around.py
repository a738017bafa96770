"""The loss surface around what one session looks at."""

from collections.abc import Iterator
from functools import partial

from qsched.hub.source import BackboneError
from qsched.sampling.slices import Slice
from qsched.search.around import slice_around
from qsched.search.options import SearchOptions
from qsched.server.engine import Engine


def map_around(engine: Engine, session: str) -> Iterator[Slice]:
    """The surface of the session's image around its coefficients, a row of cells at a time; each becomes its
    map. Ends early when the session goes on to other settings, or to coefficients that are not on it;
    visitors' images are made first.

    Raises:
        BackboneError: its backbone computes on a lent GPU, which would be asked for at each row.
    """
    held = engine.session(session)
    if engine.lends(held.backbone):
        raise BackboneError("On a GPU that is lent for seconds, no map is made: a search makes them.")
    settings = held.comparison.settings
    options = SearchOptions(
        settings.quantization,
        [settings.prompt],
        settings.steps,
        settings.seed,
        seeds=1,
        tiny_decoder=settings.tiny_decoder,
    )
    run = partial(engine.device_thread.run, patient=True)
    rows = slice_around(
        engine.backbone(held.backbone), options, held.comparison.coefficients, "this prompt and seed", run
    )
    for found in rows:
        if not engine.sessions.show_map(session, held.comparison, found):
            return
        yield found
        now = engine.session(session)
        if now is None or not found.holds(now.comparison.coefficients, settings.steps):
            return
