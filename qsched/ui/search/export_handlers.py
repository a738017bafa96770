"""Handlers that take a search's result away: as a file, as Compare's best known, to the Hub."""

from collections.abc import Callable

import gradio as gr

from qsched.presets import PresetError, load_preset
from qsched.ui.search import export_files
from qsched.ui.search import fragments as search_fragments
from qsched.ui.search.tab import SearchTab
from qsched.ui.visitors import KEEP, PUSH, require_local
from qsched.words import steps_in_words


class ExportHandlers:
    """What the buttons beside the best image do."""

    def __init__(self, tab: SearchTab):
        self.tab = tab

    def save(self, request: gr.Request) -> str:
        """The preset as a file."""
        return export_files.preset_file(self.tab.preset(request))

    def export(self, request: gr.Request) -> str:
        """The scheduler folder as a zip."""
        return export_files.scheduler_file(self.tab.preset(request), self.tab.engine)

    def save_as_best_known(self, request: gr.Request) -> dict:
        """Store it where Compare looks for its best known; ask first if there is one."""
        require_local(request, KEEP)
        r, preset = self.tab.results, self.tab.preset(request)
        path = export_files.best_known_path(preset, self.tab.engine)
        if not path.exists():
            return self._kept(request)
        return {
            r.replacing: gr.update(visible=True),
            r.question: search_fragments.replacing(path.name, _date(path)),
        }

    def replace(self, request: gr.Request) -> dict:
        """Store it in place of the one that is there."""
        return self._kept(request)

    def cancel_replace(self) -> dict:
        """Leave the preset that is there."""
        return {self.tab.results.replacing: gr.update(visible=False)}

    def pusher(self, dry_run: bool) -> Callable:
        """A handler that publishes, or says what would be published."""

        def push(request: gr.Request, repo: str, token: str, private: bool) -> str:
            """Publish the scheduler on the Hub."""
            require_local(request, PUSH)
            preset = self.tab.preset(request)
            url, files = export_files.push(preset, self.tab.engine, repo, token, bool(private), dry_run)
            return search_fragments.pushed(url, files, dry_run)

        return push

    def _kept(self, request: gr.Request) -> dict:
        require_local(request, KEEP)
        preset = self.tab.preset(request)
        export_files.save_as_best_known(preset, self.tab.engine)
        how = f"{preset.bits.upper()} at {steps_in_words(preset.steps)}"
        said = f"Compare's best known for {how} is this one now."
        return {
            self.tab.results.notes: search_fragments.good(said),
            self.tab.results.replacing: gr.update(visible=False),
        }


def _date(path) -> str:
    """When the preset that is there was searched, "" if it does not say."""
    try:
        return str(load_preset(path).provenance.get("date", ""))[:10]
    except PresetError:
        return ""
