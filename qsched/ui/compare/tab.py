"""The Compare tab: its widgets and handlers, which only translate between widgets and the engine."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import gradio as gr

from qsched.comparison.comparison import Settings
from qsched.comparison.given import named_quantization, quantization_of, settings_of
from qsched.evaluation.gallery import load_gallery
from qsched.presets import Preset
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.server.engine import SOURCE, Engine, named
from qsched.server.lent import at_hand
from qsched.server.sessions import Session
from qsched.ui import fragments, values
from qsched.ui.compare import download as download_view
from qsched.ui.compare import glance, links, surface_view
from qsched.ui.compare.card import card_file
from qsched.ui.compare.controls import Controls, build_controls, slider_updates
from qsched.ui.compare.results import (
    Results,
    all_columns,
    build_results,
    drafted,
    third_column,
    wiped,
)
from qsched.ui.compare.script import script_shown
from qsched.ui.errors import explained, reports_errors, toast
from qsched.ui.visitors import CHOOSE_SOURCE, DOWNLOAD, is_local, require_local
from qsched.words import steps_in_words

UNKNOWN = "The server no longer knows this page, perhaps it was restarted: press Generate."
REPEAT_S = 2.0
"""A refusal is not repeated to the same page for so long."""
QUICK_S = 1.0
"""Three images in less than this are drawn while somebody types."""
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


class CompareTab:
    """Widgets and events of one page; the engine is shared by all sessions.

    Args:
        dark: a hidden checkbox that the browser keeps at the page's colour scheme.
    """

    def __init__(self, engine: Engine, dark: gr.Checkbox):
        self.engine, self.dark = engine, dark
        self._refused: dict[str | None, tuple[tuple, float]] = {}
        settings, coefficients = engine.opening()
        with gr.Row(elem_classes=["q-columns", "q-compare"]):
            with gr.Column(elem_classes="q-side", min_width=280, scale=0):
                self.controls: Controls = build_controls(settings, coefficients, engine.default)
            with gr.Column(elem_classes="q-main", min_width=320, scale=1):
                self.results: Results = build_results(engine.default)

    @property
    def shown(self) -> list:
        """Outputs of `everything`."""
        c, r = self.controls, self.results
        return [*self.third, *r.images[:2], *r.captions[:2], r.path, r.notes, r.definition, r.wipe, c.device,
            c.decoder, c.drafts, *r.map, c.best, c.search]  # fmt: skip

    @property
    def third(self) -> list:
        """Outputs of `adjust`, and the sliders."""
        c = self.controls
        return [*self.results.qsched, c.shape, c.hint, c.state, *c.sliders]

    @property
    def placed(self) -> list:
        """Outputs of `moved`."""
        return [*self.third, *self.results.map, self.controls.best]

    @property
    def chosen(self) -> list:
        """Outputs of `settings_shown`."""
        c = self.controls
        return [c.backbone, c.steps, c.prompt, c.seed, c.examples, c.source, *c.quantization.values()]

    @property
    def download_note(self) -> list:
        """Outputs of `download_state`."""
        return [self.controls.download_note, self.controls.download]

    # --- what an event shows --------------------------------------------------------------------------------

    def everything(
        self,
        request: gr.Request,
        dark: bool,
        left: str,
        right: str,
        shape: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> dict:
        """Outputs for the whole tab; notes: sentences to show before those of the comparison."""
        held = surface_view.choose(self.engine, request.session_hash, self.held(request))
        c, r, comparison = self.controls, self.results, held.comparison
        settings, has_tiny = comparison.settings, self.engine.has_tiny_decoder(held.backbone)
        known = self.engine.best_known(held.backbone, settings, held.k) is not None
        if self.engine.lends(held.backbone):
            notes += (fragments.lent(*self.engine.lent.costs(held)),)
        notes += comparison.notes if known else (*comparison.notes, links.nothing_known(settings))
        return (
            slider_updates(c, comparison.coefficients, shape or comparison.coefficients.shape, settings.steps)
            | all_columns(r, comparison, held.k, self.known(held))
            | surface_view.draw(r, self.engine, held, dark, c.best)
            | {
                r.notes: fragments.notes(notes),
                c.search: gr.update(visible=not known),
                c.state: links.stamp(held),
                c.decoder: gr.update(visible=has_tiny, value="tiny" if settings.tiny_decoder else "full"),
                c.drafts: gr.update(visible=has_tiny and not settings.tiny_decoder),
                c.device: fragments.device_note(comparison.facts, self.quick(held)),
                r.definition: self.definition(held),
                r.wipe: wiped(comparison, left, right),
            }
        )

    def quick(self, held: Session) -> bool:
        """Whether a comparison costs so little that the page asks for one whenever a typing hand rests."""
        seconds = sum(column.latency_s for column in held.comparison.columns)
        return seconds < QUICK_S and not self.engine.lends(held.backbone)

    def held(self, request: gr.Request) -> Session:
        """The session behind a request; a toast if the server does not know it any more."""
        held = self.engine.session(request.session_hash)
        return held or toast(UNKNOWN)

    def known(self, held: Session) -> Preset | None:
        """The shipped preset for what a session shows, None if there is none that can be read."""
        return self.engine.readable_preset(held.backbone, held.comparison.settings)

    def definition(self, held: Session) -> str:
        """What JAQ is, at the session's k, and who scored."""
        return fragments.definition(held.comparison.facts.scorer, held.k)

    def coefficients(self, given: dict, steps: int) -> Coefficients:
        """The sliders' values as coefficients."""
        c = self.controls
        rows = ([given[slider] for slider in row] for row in (c.c_x, c.c_eps))
        return values.coefficients_from(given[c.shape], *rows, steps)

    def moved(
        self, coefficients: Coefficients, request: gr.Request, dark: bool, shape: str | None = None
    ) -> dict:
        """Set coefficients from the server: sliders, the third image, and the map that holds them."""
        before = self.held(request).map
        self.rescaled(request, coefficients)
        held = surface_view.choose(self.engine, request.session_hash, self.held(request))
        now, steps = held.comparison.coefficients, held.comparison.settings.steps
        shape = shape if now == coefficients and shape else now.shape
        updates = slider_updates(self.controls, now, shape, steps) | self.third_shown(held)
        if held.map is not before:
            updates |= surface_view.draw(self.results, self.engine, held, dark, self.controls.best)
        return updates

    def rescaled(self, request: gr.Request, coefficients: Coefficients) -> Session:
        """The session after its third image was made again; the newest, if it has changed meanwhile."""
        self.engine.rescale(request.session_hash, coefficients)
        return self.held(request)

    def third_shown(self, held: Session) -> dict:
        """Outputs for the third image and the state that it belongs to."""
        return third_column(self.results, held.comparison, held.k, self.known(held)) | {
            self.controls.hint: "",
            self.controls.state: links.stamp(held),
        }

    # --- handlers -------------------------------------------------------------------------------------------

    def open(self, request: gr.Request, dark: bool, left: str, right: str):
        """The first images of a visit, from the link's settings or the opening ones, which also stand in for
        a link that cannot be shown.
        """
        link, c = (
            links.read_link(request.query_params, self.engine.default, sources=is_local(request)),
            self.controls,
        )
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
        spec, named_values = (
            self.engine.spec(backbone),
            {n: given[widget] for n, widget in c.settings.items()},
        )
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

    def settings_shown(
        self, backbone: str, settings: Settings, given: Mapping = MappingProxyType({})
    ) -> dict:
        """Outputs that make the controls show these settings; what they show already (given: values by
        widget) is not sent, so that nothing is lost that somebody types meanwhile."""
        c, spec = self.controls, self.engine.spec(backbone)
        how = named_quantization(settings.quantization)
        shown = {
            c.backbone: spec.id,
            c.source: backbone.partition(SOURCE)[2],
            c.steps: settings.steps,
            c.prompt: settings.prompt,
            c.seed: settings.seed,
            c.examples: gr.update(**values.examples_shown(spec)),
        } | {widget: how[name] for name, widget in c.quantization.items()}
        shown = {w: value for w, value in shown.items() if w not in given or given[w] != value}
        steps = {"value": shown[c.steps]} if c.steps in shown else {}
        return shown | {c.steps: gr.update(choices=values.steps_choices(spec), **steps)}

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
