"""Which event of the Compare tab calls which handler, and what may run at once."""

import gradio as gr

from qsched.ui.compare import links
from qsched.ui.compare import save as downloads
from qsched.ui.compare.fit import wire_fit
from qsched.ui.compare.map_events import wire_map
from qsched.ui.compare.tab import CompareTab
from qsched.ui.errors import reports_errors
from qsched.ui.events import HIDDEN, QUIET, RECORD_LINK, on_device, settle


def wire(tab: CompareTab, demo: gr.Blocks, toggle: gr.Button) -> None:
    """Connect every widget; `toggle` switches between dark and light."""
    c, r, device = tab.controls, tab.results, on_device(tab.engine)
    waits = QUIET | on_device(tab.engine, r.waiting)
    pair = [r.left, r.right]
    shown, chosen = tab.shown, tab.chosen
    pair_and_dark = {tab.dark, *pair}
    given = {*c.settings.values(), c.shape, *pair_and_dark, *c.sliders}
    make = {
        "fn": reports_errors(tab.generate),
        "inputs": given,
        "outputs": shown + chosen,
        "js": links.BUSY,
        **waits,
    }
    demo.load(
        reports_errors(tab.open),
        [tab.dark, *pair],
        [*shown, *chosen, *tab.download_note, tab.dark, r.k, c.advanced],
        api_name="open",
        js=links.READ_DARK,
        **waits,
    )
    demo.unload(tab.forget)
    asked = [c.generate.click, c.prompt.submit, c.seed.submit]
    settle(gr.on(asked, api_name="generate", **make), "")
    lists = [
        c.backbone,
        c.bits,
        c.steps,
        c.group_size,
        c.method,
        c.activation_scale,
        c.scope,
        c.keep,
        c.decoder,
    ]
    # of a list it comes twice for one pick, and once for none: see `picked`
    picks = [widget.input for widget in lists]
    pick = make | {"fn": reports_errors(tab.picked), "outputs": [*shown, *chosen, *tab.download_note]}
    picked = gr.on(picks, api_name="pick", **pick)
    settle(picked, "_pick")
    picked.failure(reports_errors(tab.restore), None, chosen, api_name="restore", **HIDDEN)
    c.sync.click(reports_errors(tab.sync), [tab.dark, *pair], shown, api_name="sync", **QUIET)
    c.search.click(None, None, None, js=links.TO_SEARCH, api_name="to_search", **HIDDEN)
    fetching = {"outputs": tab.download_note, "inputs": [c.backbone, c.source]}
    gr.on(
        [c.source.submit, c.use_source.click],
        reports_errors(tab.download_state),
        api_name="download_state",
        **fetching,
        **QUIET,
    )
    settle(gr.on([c.source.submit, c.use_source.click], api_name="generate_source", **make), "_source")
    fetched = c.download.click(tab.download, api_name="download", concurrency_limit=4, **fetching, **HIDDEN)
    settle(fetched.success(api_name="generate_download", **make), "_download")
    rolled = c.dice.click(None, None, c.seed, js=links.ROLL, api_name="dice", **HIDDEN)
    settle(rolled.then(api_name="generate_seed", **make), "_seed")
    chosen_example = c.examples.click(
        reports_errors(tab.example), c.examples, c.prompt, api_name="example", **HIDDEN
    )
    settle(chosen_example.then(api_name="generate_example", **make), "_example")
    moves = [event for slider in c.sliders for event in (slider.input, slider.release)]
    gr.on(
        moves,
        tab.follow,
        {c.shape, c.drafts, *c.sliders},
        [*r.qsched, c.hint, c.state],
        api_name="adjust",
        queue=tab.engine.lent is not None,  # a GPU is lent through the queue alone
        **QUIET,
        **device,
    )
    c.refine.click(
        tab.adjust, {c.shape, *c.sliders}, [*r.qsched, c.hint, c.state], api_name="refine", **QUIET, **device
    )
    r.captions[2].change(None, None, None, js=links.REST, api_name="rest", **HIDDEN)
    c.hint.change(tab.complain, set(c.sliders), None, api_name="complain", **QUIET)
    at = [c.shape, tab.dark]
    c.shape.input(reports_errors(tab.reshape), at, tab.placed, api_name="reshape", **waits)
    c.best.click(reports_errors(tab.best), tab.dark, tab.placed, api_name="best", **waits)
    wire_fit(tab, waits)
    c.reset.click(reports_errors(tab.reset), at, tab.placed, api_name="reset", **waits)
    gr.on([r.left.input, r.right.input], reports_errors(tab.wipe), pair, r.wipe, api_name="wipe", **QUIET)
    wire_map(tab, toggle, waits)
    if r.gallery is not None:
        gone = r.gallery.select(
            reports_errors(tab.go_to_example),
            [tab.dark, *pair],
            [*shown, *chosen],
            api_name="go_to_example",
            js=links.BUSY,
            **waits,
        )
        settle(gone, "_gallery")
    r.glance.show.click(
        reports_errors(tab.glance), None, r.glance.outputs, api_name="glance", concurrency_limit=4, **HIDDEN
    )
    for bits, button in r.glance.go.items():
        gone = button.click(None, None, c.bits, js=f"() => '{bits}'", api_name=f"go_{bits}", **HIDDEN)
        settle(gone.then(api_name=f"generate_{bits}", **make), f"_{bits}")

    c.share.click(None, None, None, js=links.COPY, api_name="share", **HIDDEN)
    r.play.click(None, None, None, js=links.PLAY, api_name="play", **HIDDEN)
    # a script that has been copied stands below the button: where there is no clipboard it can be selected
    written = r.copy_script.click(
        reports_errors(tab.script), None, r.script, api_name="copy_script", **HIDDEN
    )
    copied = links.copy_code("#script", "#copy-script")
    written.success(None, None, None, js=copied, api_name="copy_script_text", **HIDDEN)
    for button, file, write, name in (
        (r.save_images, r.images_file, tab.saver(downloads.images_file), "download_images"),
        (r.save_record, r.record_file, tab.saver(downloads.record_file), "download_record"),
        (r.save_card, r.card_file, reports_errors(tab.card), "download_card"),
    ):
        button.click(write, None, file, api_name=name, **HIDDEN).success(
            None, None, None, js=RECORD_LINK.replace("{0}", file.elem_id), api_name=f"{name}_start", **HIDDEN
        )
