"""A backbone that is not downloaded, on the page: what it would take, a button, and the progress."""

from collections.abc import Iterator
from html import escape

import gradio as gr

from qsched.hub.errors import is_offline
from qsched.hub.source import BackboneError
from qsched.models.download import (
    download_progress,
    download_size,
    lacks_optional,
    not_downloaded,
    sources_to_fetch,
    to_fetch,
)
from qsched.server.engine import Engine
from qsched.ui import fragments
from qsched.ui.compare.controls import Controls
from qsched.ui.errors import explained, sentence_for, toast
from qsched.words import size


def can_load(engine: Engine, backbone: str) -> bool:
    """Whether a backbone is here."""
    return not sources_to_fetch(engine.spec(backbone))


def download_note(controls: Controls, engine: Engine, backbone: str, remark: str = "") -> dict:
    """Outputs for the note and the button; both hidden for a backbone that has all it needs.

    Args:
        remark: shown instead of what is missing, such as why a download failed.
    """
    spec = engine.spec(backbone)
    try:
        sentence = not_downloaded(spec, engine.device) or lacks_optional(spec)
    except BackboneError as error:
        told = fragments.notes((sentence_for(error),))
        return {
            controls.download_note: gr.update(value=told, visible=True),
            controls.download: gr.update(visible=False),
        }
    if sentence is None:
        return {
            controls.download_note: gr.update(value="", visible=False),
            controls.download: gr.update(visible=False),
        }
    return {
        controls.download_note: gr.update(value=fragments.notes((remark or sentence,)), visible=True),
        controls.download: gr.update(
            value=f"Download ({download_size(spec)})", visible=True, interactive=not is_offline()
        ),
    }


def download(controls: Controls, engine: Engine, backbone: str) -> Iterator[dict]:
    """Outputs while a backbone is fetched; ends with a toast if it cannot be."""
    spec = engine.spec(backbone)
    wanted = to_fetch(spec)
    try:
        for done, total in download_progress(spec):
            yield {
                controls.download_note: gr.update(value=progress(spec.title, done, total), visible=True),
                controls.download: gr.update(interactive=False),
            }
    except Exception as error:
        sentence = explained(error, "download")
        yield download_note(controls, engine, backbone, sentence)
        toast(sentence)
    if any(not part.of_scores for part in wanted):
        engine.reload(backbone)  # the tiny decoder is loaded with it
    yield download_note(controls, engine, backbone)


def progress(title: str, done: int, total: int) -> str:
    """A bar with its numbers."""
    share = min(1.0, done / total) if total else 0.0
    told = f"Downloading {title}: {size(done)} of {size(total)}, {100 * share:.0f} %"
    return (
        f'<p class="note" role="status">{escape(told)}<progress max="1" value="{share:.3f}"></progress></p>'
    )
