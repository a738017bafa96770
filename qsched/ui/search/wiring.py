"""Which event of the Search tab calls which handler, and what may run at once."""

import json

import gradio as gr

from qsched.search.options import STRATEGIES
from qsched.ui.compare import links
from qsched.ui.errors import reports_errors
from qsched.ui.events import HIDDEN, QUIET, RECORD_LINK, on_device, settle
from qsched.ui.search.export_handlers import ExportHandlers
from qsched.ui.search.inputs import EXPLAIN, explained_strategy
from qsched.ui.search.tab import SearchTab

SEARCH = {"concurrency_id": "search", "concurrency_limit": 16}
"""Not the device's: a search takes turns there by itself.

A second one is refused with a sentence, so it must get in.
"""


def wire_search(tab: SearchTab, demo: gr.Blocks, tabs: gr.Tabs, opened: gr.Tab) -> None:
    """Connect every widget; `opened` is the tab itself."""
    i, r, compare = tab.inputs, tab.results, tab.compare
    asked = set(tab.asked.values())
    planned = [i.plan, i.quantizer, i.start, i.cost]
    listed = [r.saved, r.none_saved, r.delete, r.deleting, r.notes]
    filled = [i.backbone, i.bits, i.steps, i.count, i.decoder]

    opened.select(
        reports_errors(tab.open),
        asked,
        list(dict.fromkeys([*filled, *planned, *listed])),
        api_name="search_open",
        **QUIET,
    )
    demo.unload(tab.forget)
    table = json.dumps({name: explained_strategy(name) for name in STRATEGIES})
    i.strategy.change(
        None, i.strategy, i.explanation, js=EXPLAIN.replace("{0}", table), api_name="search_explain", **HIDDEN
    )
    i.source.change(tab.source, i.source, [i.count, i.text, i.file], api_name="search_source", **QUIET)
    changed = i.backbone.input(
        reports_errors(tab.backbone),
        [i.backbone, i.steps],
        [i.steps, i.count, i.decoder],
        api_name="search_backbone",
        **QUIET,
    )
    plan = {"fn": reports_errors(tab.planned), "inputs": asked, "outputs": planned}
    changed.then(api_name="search_planned_backbone", **plan, **QUIET)
    own = [widget for name, widget in i.settings.items() if name not in ("backbone", "file")]
    gr.on([*(widget.input for widget in own), i.file.change], api_name="search_planned", **plan, **QUIET)
    i.cost.click(reports_errors(tab.cost), asked, i.plan, api_name="search_cost", **HIDDEN, **SEARCH)

    i.start.click(
        reports_errors(tab.start), asked | {compare.dark},
        list(dict.fromkeys([*r.live, i.start, i.stop, i.cost, i.plan, i.quantizer, *listed])),
        api_name="search_start", **HIDDEN, **SEARCH,
    )  # fmt: skip
    i.stop.click(
        reports_errors(tab.stop), None, [i.stop, r.progress], api_name="search_stop", queue=False, **HIDDEN
    )
    looked = [*r.looked, r.notes]
    r.surface.select(reports_errors(tab.select), compare.dark, looked, api_name="search_select", **QUIET)
    compare.dark.change(
        reports_errors(tab.redraw),
        [compare.dark, r.saved],
        [*looked, *r.side_by_side],
        api_name="search_redraw",
        **QUIET,
    )

    r.saved.input(
        reports_errors(tab.choose), [r.saved, compare.dark],
        [*looked, r.saved, r.delete, r.progress, *r.side_by_side], api_name="search_choose", **QUIET,
    )  # fmt: skip
    asked = [r.deleting, r.to_delete]
    r.delete.click(reports_errors(tab.ask_delete), r.saved, asked, api_name="search_delete", **HIDDEN)
    r.cancel_delete.click(
        lambda: gr.update(visible=False), None, r.deleting, api_name="search_delete_cancel", **HIDDEN
    )
    r.confirm_delete.click(
        reports_errors(tab.delete), None, [*listed, r.compare], api_name="search_delete_confirm", **HIDDEN
    )

    pair = [compare.results.left, compare.results.right]
    used = r.use.click(
        reports_errors(tab.use), [compare.dark, *pair],
        [*compare.shown, *compare.chosen],
        api_name="search_use", js=links.BUSY, **(HIDDEN | on_device(tab.engine, compare.results.waiting)),
    )  # fmt: skip
    settle(used, "_use")
    used.success(lambda: gr.update(selected="compare"), None, tabs, api_name="search_to_compare", **HIDDEN)

    exports = ExportHandlers(tab)
    for button, file, write, name in (
        (r.save, r.preset_file, exports.save, "search_save"),
        (r.export, r.scheduler_file, exports.export, "search_export"),
    ):
        button.click(reports_errors(write), None, file, api_name=name, **HIDDEN).success(
            None, None, None, js=RECORD_LINK.replace("{0}", file.elem_id), api_name=f"{name}_start", **HIDDEN
        )
    kept = [r.notes, r.replacing, r.question]
    r.keep.click(reports_errors(exports.save_as_best_known), None, kept, api_name="search_keep", **HIDDEN)
    r.replace.click(reports_errors(exports.replace), None, kept, api_name="search_replace", **HIDDEN)
    r.cancel_replace.click(
        exports.cancel_replace, None, r.replacing, api_name="search_replace_cancel", **HIDDEN
    )
    for button, dry_run, name in ((r.dry_run, True, "search_dry_run"), (r.push, False, "search_push")):
        button.click(
            reports_errors(exports.pusher(dry_run)), [r.repo, r.token, r.private], r.pushed, api_name=name,
            show_progress="minimal", api_visibility="private",
        )  # fmt: skip
