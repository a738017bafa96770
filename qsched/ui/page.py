"""The whole page: header, tabs, and how it is launched."""

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault(
    "GRADIO_ANALYTICS_ENABLED", "False"
)  # gradio reads it when imported; with it no other host is looked up

import gradio as gr
from starlette.middleware import Middleware

from qsched.server.engine import Engine
from qsched.server.searches import Searches
from qsched.server.sessions import SESSIONS
from qsched.ui import preview, starting, streams, theme
from qsched.ui.about_tab import build_about
from qsched.ui.api import public_compare, public_export, public_searches
from qsched.ui.compare.tab import CompareTab
from qsched.ui.compare.wiring import wire
from qsched.ui.errors import reports_errors, toast
from qsched.ui.events import HIDDEN, on_device
from qsched.ui.search.tab import SearchTab
from qsched.ui.search.wiring import wire_search
from qsched.ui.stage import build_stage
from qsched.ui.values import is_number
from qsched.ui.visitors import GUEST, furnish

HEADER = (
    "<header><h1>Q-Sched</h1><p>Quantized few-step diffusion, repaired by rescaling its path. "
    "Drag <b>c<sub>x</sub></b> and <b>c<sub>ε</sub></b> and watch the image recover.</p></header>"
)


class Page(gr.Blocks):
    """Blocks that know how they want to be launched, and that answer a bad number with a sentence."""

    engine: Engine
    compare: CompareTab
    search: SearchTab
    talk: bool = False

    def launch(self, **options: Any) -> Any:
        """gradio's launch with this page's theme, style and script; any of its options can be given."""
        for name in (
            "NO_PROXY",
            "no_proxy",
        ):  # gradio asks its own address whether it is up, which a proxy would not reach
            known = os.environ.get(name, "")
            os.environ[name] = (
                ",".join(filter(None, [known, "127.0.0.1", "localhost"]))
                if "127.0.0.1" not in known
                else known
            )
        defaults = dict(
            theme=theme.theme(),
            css=theme.css(self.talk),
            head=theme.head(self.talk),
            favicon_path=preview.FAVICON,
            app_kwargs={"middleware": [Middleware(preview.LinkPreview), Middleware(streams.OrderedStreams)]},
            ssr_mode=False,
            run_history=False,
            state_session_capacity=SESSIONS,
            footer_links=["api"],
            _frontend=False,  # else gradio gives up where a busy machine takes 3 seconds to answer
        )
        with starting.patience():
            return super().launch(**(defaults | options))

    def forget(self, request: gr.Request) -> None:
        """Free what gradio holds of a closed tab: every widget with its last value, for thousands of tabs."""
        self.state_holder.session_data.pop(request.session_hash, None)
        self.state_holder.time_last_used.pop(request.session_hash, None)

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """As gradio's, but a number box that is empty or out of range gives one sentence; one that is still
        being typed is NaN.
        """
        strict = block_fn.api_name != "adjust"
        state = args[0] if args else kwargs.get("state")
        blocks = [state[block._id] if state and block._id in state else block for block in block_fn.inputs]
        checked = [_checked(block, value, strict) for block, value in zip(blocks, inputs, strict=False)]
        try:
            return await super().preprocess_data(
                block_fn, checked + list(inputs[len(checked) :]), *args, **kwargs
            )
        except gr.Error as error:  # such as a choice that is none; gradio would log where it arose
            error.print_exception = False
            raise
        except Exception:
            toast("This input cannot be used.")


def build_app(
    backbone: str = "emoji-lcm",
    *,
    source: str | None = None,
    device: str = "auto",
    talk: bool = False,
    engine: Engine | None = None,
    searches: str | None = None,
) -> Page:
    """The app, ready for launch().

    Args:
        backbone: id that a first visitor sees. source: a folder or Hub id in place of that backbone's own.
            device: "auto" or a torch device.
        talk: type for the last row of a lecture hall, and the tour by keys.
        engine: what computes; None makes one.
        searches: where searches are kept, a file or an Optuna storage URL; None is the user's own file.

    Raises:
        ValueError: unknown backbone.
    """
    engine = engine or Engine(backbone, source, device, lend=_lender())
    with Page(title=preview.TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as demo:
        demo.engine, demo.talk = engine, talk
        dark = gr.Checkbox(False, visible="hidden", elem_id="dark", label="Dark")
        with gr.Row(elem_classes="q-top"):
            gr.HTML(HEADER, elem_classes="plain")
            toggle = gr.Button("Dark or light", elem_id="theme-toggle", size="sm", scale=0, min_width=110)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Compare", id="compare"):
                compare = CompareTab(engine, dark)
            with gr.Tab("Search", id="search") as searching:
                search = SearchTab(engine, compare, Searches(searches))
            with gr.Tab("About", id="about") as about:
                build_about(engine, about)
        guest = gr.HTML(GUEST, elem_id="guest", elem_classes="plain")
        wire(compare, demo, toggle)
        wire_search(search, demo, tabs, searching)
        demo.load(furnish, None, guest, api_name="furnish", **HIDDEN)
        if talk:
            build_stage(demo, engine, compare)
        demo.unload(demo.forget)  # after what the tabs do then, which makes gradio's copy anew
        demo.compare, demo.search = compare, search
        compared = reports_errors(public_compare(engine), page=False)
        gr.api(compared, api_name="compare", **on_device(engine))
        gr.api(reports_errors(public_export(engine), page=False), api_name="export")
        saved = public_searches(search.searches, search.runner)
        gr.api(reports_errors(saved, page=False), api_name="searches")
    return demo.queue(max_size=64)


def _lender() -> Callable | None:
    if not os.environ.get("SPACES_ZERO_GPU"):
        return None
    import spaces  # only there: it patches torch

    return spaces.GPU


def _checked(block: Any, value: Any, strict: bool) -> Any:
    if isinstance(block, gr.Checkbox):
        return value is True
    if isinstance(block, gr.Radio | gr.Dropdown | gr.CheckboxGroup):
        several = isinstance(block, gr.CheckboxGroup) or getattr(block, "multiselect", False)
        if not isinstance(value, list if several else str | int | float):
            toast(f"{block.label}: choose {'from the list' if several else 'one'}.")
    if not isinstance(block, gr.Slider) or (is_number(value) and block.minimum <= value <= block.maximum):
        return value
    typing = value is None or (
        is_number(value) and 0 <= value < block.minimum
    )  # "", "0" and "0." on the way to "0.95"
    if strict and not typing:
        toast(f"{block.label} must be a number from {block.minimum} to {block.maximum}, not {value}.")
    return float("nan")
