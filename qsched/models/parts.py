"""All that has to be on this machine for a backbone to run and be scored without a network, and how each part
comes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qsched.hub import fetch as hub
from qsched.hub.source import Source
from qsched.models.spec import BackboneSpec

PHOTO_SCORER = "clip-l14"
"""Who scores photographs unless another scorer is asked for."""


@dataclass(frozen=True)
class Part:
    """Something to fetch.

    name: a repository or an address. bytes: its size as the registry knows it. of_scores: it only judges
        images.
    is_here: whether `fetch` would return at once. fetch: takes offline and on_progress as
    qsched.hub.fetch.fetch does, gives its folder or file, and raises BackboneError.
    """

    name: str
    bytes: int
    of_scores: bool
    is_here: Callable[[], bool]
    fetch: Callable[..., Path]


def parts(spec: BackboneSpec, scorer: str = PHOTO_SCORER) -> list[Part]:
    """The backbone's own parts, then those of its scorer, LPIPS included; the embedded one brings its own.

    Raises:
        ValueError: unknown scorer.
    """
    own = [_own(source) for source in spec.sources()]
    return own if spec.family == "emoji" else own + _of_scores(scorer)


def remote_parts(spec: BackboneSpec, scorer: str = PHOTO_SCORER) -> list[Part]:
    """What `pull` fetches: of all parts those that are no folder of this machine.

    Raises:
        ValueError: unknown scorer.
    """
    return [part for part in parts(spec, scorer) if not Path(part.name).expanduser().is_dir()]


def has_tiny_decoder(spec: BackboneSpec) -> bool:
    """Whether the small decoder is here, for a backbone that is not loaded."""
    return spec.tiny_vae is not None and hub.is_ready(spec.tiny_vae)


def _own(source: Source) -> Part:
    return Part(source.repo, source.bytes, False, partial(hub.is_ready, source), partial(hub.fetch, source))


def _of_scores(scorer: str) -> list[Part]:
    from qsched.scoring import lpips, weights  # scoring knows the backbones
    from qsched.scoring.loading import scorer_weights

    def part(wanted: weights.Weights) -> Part:
        is_here = lambda: wanted.here is not None
        return Part(wanted.source.repo, wanted.source.bytes, True, is_here, partial(weights.fetch, wanted))

    alexnet = Part(
        lpips.ALEXNET, lpips.ALEXNET_BYTES, True, lambda: lpips.alexnet_place().is_file(), lpips.fetch_alexnet
    )
    return [*map(part, scorer_weights(scorer)), alexnet]
