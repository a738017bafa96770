"""What the Compare tab shows: its widgets, and their updates from a session."""

from collections.abc import Mapping
from types import MappingProxyType

import gradio as gr

from qsched.comparison.given import named_quantization
from qsched.comparison.result import Settings
from qsched.presets import Preset
from qsched.sampling.coefficients import Coefficients
from qsched.server.engine import Engine
from qsched.server.known import SOURCE
from qsched.server.sessions import Session
from qsched.ui import fragments, values
from qsched.ui.compare import links, surface_view
from qsched.ui.compare.controls import Controls, build_controls, slider_updates
from qsched.ui.compare.results import Results, all_columns, build_results, third_column, wiped
from qsched.ui.errors import toast

UNKNOWN = "The server no longer knows this page, perhaps it was restarted: press Generate."
QUICK_S = 1.5
"""Where images and their whole way to the page take less than this, they follow what somebody types."""


class CompareView:
    """Widgets of one page and what they show; the engine is shared by all sessions.

    Args:
        dark: a hidden checkbox that the browser keeps at the page's colour scheme.
    """

    def __init__(self, engine: Engine, dark: gr.Checkbox):
        self.engine, self.dark = engine, dark
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
                c.device: fragments.device_note(comparison.facts, QUICK_S if self.quick(held) else None),
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
