"""What happens on the map: a click, another k, another colour, a map around the present point."""

import gradio as gr

from qsched.server.around import map_around
from qsched.settings import K
from qsched.ui.compare import links, surface_view
from qsched.ui.compare.results import judged
from qsched.ui.compare.tab import CompareTab
from qsched.ui.compare.view import UNKNOWN
from qsched.ui.errors import reports_errors, toast
from qsched.ui.events import HIDDEN, QUIET
from qsched.ui.values import is_number


class MapEvents:
    """Handlers of the map of one page's Compare tab."""

    def __init__(self, tab: CompareTab):
        self.tab, self.engine, self.results = tab, tab.engine, tab.results

    def drawn(self, request: gr.Request, dark: bool) -> dict:
        """The map in the page's colours."""
        held = self.tab.held(request)
        return surface_view.draw(self.results, self.engine, held, dark, self.tab.controls.best)

    def select(self, request: gr.Request, event: gr.EventData, dark: bool):
        """Go to the clicked cell."""
        held, place = self.tab.held(request), getattr(event, "index", None)
        if not (isinstance(place, list | tuple) and len(place) == 2 and all(map(is_number, place))):
            toast("There is no such place on the map.")
        point = held.map and surface_view.point_at(self.engine, held, *place)
        if not point:
            return {self.tab.controls.hint: ""}
        return self.tab.moved(point, request, dark, held.map.through.shape)

    def weigh(self, request: gr.Request, k: float, dark: bool):
        """Another k: scores and surface from what is stored, no denoiser call.

        NaN is a number still being typed.
        """
        if k != k:
            return {self.results.surface: gr.skip()}
        self.tab.held(request)
        held = self.engine.sessions.weigh(request.session_hash, K.check(k)) or toast(UNKNOWN)
        return (
            self.drawn(request, dark)
            | judged(self.results, held.comparison, held.k, self.tab.known(held))
            | {self.results.definition: self.tab.definition(held), self.tab.controls.state: links.stamp(held)}
        )

    def sweep(self, request: gr.Request, dark: bool):
        """The k sweep, when its accordion is opened."""
        image = surface_view.sweep(self.engine, self.tab.held(request), dark)
        return {self.results.sweep_image: image, self.results.sweep_open: True}

    def resweep(self, request: gr.Request, dark: bool, opened: bool):
        """The k sweep of another surface or k, if anybody sees it."""
        return self.sweep(request, dark) if opened else {self.results.sweep_open: False}

    def around(self, request: gr.Request, dark: bool):
        """A map of this image around the present point, row by row."""
        self.tab.held(request)
        for _ in map_around(self.engine, request.session_hash):
            yield self.drawn(request, dark)


def wire_map(tab: CompareTab, toggle: gr.Button, waits: dict) -> None:
    """Connect the map; waits: how an event that computes is declared."""
    c, r, events = tab.controls, tab.results, MapEvents(tab)
    shown = [*r.map, c.best]
    r.surface.select(reports_errors(events.select), tab.dark, tab.placed, api_name="select", **waits)
    r.around.click(
        reports_errors(events.around), tab.dark, shown, api_name="around", concurrency_limit=4, **HIDDEN
    )
    toggle.click(None, None, tab.dark, js=links.TOGGLE_DARK, api_name="toggle_dark", **HIDDEN).then(
        reports_errors(events.drawn), tab.dark, shown, api_name="redraw", **QUIET
    )
    gr.on(
        [r.k.input, r.k.release],
        reports_errors(events.weigh),
        [r.k, tab.dark],
        [r.verdict, r.scores, r.definition, c.state, *shown],
        api_name="weigh",
        **QUIET,
    )
    swept = [r.sweep_image, r.sweep_open]
    r.sweep.expand(reports_errors(events.sweep), tab.dark, swept, api_name="sweep", **QUIET)
    r.sweep.collapse(lambda: False, None, r.sweep_open, api_name="sweep_closed", **HIDDEN)
    r.surface.change(
        reports_errors(events.resweep), [tab.dark, r.sweep_open], swept, api_name="resweep", **QUIET
    )
    # which point of the map the sliders stand at is drawn by the browser alone
    gr.on(
        [*(slider.change for slider in c.sliders), c.shape.change, r.surface.change],
        None,
        [c.shape, *c.sliders],
        None,
        js=links.MARK,
        api_name="mark",
        **HIDDEN,
    )
