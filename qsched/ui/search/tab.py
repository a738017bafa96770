"""The Search tab: its widgets and handlers, which only translate between widgets, the runner and what is
saved.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gradio as gr

from qsched.comparison.given import named_quantization
from qsched.comparison.result import Settings
from qsched.models.download import cannot_run
from qsched.presets import Preset
from qsched.search.saved import SavedSearch
from qsched.server.engine import Engine
from qsched.server.known import SOURCE
from qsched.server.search_runner import Frame, Run, Runner
from qsched.server.searches import Searches
from qsched.server.sessions import SESSIONS
from qsched.ui.compare.tab import CompareTab
from qsched.ui.errors import explained, sentence_for, toast
from qsched.ui.search import fragments as search_fragments
from qsched.ui.search import inputs as search_inputs
from qsched.ui.search import view as search_view
from qsched.ui.search.results import build_results
from qsched.ui.search.view import Shown
from qsched.ui.visitors import CHOOSE_SOURCE, DELETE, require_local

NOTHING = "There is nothing to take yet: start a search or choose a saved one."


@dataclass
class Visit:
    """What one page's Search tab shows. taken_over: what it last took over from Compare. dark: the page's
    colours. to_delete: saved searches that it has asked whether to delete. begun: those that did not exist
    before it started them."""

    shown: Shown | None = None
    taken_over: tuple | None = None
    dark: bool = False
    to_delete: list[str] = field(default_factory=list)
    begun: set[str] = field(default_factory=set)


class SearchTab:
    """Widgets and events of one page; engine, runner and saved searches are shared by all sessions.

    Args:
        compare: takes over the coefficients of "Use this", and lends its settings as defaults.
    """

    def __init__(self, engine: Engine, compare: CompareTab, searches: Searches):
        self.engine, self.compare, self.searches = engine, compare, searches
        self.runner = Runner(engine, searches)
        self._visits: OrderedDict[str, Visit] = OrderedDict()
        settings, _ = engine.opening()
        with gr.Row(elem_classes="q-columns"):
            with gr.Column(elem_classes="q-side", min_width=280, scale=0):
                self.inputs = search_inputs.build_inputs(settings, engine.default)
            with gr.Column(elem_classes="q-main", min_width=320, scale=1):
                self.results = build_results()

    def visit(self, session: str | None) -> Visit:
        """What a session's Search tab shows; the oldest are forgotten."""
        visit = self._visits.setdefault(session or "", Visit())
        self._visits.move_to_end(session or "")
        while len(self._visits) > SESSIONS:
            self._visits.popitem(last=False)
        return visit

    # --- what is searched -----------------------------------------------------------------------------------

    @property
    def asked(self) -> dict[str, gr.components.Component]:
        """The widgets that say what is searched, by name."""
        return self.compare.controls.quantization | self.inputs.settings

    def given(self, values: Mapping) -> dict[str, Any]:
        """Their values, by name."""
        return {name: values[widget] for name, widget in self.asked.items()}

    def open(self, request: gr.Request, values: dict) -> dict:
        """The settings of Compare, if they have changed since this tab took them over, and the saved
        searches.
        """
        visit, held, updates = self.visit(request.session_hash), self.engine.session(request.session_hash), {}
        if held is not None:
            s = held.comparison.settings
            now = (held.backbone, s.quantization, s.steps, s.tiny_decoder)
            if visit.taken_over != now and not self.runner.running_for(request.session_hash):
                visit.taken_over = now
                tiny = self.engine.has_tiny_decoder(held.backbone)
                updates = search_inputs.filled(self.inputs, held.backbone, s, tiny)
                i, how = self.inputs, named_quantization(s.quantization)
                values |= {self.compare.controls.quantization[name]: value for name, value in how.items()}
                values |= {i.backbone: held.backbone, i.bits: how["bits"], i.steps: s.steps}
                values |= {i.decoder: tiny and s.tiny_decoder}
        try:
            listed = self.listed()
        except Exception as error:
            listed = {self.results.notes: search_fragments.wrong(explained(error, "open"))}
        return updates | self.planned(values) | listed

    def planned(self, values: dict) -> dict:
        """What these settings cost, as far as it is known without an image."""
        i = self.inputs
        start = (
            {}
            if self.lent(values[i.backbone]) is None
            else {i.start: gr.update(interactive=False), i.cost: gr.update(interactive=False)}
        )
        try:
            backbone, options = search_inputs.options_from(self.engine, self.given(values))
            options = self.runner.checked(backbone, options)
        except ValueError as error:
            return start | {i.plan: search_fragments.wrong(sentence_for(error)), i.quantizer: ""}
        text = search_fragments.plan(self.runner.planned(backbone, options), options)
        if why := self.lent(backbone) or cannot_run(self.engine.spec(backbone), self.engine.device):
            text += search_fragments.elsewhere(why, backbone, options)
        return start | {i.plan: text, i.quantizer: search_fragments.quantizer(options.quantization)}

    def lent(self, backbone: str) -> str | None:
        """Why no search of a backbone can run here, None if it can."""
        if self.engine.lends(backbone):
            return (
                "This Space lends its GPU for seconds, and a search takes longer. Run it on your own machine:"
            )
        return None

    def cost(self, values: dict) -> Iterator[dict]:
        """Measure a few images, then say what the rest of the search costs."""
        backbone, options = search_inputs.options_from(self.engine, self.given(values))
        yield {self.inputs.plan: '<p class="plan" role="status">Measuring a few images …</p>'}
        try:
            plan = self.runner.measured(backbone, options)
        except Exception:
            yield {self.inputs.plan: self.planned(values)[self.inputs.plan]}
            raise
        yield {self.inputs.plan: search_fragments.plan(plan, self.runner.checked(backbone, options))}

    def backbone(self, backbone: str, steps: int) -> dict:
        """The step counts of another backbone."""
        spec = self.engine.spec(backbone)
        kept = Settings(
            "-",
            0,
            steps if steps in spec.steps else spec.default_steps,
            self.engine.opening(backbone)[0].quantization,
        )
        updates = search_inputs.filled(self.inputs, backbone, kept, self.engine.has_tiny_decoder(backbone))
        return {
            widget: updates[widget] for widget in (self.inputs.steps, self.inputs.count, self.inputs.decoder)
        }

    def source(self, source: str) -> dict:
        """The widget for the chosen source of prompts."""
        return search_inputs.shown_source(self.inputs, source)

    # --- while it runs --------------------------------------------------------------------------------------

    def start(self, request: gr.Request, values: dict) -> Iterator[dict]:
        """Start or resume, and show how it goes until it is over."""
        i, r, visit = self.inputs, self.results, self.visit(request.session_hash)
        backbone, options = search_inputs.options_from(self.engine, self.given(values))
        if lent := self.lent(backbone):
            toast(lent)
        run = self.runner.start(request.session_hash, backbone, options)
        try:
            visit.dark, shown, drawn, with_image = values[self.compare.dark], None, None, 0
            for frame in run.frames():
                cell = shown.cell if shown else None  # the visitor may have clicked one meanwhile
                shown = visit.shown = search_view.of_run(run, frame, cell)
                updates = self.progress(run, frame) | search_view.best_updates(r, shown)
                updates |= {
                    i.start: gr.update(interactive=frame.over),
                    i.stop: gr.update(interactive=not frame.over),
                }
                if drawn != (frame.points, frame.working, cell, visit.dark, frame.over):
                    drawn = frame.points, frame.working, cell, visit.dark, frame.over
                    updates |= search_view.surface_updates(r, shown, visit.dark)
                if frame.image is not None and with_image != frame.points:
                    with_image = frame.points
                    updates |= search_view.image_updates(
                        r, search_view.as_image(frame.image), run.options.prompts[0]
                    )
                if frame.over:
                    if run.is_new and request.session_hash:
                        visit.begun.add(run.name)
                    updates |= self.ended(run, shown, frame) | self.planned(values)
                yield updates
        finally:
            run.stop()

    def progress(self, run: Run, frame: Frame) -> dict:
        """Outputs for the bar."""
        if frame.over:
            state = "failed" if run.error else "stopped" if frame.done < frame.total else "done"
        else:
            state = "stopping" if run.stopping else "running" if frame.images else "loading"
        return {self.results.progress: search_fragments.progress(frame, state)}

    def ended(self, run: Run, shown: Shown, frame: Frame) -> dict:
        """Outputs when a search is over: what went wrong, the image of what it recommends, the new list."""
        updates = {self.results.notes: ""}
        if run.error is not None:
            updates[self.results.notes] = search_fragments.wrong(explained(run.error, "search"))
        elif run.preset is None:
            updates[self.results.notes] = search_fragments.wrong(
                "Stopped before the first point was finished."
            )
        elif run.preset.provenance["at_edge"]:
            updates[self.results.notes] = search_fragments.wrong(
                "The best point lies on the edge of the range: a wider one may hold a better one."
            )
        try:
            updates |= self.with_image(shown) | self.listed([run.name] if run.preset else [])
        except Exception as error:
            updates[self.results.notes] = search_fragments.wrong(explained(error, "search"))
        return updates

    def with_image(self, shown: Shown) -> dict:
        """Outputs with the first prompt at what would be taken, if the model is in memory anyway."""
        if shown.coefficients is None or not self.engine.is_loaded(shown.backbone):
            return search_view.image_updates(self.results, None)
        backbone = self.engine.backbone(shown.backbone)
        draw = partial(search_view.draw_image, backbone, shown.options, shown.coefficients)
        image = self.engine.device_thread.run(draw)
        return search_view.image_updates(self.results, image, shown.options.prompts[0])

    def stop(self, request: gr.Request) -> dict:
        """Ask the search of this page to end; its event shows when it has."""
        run = self.runner.stop(request.session_hash)
        return {self.inputs.stop: gr.update(interactive=False)} | (
            self.progress(run, run.frame()) if run else {}
        )

    def select(self, request: gr.Request, dark: bool, event: gr.SelectData) -> dict:
        """Choose the clicked cell; the cell of the best chooses the best again."""
        shown = self.visit(request.session_hash).shown or toast(NOTHING)
        cell = search_view.figure(shown, dark).to_cell(*event.index)
        if cell is None:
            return {self.results.notes: ""}
        point = shown.surface.c_x[cell[1]], shown.surface.c_eps[cell[0]]
        shown.cell = None if point == shown.point else point
        updates = search_view.best_updates(self.results, shown) | search_view.surface_updates(
            self.results, shown, dark
        )
        return updates | (self.with_image(shown) if shown.over else {})

    def redraw(self, request: gr.Request, dark: bool, chosen: list[str]) -> dict:
        """Surfaces in the page's colours."""
        visit = self.visit(request.session_hash)
        visit.dark, shown = dark, visit.shown
        updates = (
            {self.results.notes: ""}
            if shown is None
            else search_view.surface_updates(self.results, shown, dark)
        )
        return updates | self.beside(chosen, dark, self.runner.running_for(request.session_hash) is not None)

    # --- saved searches -------------------------------------------------------------------------------------

    def listed(self, chosen: list[str] | None = None) -> dict:
        """Outputs with the saved searches; `chosen` are ticked (None: as they are)."""
        r, found = self.results, self.searches.list()
        choices = [(search_fragments.label(search), search.name) for search in found]
        update = {} if chosen is None else {"value": chosen}
        return {
            r.saved: gr.update(choices=choices, visible=bool(found), **update),
            r.none_saved: gr.update(visible=not found),
        } | (
            {}
            if chosen is None
            else {r.delete: gr.update(interactive=bool(chosen)), r.deleting: gr.update(visible=False)}
        )

    def choose(self, request: gr.Request, chosen: list[str], dark: bool) -> dict:
        """Show one saved search, compare the last two that were ticked."""
        r, more, chosen = self.results, len(chosen) > 2, chosen[-2:]
        running = self.runner.running_for(request.session_hash) is not None
        # otherwise as it is: the next tick may be under way already
        updates = {r.saved: chosen} if more else {}
        updates |= {r.delete: gr.update(interactive=bool(chosen))}
        if chosen and not running:
            search = self.searches.find(chosen[0])
            shown = self.of_saved(search, self.searches.load(search.name))
            self.visit(request.session_hash).shown = shown
            state = "done" if search.done >= search.total else "stopped"
            frame = Frame(done=search.done, total=search.total, fraction=search.done / search.total)
            updates |= search_view.best_updates(r, shown) | search_view.surface_updates(r, shown, dark)
            updates |= self.with_image(shown) | {
                r.progress: search_fragments.progress(frame, state),
                r.notes: "",
            }
        return updates | self.beside(chosen, dark, running)

    def beside(self, chosen: list[str], dark: bool, running: bool) -> dict:
        """Outputs with two saved searches side by side, or with one while another search runs above."""
        r = self.results
        if len(chosen) < (1 if running else 2):
            return {r.compare: gr.update(visible=False)}
        found = [self.searches.find(name) for name in chosen]
        presets = [self.searches.load(name) for name in chosen]
        k = found[0].options.k
        comparable = len({preset.provenance["scorer"]["definition"] for preset in presets}) == 1
        updates = {
            r.compare: gr.update(visible=True),
            r.scale: search_fragments.side_by_side(len(found), comparable),
        }
        for index, (image, text) in enumerate(zip(r.sides, r.definitions, strict=True)):
            if index >= len(found):
                updates |= {image: gr.update(visible=False), text: ""}
                continue
            other = presets[1 - index].surface.jaq(k) if comparable and len(found) == 2 else None
            shown = self.of_saved(found[index], presets[index])
            drawn = search_view.figure(shown, dark, k=k, alongside=other, size=search_view.SMALL)
            updates[image] = gr.update(value=search_view.images.drawn(drawn.image), visible=True)
            updates[text] = search_fragments.facts(found[index], presets[index], k)
        return updates

    def of_saved(self, search: SavedSearch, preset: Preset) -> Shown:
        """A search from the storage, of the backbone that it was made with."""
        return search_view.of_saved(search, preset, self.engine.called(search.backbone, search.source))

    def ask_delete(self, request: gr.Request, chosen: list[str]) -> dict:
        """Name what would be removed, and ask."""
        found = [self.searches.find(name) for name in chosen]
        self.check_delete(request, chosen)
        self.visit(request.session_hash).to_delete = chosen
        text = search_fragments.to_delete(found) if found else ""
        return {self.results.deleting: gr.update(visible=bool(found)), self.results.to_delete: text}

    def delete(self, request: gr.Request) -> dict:
        """Remove what the question named for good, whatever has been ticked since, except a search that is
        running.
        """
        visit, running = self.visit(request.session_hash), self.runner.running()
        self.check_delete(request, visit.to_delete)
        if running and running.name in visit.to_delete:
            toast("This search is running: stop it before you delete it.")
        for name in visit.to_delete:
            self.searches.delete(name)
        visit.to_delete = []
        return self.listed([]) | {self.results.compare: gr.update(visible=False)}

    def check_delete(self, request: gr.Request, names: list[str]) -> None:
        """Refuse to delete what another visitor began, unless this one is local."""
        if not self.visit(request.session_hash).begun.issuperset(names):
            require_local(request, DELETE)

    # --- what is taken away ---------------------------------------------------------------------------------

    def use(self, request: gr.Request, dark: bool, left: str, right: str) -> dict:
        """Show the coefficients in Compare, with its prompt and seed."""
        shown = self.visit(request.session_hash).shown
        if shown is None or shown.coefficients is None:
            toast(NOTHING)
        if SOURCE in shown.backbone:
            require_local(request, CHOOSE_SOURCE)
        held = self.engine.session(request.session_hash)
        old = held.comparison.settings if held else self.engine.opening(shown.backbone)[0]
        backbone, options = shown.backbone, shown.options
        tiny = options.tiny_decoder and self.engine.has_tiny_decoder(backbone, load=True)
        settings = Settings(old.prompt, old.seed, options.steps, options.quantization, tiny)
        self.engine.compare(request.session_hash, backbone, settings, shown.coefficients)
        self.visit(request.session_hash).taken_over = (backbone, settings.quantization, settings.steps, tiny)
        return self.compare.everything(request, dark, left, right) | self.compare.settings_shown(
            backbone, settings
        )

    def preset(self, request: gr.Request) -> Preset:
        """The shown search as a preset, with the coefficients that are chosen."""
        shown = self.visit(request.session_hash).shown
        if shown is None or shown.name is None or shown.coefficients is None:
            toast(NOTHING)
        return shown.taken(self.searches.load(shown.name))

    def forget(self, request: gr.Request) -> None:
        """A closed tab stops its search."""
        self.runner.stop(request.session_hash)
        self._visits.pop(request.session_hash or "", None)
