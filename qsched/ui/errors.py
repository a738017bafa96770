"""Whatever goes wrong becomes one clear sentence in a toast; the page keeps what it shows."""

import errno
import functools
import inspect
import logging
import re
import tempfile
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, NoReturn

import gradio as gr
import torch

from qsched.export.publish import PublishError
from qsched.hub.source import BackboneError
from qsched.presets import PresetError
from qsched.search.job import SearchError
from qsched.search.study import StorageError

USER_ERRORS = BackboneError | PresetError | PublishError | SearchError | StorageError
"""Errors whose text is one sentence for the user."""
SYSTEM = {
    errno.ENOSPC: "The disk is full, nothing could be written",
    errno.EDQUOT: "The disk is full, nothing could be written",
    errno.EACCES: "The server may not write into its folder, nothing was stored",
    errno.EPERM: "The server may not write into its folder, nothing was stored",
    errno.EROFS: "The server may not write into its folder, nothing was stored",
    errno.EMFILE: "The server has too many files open, try again in a moment",
    errno.ENFILE: "The server has too many files open, try again in a moment",
}
"""What the system refuses, in words."""
log = logging.getLogger("qsched.ui")
_PATH = re.compile(
    r"""(?<![\w:/\\.~<-])(?:\w+:/{2,3})?(?:/|~/|[A-Za-z]:[\\/])(?:[^\s'",;:()/\\]+[/\\])*([^\s'",;:()/\\]+)"""
)
"""An absolute path, or the URL of a file in one; the group is its last name.

Addresses of the web do not match.
"""


def toast(sentence: str, page: bool = True) -> NoReturn:
    """Stop this event with a sentence; nothing on the page changes.

    page: it is shown as HTML there, and not to a script.
    """
    raise gr.Error(escape(sentence) if page else sentence, print_exception=False, duration=8)


def sentence_for(error: BaseException) -> str:
    """One sentence for the person at the page, who learns nothing of where files lie on the server."""
    if isinstance(error, gr.Error):  # such as that no GPU is free to be lent; it may hold links
        return re.sub(r"<[^>]*>", "", str(error.message)).strip()
    if isinstance(error, ValueError | TypeError | USER_ERRORS):
        return (
            without_paths(str(error).strip().splitlines()[0])
            if str(error).strip()
            else "This input cannot be used."
        )
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "The device ran out of memory: choose fewer steps or a smaller backbone, then try again."
    what = SYSTEM.get(error.errno) if isinstance(error, OSError) else None
    what = what or "Something went wrong on the server"
    return f"{what}: the images on the page are still the last good ones."


def without_paths(text: str) -> str:
    """The text with the last name alone of every absolute path in it."""
    for folder in (Path.home(), Path(tempfile.gettempdir()), Path.cwd()):  # these may hold spaces
        if folder != Path(folder.anchor):
            text = re.sub(rf"(?<![\w.:-]){re.escape(str(folder))}(?=[/\\])", "/folder", text)
    return _PATH.sub(r"\1", text)


def explained(error: Exception, where: str) -> str:
    """The sentence for an error; one that nobody foresaw is logged with its traceback."""
    if getattr(error, "errno", None) in SYSTEM:
        log.error("%s failed: %s", where, error)
    elif not isinstance(error, ValueError | gr.Error | USER_ERRORS):
        log.error("%s failed", where, exc_info=error)
    return sentence_for(error)


def reports_errors(function: Callable, page: bool = True) -> Callable:
    """An event handler, or one that yields, whose exceptions become toasts; page: as for `toast`."""

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stream(*args: Any, **kwargs: Any) -> Any:
            try:
                yield from function(*args, **kwargs)
            except gr.Error:
                raise
            except Exception as error:
                toast(explained(error, function.__name__), page)

        return stream

    @functools.wraps(function)
    def handler(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            toast(explained(error, function.__name__), page)

    return handler
