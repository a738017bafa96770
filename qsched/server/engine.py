"""What stands behind the page: loaded backbones, one thread for the device, and what each browser session is
looking at.

No gradio here. A session is known by its hash; it holds one Comparison, which is plain CPU data.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin
from PIL.Image import Image

from qsched.comparison.comparison import compare, lacks_lpips, rescale, sketch
from qsched.comparison.result import Comparison, Settings
from qsched.hub.source import BackboneError
from qsched.load import load_backbone
from qsched.models.base import Backbone
from qsched.models.devices import pick_device
from qsched.models.diffusers_folder import scheduler_of
from qsched.models.memory import out_of_memory
from qsched.models.methods import calibrate
from qsched.models.parts import has_tiny_decoder
from qsched.models.registry import SPECS
from qsched.models.spec import BackboneSpec
from qsched.presets import PRESETS
from qsched.quantization import Quantization
from qsched.quantizers.methods import METHODS
from qsched.sampling.coefficients import Coefficients
from qsched.scoring import K_DEFAULT
from qsched.server.device_thread import DeviceThread
from qsched.server.heap import give_back
from qsched.server.known import SOURCE, KnownPresets
from qsched.server.lent import LentGPU
from qsched.server.sessions import Session, Sessions
from qsched.settings import MAIN_BITS

LOADED_BACKBONES = 2


def _on_device(method: Callable) -> Callable:
    """A method of Engine that runs on its device's thread."""

    @functools.wraps(method)
    def queued(self: "Engine", *arguments: Any) -> Any:
        return self.device_thread.run(functools.partial(method, self, *arguments))

    return queued


class Engine(KnownPresets):
    """Computes comparisons for many sessions on one device, one at a time.

    Args:
        backbone: id that a first visitor sees. source: a folder or Hub id for that backbone. device: "auto"
            or a torch device.
        load: as load_backbone; None is that, for what is downloaded. presets: folder of the presets.
        lend: on a machine whose GPU is lent for seconds, such as spaces.GPU: wraps a function so that it runs
            in another process that has the GPU. The embedded model then runs on the CPU in this one.
    """

    def __init__(
        self,
        backbone: str = "emoji-lcm",
        source: str | None = None,
        device: str = "auto",
        *,
        load: Callable[..., Backbone] | None = None,
        presets: Path = PRESETS,
        lend: Callable[..., Callable] | None = None,
    ):
        if backbone not in SPECS:
            raise ValueError(f"Unknown backbone {backbone!r}; known are {', '.join(SPECS)}.")
        self.default, self.source, self.device = backbone, source, device
        super().__init__(presets)
        self._load = load or load_downloaded
        self.sessions = Sessions()
        there = self._compare_here, self._rescale_here, self.sessions, self.is_loaded
        self.lent = LentGPU(lend, *there) if lend else None
        self.device_thread = DeviceThread()
        """Whatever computes runs here; a long job that hands it its batches one by one lets the others in
        between.
        """
        self._backbones: OrderedDict[str, Backbone] = OrderedDict()
        self._opening: dict[tuple, Comparison] = {}

    def spec(self, backbone: str) -> BackboneSpec:
        """The facts about a backbone, without loading it; its source is the one that is used."""
        id, _, source = backbone.partition(SOURCE)
        if id not in SPECS:
            raise ValueError(f"Unknown backbone {backbone!r}; known are {', '.join(SPECS)}.")
        source = source or (self.source if id == self.default else None)
        return SPECS[id].at(source) if source else SPECS[id]

    def called(self, id: str, source: str | None) -> str:
        """The name of a backbone from this source; None: from its own."""
        return id if id == self.default and source == self.source else named(id, source)

    def lends(self, backbone: str) -> bool:
        """Whether a backbone computes on a lent GPU, in another process."""
        return self.lent is not None and self.spec(backbone).family != "emoji"

    def backbone(self, backbone: str) -> Backbone:
        """The loaded backbone; the latest two stay in memory. One that computes on a lent GPU is for the
        process that has it.
        """
        load = functools.partial(self._backbone_here, backbone)
        return load() if self.lends(backbone) else self.device_thread.run(load)

    def _backbone_here(self, backbone: str) -> Backbone:
        spec = self.spec(backbone)
        device = "cpu" if self.lent and spec.family == "emoji" else self.device
        for name, other in self._backbones.items():
            if name != backbone and self.lends(name) == self.lends(backbone):  # else they share no device
                other.release()
        if backbone not in self._backbones:
            self._backbones[backbone] = self._load(spec.id, device=device, source=spec.chosen)
            while len(self._backbones) > LOADED_BACKBONES:
                self._backbones.popitem(last=False)
        self._backbones.move_to_end(backbone)
        return self._backbones[backbone]

    def scheduler(self, backbone: str) -> SchedulerMixin:
        """The backbone's stock scheduler; no large model is loaded for it."""
        spec, loaded = self.spec(backbone), self._backbones.get(backbone)
        if loaded is None and spec.family != "emoji":
            return scheduler_of(spec)
        return (loaded or self.backbone(backbone)).scheduler

    def is_loaded(self, backbone: str) -> bool:
        """Whether a backbone is in memory."""
        return backbone in self._backbones

    def has_tiny_decoder(self, backbone: str, load: bool = False) -> bool:
        """Whether a backbone can decode with a small decoder; load: it is loaded here anyway."""
        if load and not self.lends(backbone):
            return self.backbone(backbone).has_tiny_decoder
        loaded = self._backbones.get(backbone)
        return loaded.has_tiny_decoder if loaded else has_tiny_decoder(self.spec(backbone))

    @_on_device
    def reload(self, backbone: str) -> None:
        """Forget a loaded backbone, whose files have changed: it is loaded anew when it is used."""
        self._backbones.pop(backbone, None)

    def opening(self, backbone: str | None = None) -> tuple[Settings, Coefficients]:
        """What a first visitor of a backbone looks at: its first example with the best known coefficients."""
        spec = self.spec(backbone or self.default)
        settings = Settings(
            spec.examples[0] if spec.examples else "a red apple",
            0,
            spec.default_steps,
            Quantization(spec.default_bits),
        )
        return settings, self.start(backbone or self.default, settings, K_DEFAULT)

    def warm_up(self) -> None:
        """Load the default backbone and make the first visitor's images, after a first run, so that all
        latencies are alike.
        """
        settings, coefficients = self.opening()
        if self.lends(self.default):
            self.backbone(
                self.default
            ).place()  # in this thread, where a lent GPU's stand-in takes it for later
            return
        self.compare("", self.default, replace(settings, prompt="warm-up"), Coefficients.identity())
        self.compare("", self.default, settings, coefficients)
        self.forget("")

    def compare(
        self,
        session: str,
        backbone: str,
        settings: Settings,
        coefficients: Coefficients,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Comparison:
        """All three columns for a session, reusing what it already has; the opening images are made once for
        everyone.

        on_progress: called with (done, all) while a method of quantizing sees the model at work; between two
            calls other sessions have the device.
        """
        if self.lends(backbone):
            settings.check_for(self.spec(backbone), self.has_tiny_decoder(backbone))
            return self.lent.compare(session, backbone, settings, coefficients)
        for piece in self.calibrating(backbone, settings):
            on_progress(*piece)
        return self._compare_all(session, backbone, settings, coefficients)

    def calibrating(self, backbone: str, settings: Settings) -> Iterator[tuple[int, int]]:
        """Let a method see the model at work, a piece at a time, with (done, all) after each; in between
        others have the device. Needed by nobody, since quantizing does what is left; ends early where others
        change the model meanwhile."""
        method, before = METHODS.get(settings.quantization.method), -1
        if method is None or method.calibrate is None:
            return
        while (piece := self._calibrate(backbone, settings)) is not None and piece[0] > before:
            yield piece
            before = piece[0]

    @_on_device
    def _calibrate(self, backbone: str, settings: Settings) -> tuple[int, int] | None:
        with self._memory(backbone):
            loaded = self.backbone(backbone)
            settings.check(loaded)
            loaded.use(settings.steps)
            return calibrate(loaded, settings.quantization)

    @_on_device
    def _compare_all(
        self, session: str, backbone: str, settings: Settings, coefficients: Coefficients
    ) -> Comparison:
        key = (backbone, settings, coefficients)
        opening = self._opening.get(key)
        loaded = self._backbones.get(backbone)
        if opening is not None and not (loaded and lacks_lpips(opening, loaded.scorer())):
            comparison = opening
        else:
            held = self.sessions.get(session)
            previous = held.comparison if held and held.backbone == backbone else None
            comparison = self._compare_here(backbone, settings, coefficients, previous)
            if key[1:] == self.opening(backbone) and comparison.naive.scored:
                self._opening[key] = comparison
        self.sessions.keep(session, backbone, comparison)
        return comparison

    def rescale(self, session: str, coefficients: Coefficients) -> Comparison | None:
        """The session's comparison with other coefficients: steps - 1 denoiser calls, none if seen before;

        None if the session is unknown. On a lent GPU: with the nearest coefficients of a grid, and one call
        computes those around them, too.
        """
        held = self.sessions.get(session)
        if held is None:
            return None
        if self.lends(held.backbone):
            with self.sessions.turn(session):
                held = self.sessions.get(session)  # the newest, after what was waited for
                if held and self.lends(held.backbone):
                    return self.lent.rescale(session, held, coefficients)
        return self._rescale_all(session, coefficients)

    @_on_device
    def _rescale_all(self, session: str, coefficients: Coefficients) -> Comparison | None:
        held = self.sessions.get(session)
        if held is None:
            return None
        comparison = held.at(coefficients) or self._rescale_here(held.backbone, held.comparison, coefficients)
        self.sessions.keep(session, held.backbone, comparison)
        return comparison

    def each_bit_width(self, session: str) -> Iterator[tuple[str, Comparison]]:
        """What a session looks at, at each of MAIN_BITS with the best known coefficients; it keeps what it
        has.

        Raises:
            BackboneError: its backbone computes on a lent GPU, which would be asked for at each.
        """
        held = self.sessions.get(session)
        if self.lends(held.backbone):
            raise BackboneError("On a GPU that is lent for seconds, choose one bit-width at a time.")
        for bits in MAIN_BITS:
            quantization = replace(held.comparison.settings.quantization, bits=bits)
            settings = replace(held.comparison.settings, quantization=quantization)
            coefficients = self.start(held.backbone, settings, held.k)
            make = functools.partial(
                self._compare_here, held.backbone, settings, coefficients, held.comparison
            )
            yield bits, self.device_thread.run(make, patient=True)

    @_on_device
    def on_device(self, backbone: str, work: Callable[[Backbone], Any]) -> Any:
        """What `work` returns of the loaded backbone, on the device's thread."""
        with self._memory(backbone):
            return work(self.backbone(backbone))

    def sketch(self, session: str, coefficients: Coefficients) -> Image | None:
        """The session's Q-Sched image by the small decoder, see `qsched.comparison.comparison.sketch`; None
        too where the session is unknown, or another process computes."""
        held = self.sessions.get(session)
        loaded = self._backbones.get(held.backbone) if held and not self.lends(held.backbone) else None
        if loaded is None or not loaded.has_tiny_decoder or held.at(coefficients):
            return None
        return self.on_device(held.backbone, lambda here: sketch(here, held.comparison, coefficients))

    def session(self, session: str) -> Session | None:
        """What a session looks at, None if nothing yet."""
        return self.sessions.get(session)

    def forget(self, session: str) -> None:
        """Free what a closed tab held."""
        self.device_thread.run(functools.partial(self.sessions.forget, session))
        give_back()

    def _compare_here(
        self, backbone: str, settings: Settings, coefficients: Coefficients, previous: Comparison | None
    ) -> Comparison:
        with self._memory(backbone):
            return compare(self.backbone(backbone), settings, coefficients, previous)

    def _rescale_here(self, backbone: str, comparison: Comparison, coefficients: Coefficients) -> Comparison:
        with self._memory(backbone):
            return rescale(self.backbone(backbone), comparison, coefficients)

    @contextmanager
    def _memory(self, backbone: str) -> Iterator[None]:
        """Out of memory inside is one sentence with what would fit, and the device is free again
        afterwards.
        """
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            for loaded in self._backbones.values():
                loaded.release()
            raise BackboneError(out_of_memory(self.spec(backbone), pick_device(self.device))) from error


def named(backbone: str, source: str | None = None) -> str:
    """The name of a backbone from another folder or repository of its family; empty: from its own."""
    source = (source or "").strip()
    return f"{backbone}{SOURCE}{source}" if source else backbone


def load_downloaded(id: str, device: str = "auto", source: str | None = None) -> Backbone:
    """As load_backbone, but what is not here is not fetched.

    Raises:
        BackboneError: what it would take, in one sentence.
    """
    from qsched.models.download import require

    if id in SPECS:
        require(SPECS[id].at(source) if source else SPECS[id], device)
    return load_backbone(id, device=device, source=source)
