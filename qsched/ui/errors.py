"""Whatever goes wrong becomes one clear sentence in a toast; the page keeps what it shows."""

import errno
import functools
import inspect
import logging
import time
from collections.abc import Callable
from html import escape
from typing import Any, NoReturn

import gradio as gr
import torch

from qsched.backbones import BackboneError
from qsched.presets import PresetError
from qsched.publish import PublishError
from qsched.search_job import SearchError
from qsched.studies import StorageError

SPOKEN = BackboneError | PresetError | PublishError | SearchError | StorageError
"""Errors whose text is one sentence for the user."""
REPEAT_S = 2.0
log = logging.getLogger("qsched.ui")


def toast(sentence: str) -> NoReturn:
    """Stop this event with a sentence; nothing on the page changes."""
    raise gr.Error(escape(sentence), print_exception=False, duration=8)


def sentence_for(error: BaseException) -> str:
    """One sentence for the person at the page."""
    if isinstance(error, ValueError | TypeError | SPOKEN):
        return str(error).strip().splitlines()[0] if str(error).strip() else "This input cannot be used."
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "The device ran out of memory: choose fewer steps or a smaller backbone, then try again."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "The disk is full: nothing could be written, and the pictures on the page are still the last good ones."
    return "Something went wrong on the server: the pictures on the page are still the last good ones."


def explained(error: Exception, where: str) -> str:
    """The sentence for an error; one that nobody foresaw is logged with its traceback."""
    if not isinstance(error, ValueError | SPOKEN):
        log.error("%s failed", where, exc_info=error)
    return sentence_for(error)


def told_once(function: Callable) -> Callable:
    """A handler made by `spoken` that does not repeat itself to the same page: gradio calls it twice for one click on an
    option of a dropdown."""
    last: dict[str | None, tuple[str, float]] = {}

    @functools.wraps(function)
    def handler(request: gr.Request, *args: Any) -> Any:
        try:
            return function(request, *args)
        except gr.Error as error:
            now = time.monotonic()
            for page in [page for page, (_, at) in last.items() if now - at > REPEAT_S]:
                del last[page]
            repeated = last.get(request.session_hash, ("",))[0] == error.message
            last[request.session_hash] = error.message, now
            if repeated:
                return gr.skip()
            raise

    return handler


def spoken(function: Callable) -> Callable:
    """An event handler, or one that yields, whose exceptions become toasts."""

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stream(*args: Any, **kwargs: Any) -> Any:
            try:
                yield from function(*args, **kwargs)
            except gr.Error:
                raise
            except Exception as error:
                toast(explained(error, function.__name__))

        return stream

    @functools.wraps(function)
    def handler(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            toast(explained(error, function.__name__))

    return handler
