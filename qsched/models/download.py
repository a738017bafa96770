"""Before a backbone can be loaded and scored: what is missing, what it takes to have it, and the download
with its progress.
"""

import queue
import threading
from collections.abc import Iterator

import torch

from qsched.hub import fetch as hub
from qsched.hub.errors import is_offline
from qsched.hub.source import BackboneError, Source
from qsched.models import memory
from qsched.models.devices import pick_device
from qsched.models.parts import Part, parts
from qsched.models.registry import SPECS
from qsched.models.spec import BackboneSpec
from qsched.words import size

PULSE = 0.3
"""Seconds between two looks at a download."""


def sources_to_fetch(spec: BackboneSpec) -> list[Source]:
    """The sources that have to be fetched before it can be loaded; it runs without the tiny decoder and the
    scorer.
    """
    if spec.family == "emoji":
        return []
    return [source for source in spec.sources() if source != spec.tiny_vae and not hub.is_ready(source)]


def to_fetch(spec: BackboneSpec) -> list[Part]:
    """What `download_progress` fetches: all that is not here, the tiny decoder and the scorer's weights
    included.
    """
    return [part for part in parts(spec) if not part.is_here()]


def fetch_all(id: str) -> None:
    """Fetch what a backbone lacks here, if it is one that is not shipped.

    Raises:
        BackboneError: one sentence.
    """
    spec = SPECS.get(id)
    for part in to_fetch(spec) if spec and spec.family != "emoji" else ():
        part.fetch()


def download_size(spec: BackboneSpec) -> str:
    """What `download_progress` fetches at most, for people; of another repository than the family's own it is
    an estimate.
    """
    wanted = to_fetch(spec)
    text = size(sum(part.bytes for part in wanted))
    return (
        text
        if spec.source == SPECS[spec.id].source or spec.source not in {p.name for p in wanted}
        else f"about {text}"
    )


def lacks_optional(spec: BackboneSpec) -> str | None:
    """One sentence about a backbone that can be loaded but lacks scores or the tiny decoder;

    None if it has all.
    """
    wanted = [] if spec.family == "emoji" else to_fetch(spec)
    if not wanted:
        return None
    scores = any(part.of_scores for part in wanted)
    small = any(not part.of_scores for part in wanted)
    what = " and ".join(["the weights of its scores"] * scores + ["the tiny decoder"] * small)
    return f"{spec.title} runs, but {what} {'are' if scores else 'is'} not downloaded: {download_size(spec)}."


def not_downloaded(spec: BackboneSpec, device: str = "auto") -> str | None:
    """One sentence about a backbone that is not downloaded: size, licence, memory; None if it is here.

    Raises:
        BackboneError: its source is neither a folder nor the name of a repository.
    """
    needed = sources_to_fetch(spec)
    if not needed:
        return None
    for source in needed:
        hub.check_names(source)
    licence = f"licence {spec.licence}"
    if spec.source != SPECS[spec.id].source:
        licence = f"from {spec.source}, which has a licence of its own"
    elif spec.gated:
        licence += ", gated: log in and accept it on the Hub first"
    scores = " with the weights of its scores" if any(part.of_scores for part in to_fetch(spec)) else ""
    offline = "; this machine is offline, so that it cannot be fetched now" if is_offline() else ""
    return (
        f"{spec.title} is not downloaded: {download_size(spec)}{scores}, {licence}; "
        f"{memory_needed(spec, pick_device(device))}"
        f"{offline}."
    )


def cannot_run(spec: BackboneSpec, device: str = "auto") -> str | None:
    """Why a backbone cannot run here now, in one sentence: not downloaded, or too large;

    None if it can be tried.
    """
    try:
        sentence = not_downloaded(spec, device)
    except BackboneError as error:
        return str(error)
    if sentence is None and spec.architecture and spec.source == SPECS[spec.id].source:
        place = pick_device(device)
        free = memory.free_bytes(place)
        found = memory.foreseen(spec, place, free)
        sentence = None if found.fits else memory.too_large(spec, found.peak, free, place)
    return sentence


def memory_needed(spec: BackboneSpec, device: torch.device) -> str:
    """What the published model needs of the device's memory, how it runs there, and whether that much is
    free.
    """
    free = memory.free_bytes(device)
    found = memory.foreseen(spec, device, free)
    where, need = "main" if device.type == "cpu" else "GPU", size(found.peak)
    if not found.fits:
        how = f"which does not fit here ({size(free)} are free)"
    else:
        how = f"of which {size(free)} are free" if device.type == "cpu" else found.sentence
    return f"it needs {need} of {where} memory, {how}"


def require(spec: BackboneSpec, device: str = "auto") -> None:
    """Refuse what would begin with a long download.

    Raises:
        BackboneError: the sentence of `not_downloaded`.
    """
    sentence = not_downloaded(spec, device)
    if sentence is not None:
        raise BackboneError(sentence)


def download_progress(spec: BackboneSpec, pulse: float = PULSE) -> Iterator[tuple[int, int]]:
    """Fetch all that `pull` fetches; gives (bytes here, bytes in all) now and then, as the registry knows
    them first.

    Whoever stops asking does not stop the download.

    Raises:
        BackboneError: one sentence; what has arrived is kept.
    """
    wanted = to_fetch(spec)
    totals, here = [part.bytes for part in wanted], [0] * len(wanted)
    ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def note(index: int, done: int, total: int) -> None:
        here[index], totals[index] = done, total

    def work() -> None:
        try:
            for index, part in enumerate(wanted):
                part.fetch(on_progress=lambda done, total, index=index: note(index, done, total))
                here[index] = totals[index]
            ended.put(None)
        except Exception as error:
            ended.put(error)

    threading.Thread(target=work, daemon=True, name=f"download {spec.id}").start()
    while True:
        yield sum(here), sum(totals)
        try:
            error = ended.get(timeout=pulse)
        except queue.Empty:
            continue
        if error is not None:
            raise error
        yield sum(here), sum(totals)
        return
