"""What the events of the Compare tab do."""

import time
from collections.abc import Callable
from dataclasses import replace

import gradio as gr

from qsched.comparison.given import quantization_of, settings_of
from qsched.comparison.result import Settings
from qsched.evaluation.gallery import load_gallery
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.server.engine import Engine, named
from qsched.server.known import SOURCE
from qsched.server.lent import at_hand
from qsched.ui import fragments, values
from qsched.ui.compare import download as download_view
from qsched.ui.compare import glance, links
from qsched.ui.compare.card import card_file
from qsched.ui.compare.results import drafted, wiped
from qsched.ui.compare.script import script_shown
from qsched.ui.compare.view import UNKNOWN, CompareView
from qsched.ui.errors import explained, reports_errors, toast
from qsched.ui.visitors import CHOOSE_SOURCE, DOWNLOAD, is_local, require_local
from qsched.words import steps_in_words

REPEAT_S = 2.0
"""A refusal is not repeated to the same page for so long."""
PATIENCE_S = 3.0
"""What takes longer than this is announced."""


def patience() -> Callable[[int, int], None]:
    """For Engine.compare: says once on the page that a method of quantizing calibrates, and how long that
    will take; the end of the work takes the sentence away (page.js)."""
    began, announced = time.monotonic(), []

    def report(done: int, total: int) -> None:
        left = (time.monotonic() - began) * (total - done) / done if done else 0.0
        if left > PATIENCE_S and not announced:
            announced.append(done)
            gr.Info(
                f"This method calibrates first, once: about {left:.0f} s. The sliders work meanwhile.",
                duration=None,
            )

    return report


class CompareTab(CompareView):
    """Handlers of one page's Compare tab, which only translate between its widgets and the engine."""

    def __init__(self, engine: Engine, dark: gr.Checkbox):
        super().__init__(engine, dark)
        self._refused: dict[str | None, tuple[tuple, float]] = {}

    def open(self, request: gr.Request, dark: bool, left: str, right: str):
        """The first images of a visit, from the link's settings or the opening ones, which also stand in for
        a link that cannot be shown.
        """
        c = self.controls
        link = links.read_link(request.query_params, self.engine.default, sources=is_local(request))
        backbone, settings, coefficients, shape, k = links.resolve(self.engine, link)
        notes, wanted = link.notes, (backbone, settings)
        try:
            if settings.tiny_decoder and not self.engine.has_tiny_decoder(backbone, load=True):
                notes += ("There is no tiny decoder here: the full one is used.",)
                settings = replace(settings, tiny_decoder=False)
                wanted = backbone, settings
            self.engine.compare(request.session_hash, backbone, settings, coefficients)
        except Exception as error:
            notes += (f"The link cannot be shown. {explained(error, 'open')}",)
            if download_view.can_load(self.engine, backbone):
                wanted = (self.engine.default, self.engine.opening()[0])
            backbone, (settings, coefficients) = self.engine.default, self.engine.opening()
            shape = coefficients.shape
            self.engine.compare(request.session_hash, backbone, settings, coefficients)
        self.engine.sessions.weigh(request.session_hash, k)
        updates = self.everything(request, dark, left, right, shape, notes) | {self.results.k: k}
        asked = wanted[1]
        usual = asked.quantization == Quantization(asked.quantization.bits) and not asked.tiny_decoder
        updates |= self.settings_shown(*wanted, {c.source: ""})
        updates |= download_view.download_note(c, self.engine, wanted[0])
        return updates | {self.dark: dark, c.advanced: gr.update(open=not usual or SOURCE in wanted[0])}

    def asked(self, request: gr.Request, given: dict) -> tuple[str, Settings]:
        """The backbone and the settings that the widgets show."""
        c, held = self.controls, self.engine.session(request.session_hash)
        backbone = self.name(request, given[c.backbone], given[c.source])
        spec = self.engine.spec(backbone)
        named_values = {n: given[widget] for n, widget in c.settings.items()}
        if held and held.backbone != backbone and named_values["steps"] not in spec.steps:
            named_values["steps"] = spec.default_steps
        settings = settings_of(named_values)
        if settings.tiny_decoder and not self.engine.has_tiny_decoder(backbone, load=True):
            settings = replace(settings, tiny_decoder=False)
        return backbone, settings

    def picked(self, request: gr.Request, given: dict):
        """As `generate`, after a pick in a list: nothing to do if it picks what is shown (gradio calls this
        twice for one pick with the mouse, and for none when a list is left), and of a backbone that has to be
        downloaded first only the note and the button appear."""
        c, held = self.controls, self.engine.session(request.session_hash)
        name = self.name(request, given[c.backbone], given[c.source])
        shown = download_view.download_note(c, self.engine, name)
        if not download_view.can_load(self.engine, name):
            return shown
        how = quantization_of({n: given[widget] for n, widget in c.quantization.items()})
        tiny = given[c.decoder] == "tiny" and self.engine.has_tiny_decoder(name)
        wish, page = (name, given[c.steps], how, tiny), request.session_hash
        if held is not None:
            now = held.comparison.settings
            if wish == (held.backbone, now.steps, now.quantization, now.tiny_decoder):
                return shown
        refused, when = self._refused.get(page, (None, 0.0))
        if wish == refused and time.monotonic() - when < REPEAT_S:
            return shown
        try:
            return self.generate(request, given) | shown
        except Exception:
            self._refused[page] = wish, time.monotonic()
            raise

    def restore(self, request: gr.Request):
        """The lists as they belong to what is shown, after a pick that could not be had."""
        held = self.held(request)
        updates = self.settings_shown(held.backbone, held.comparison.settings)
        for typed in (self.controls.prompt, self.controls.seed):
            del updates[typed]
        return updates

    def sync(self, request: gr.Request, dark: bool, left: str, right: str):
        """The newest state of the session, for a page on which an older answer arrived after a newer one."""
        updates = self.everything(request, dark, left, right)
        return updates | {self.controls.state: links.stamp(self.held(request), final=True)}

    def generate(self, request: gr.Request, given: dict):
        """Make the three images for these settings; whoever stood where the coefficients begin
        stays there.
        """
        held = self.engine.session(request.session_hash)
        backbone, settings = self.asked(request, given)
        coefficients = followed = links.followed(self.engine, held, backbone, settings)
        shape = given[self.controls.shape] if coefficients is None else coefficients.shape
        if coefficients is None:
            coefficients = self.coefficients(given, settings.steps)
        self.engine.compare(request.session_hash, backbone, settings, coefficients, patience())
        newest = self.held(request)
        if newest.comparison.coefficients != coefficients:  # the sliders have moved on meanwhile
            shape = newest.comparison.coefficients.shape
        pair = (given[widget] for widget in (self.dark, self.results.left, self.results.right))
        updates = self.everything(request, *pair, shape)
        if followed is None:  # the sliders say it themselves, and a hand may have moved them meanwhile
            for slider in self.controls.sliders:
                updates[slider].pop("value")
        if updates[self.controls.decoder]["value"] == given[self.controls.decoder]:
            updates[self.controls.decoder].pop("value")  # as for what settings_shown leaves out
        if held and held.backbone != backbone:
            updates |= self.settings_shown(backbone, settings, given)
        return updates

    def follow(self, request: gr.Request, given: dict):
        """Move the coefficients under a hand that is moving: a draft by the small decoder where that is
        chosen, which the page has replaced as soon as the hand rests."""
        held, image = self.engine.session(request.session_hash), None
        try:
            if held:
                coefficients = self.coefficients(given, held.comparison.settings.steps)
                if self.engine.lends(held.backbone) and not at_hand(held, coefficients):
                    wait = fragments.not_asked(coefficients)
                    return {self.results.captions[2]: wait, self.controls.hint: ""}
                if given[self.controls.drafts]:
                    image = self.engine.sketch(request.session_hash, coefficients)
        except Exception as error:
            return {self.controls.hint: fragments.notes((explained(error, "adjust"),))}
        if image is None:
            return self.adjust(request, given)
        return drafted(self.results, image) | {self.controls.hint: ""}

    def adjust(self, request: gr.Request, given: dict):
        """Move the coefficients: only the Q-Sched image is made again, with steps - 1 denoiser calls.

        Runs outside the queue, which halves the way to the page but knows no toasts: what goes wrong is said
        under the sliders.
        """
        held = self.engine.session(request.session_hash)
        if held is None:
            return {self.controls.hint: fragments.notes((UNKNOWN,))}
        try:
            coefficients = self.coefficients(given, held.comparison.settings.steps)
            return self.third_shown(self.rescaled(request, coefficients))
        except Exception as error:
            # where nothing was asked for yet, the last image's numbers come back
            back = self.third_shown(self.held(request)) if self.engine.lends(held.backbone) else {}
            return back | {self.controls.hint: fragments.notes((explained(error, "adjust"),))}

    def reshape(self, request: gr.Request, shape: str, dark: bool):
        """Another shape over the steps, starting from the current coefficients."""
        comparison = self.held(request).comparison
        steps = comparison.settings.steps
        rows = values.sliders_from(comparison.coefficients, steps, shape)
        return self.moved(values.coefficients_from(shape, *rows, steps), request, dark, shape)

    def best(self, request: gr.Request, dark: bool):
        """The best known coefficients of the shipped preset at the session's k."""
        held = self.held(request)
        settings = held.comparison.settings
        preset = self.engine.preset(held.backbone, settings.quantization, settings.steps)
        if preset is None:
            toast(
                f"No best known coefficients for {settings.quantization.bits.upper()} at "
                f"{steps_in_words(settings.steps)} yet: a search makes them."
            )
        return self.moved(preset.best(held.k), request, dark)

    def name(self, request: gr.Request, backbone: str, source: str) -> str:
        """What the engine calls a backbone from this source; the source of the backbone that is left is not
        taken along.
        """
        held = self.engine.session(request.session_hash)
        id, _, left = held.backbone.partition(SOURCE) if held else (backbone, "", "")
        name = backbone if id != backbone and left == (source or "").strip() else named(backbone, source)
        if SOURCE in name:
            require_local(request, CHOOSE_SOURCE)
        return name

    def download_state(self, request: gr.Request, backbone: str, source: str):
        """Whether the chosen backbone has to be downloaded first, and the button for it."""
        return download_view.download_note(self.controls, self.engine, self.name(request, backbone, source))

    def download(self, request: gr.Request, backbone: str, source: str):
        """Fetch the chosen backbone, with its progress."""
        require_local(request, DOWNLOAD)
        yield from download_view.download(self.controls, self.engine, self.name(request, backbone, source))

    def reset(self, request: gr.Request, shape: str, dark: bool):
        """c_x = c_eps = 1: the plain scheduler, which needs no denoiser call."""
        return self.moved(Coefficients.identity(), request, dark, shape)

    def glance(self, request: gr.Request):
        """What the session looks at, at all bit-widths."""
        held = self.held(request)
        found = self.engine.each_bit_width(request.session_hash)
        known = lambda settings: self.engine.best_known(held.backbone, settings, held.k) is not None
        yield from glance.cards(self.results.glance, held, found, known)

    def go_to_example(self, request: gr.Request, event: gr.EventData, dark: bool, left: str, right: str):
        """The clicked example of the gallery, as it was compared there."""
        shipped = load_gallery(self.engine.default)
        settings = shipped.compared(event.index) or toast("There is no such example.")
        coefficients = self.engine.start(self.engine.default, settings, shipped.k)
        self.engine.compare(request.session_hash, self.engine.default, settings, coefficients)
        updates = self.everything(request, dark, left, right)
        return updates | self.settings_shown(self.engine.default, settings)

    def wipe(self, request: gr.Request, left: str, right: str):
        """The two chosen images on top of each other; later changes of an image the browser
        copies by itself.
        """
        return wiped(self.held(request).comparison, left, right)

    def example(self, sample: list[str]) -> str:
        """The prompt of a chosen example."""
        if not isinstance(sample, list) or not sample:
            toast("There is no such example.")
        return str(sample[0])

    def complain(self, given: dict) -> None:
        """Called when the hint changes: a number out of range ends as a toast before this line is reached."""

    def card(self, request: gr.Request):
        """The share card, as a file; the link in it leads to the address that the page was asked from."""
        return card_file(self.held(request), request.headers.get("origin", ""))

    def script(self, request: gr.Request) -> str:
        """The script that makes the Q-Sched image."""
        self.held(request)
        return script_shown(self.engine, request.session_hash)

    def saver(self, write: Callable) -> Callable:
        """A handler that writes a download of the session."""

        def save(request: gr.Request):
            return write(self.held(request))

        save.__name__, save.__doc__ = write.__name__, write.__doc__
        return reports_errors(save)

    def forget(self, request: gr.Request) -> None:
        """Free what a closed tab held."""
        self._refused.pop(request.session_hash, None)
        self.engine.forget(request.session_hash)
