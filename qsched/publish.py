"""Publish a preset on the Hugging Face Hub: the exported scheduler folder, with a model card.

    publish(preset, pipe.scheduler, "me/qsched-sdxl-turbo-w4a8", dry_run=True).files
    QSchedEulerAncestralDiscreteScheduler.from_pretrained("me/qsched-sdxl-turbo-w4a8")

The preset itself stays here: it holds the prompts, which are the user's.
"""

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, HfApi, get_session, get_token
from huggingface_hub.utils import validate_repo_id

from qsched import __version__
from qsched.hub_session import LOGIN, Refused, Watch, as_refusal, endpoint, explain, is_offline, supervise
from qsched.model_card import model_card
from qsched.presets import Preset, export_scheduler
from qsched.schedulers import with_coefficients


class PublishError(RuntimeError):
    """Nothing was published; the message is one clear sentence for the user."""


class Published(NamedTuple):
    """Where a scheduler is (or, after a dry run, would be) on the Hub, and the names of its files."""

    url: str
    files: tuple[str, ...]


def publish(
    preset: Preset,
    scheduler: Any,
    repo: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    token: str | None = None,
    timeout: float = 10,
) -> Published:
    """Push a preset's scheduler to a model repository, which is made if it does not exist.

    Args:
        scheduler: the backbone's diffusers scheduler, stock or Q-Sched.
        repo: OWNER/NAME.
        private: only for a repository that does not exist yet.
        dry_run: only say what would be pushed; the Hub is not asked.
        token: None takes the one of `hf auth login` or HF_TOKEN.
        timeout: seconds to wait for each answer.
    Raises:
        PublishError: one sentence, whatever went wrong.
        TypeError: the scheduler has no Q-Sched twin. PresetError: no room for a temporary folder.
    """
    _check_name(repo)
    files = card_and_scheduler(preset, scheduler, repo)
    published = Published(f"{endpoint()}/{repo}", tuple(sorted(files)))
    if dry_run:
        return published
    if is_offline():
        raise PublishError(f"{repo} cannot be pushed offline (HF_HUB_OFFLINE is set).")
    token = token or get_token()
    if token is None:
        raise PublishError(f"You are not logged in to the Hub: {LOGIN} and a token that may write, or set HF_TOKEN.")
    watch = Watch()
    title = f"Q-Sched scheduler for {preset.backbone}, {preset.bits}, {preset.steps} steps"
    try:
        supervise([partial(_push, repo, files, private, token, title, watch)], watch, timeout)
    except Exception as error:
        raise PublishError(_in_words(error, repo)) from error
    return published


def card_and_scheduler(preset: Preset, scheduler: Any, repo: str) -> dict[str, bytes]:
    """What is pushed: name and content of every file."""
    twin = type(with_coefficients(scheduler, **preset.coefficients.to_dict())).__name__
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "scheduler"
        usage = export_scheduler(preset, scheduler, folder, called=repo)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {"README.md": model_card(preset, twin, usage).encode()}


def _check_name(repo: str) -> None:
    try:
        validate_repo_id(repo)
    except ValueError:
        repo_is_valid = False
    else:
        repo_is_valid = repo.count("/") == 1
    if not repo_is_valid:
        raise PublishError(
            f"{repo!r} is no name for a repository: give OWNER/NAME of letters, digits, '-', '_' and '.'."
        )


def _push(repo: str, files: dict[str, bytes], private: bool, token: str, title: str, watch: Watch) -> None:
    api = HfApi(endpoint=endpoint(), token=token, library_name="qsched", library_version=__version__)
    with _impatient(watch):
        api.whoami()
        api.create_repo(repo, private=True if private else None, exist_ok=True)
        additions = [CommitOperationAdd(name, content) for name, content in sorted(files.items())]
        api.create_commit(repo, additions, commit_message=title)


class Unanswered(Exception):
    """A request got no answer; the cause says why."""


_push_here = threading.local()  # .watch: that of the push which this thread works on


@contextmanager
def _impatient(watch: Watch) -> Iterator[None]:
    """In this thread a server's error or a lost connection is final, every answer is progress, and nothing is asked any
    more once the user has been told that it failed.

    huggingface_hub would ask again for half a minute, and close the client that all threads share before it does.
    """
    client = get_session()
    if not hasattr(client.send, "patient"):
        client.send = _guarded(client.send)
    _push_here.watch = watch
    try:
        yield
    finally:
        del _push_here.watch


def _guarded(patient: Callable[..., Any]) -> Callable[..., Any]:
    def send(request: Any, **options: Any) -> Any:
        watch = getattr(_push_here, "watch", None)
        if watch is None:
            return patient(request, **options)
        if watch.stopped.is_set():
            raise Refused(0)
        try:
            answer = patient(request, **options)
        except Exception as error:
            raise Unanswered from error
        watch.beat()
        if answer.status_code >= 500 or answer.status_code == 429:
            raise Refused(answer.status_code)
        return answer

    send.patient = patient
    return send


def _in_words(error: Exception, repo: str) -> str:
    if isinstance(error, Unanswered):
        return explain(error.__cause__, repo)
    refusal = as_refusal(error)
    if refusal is not None and refusal.status == 401:
        return f"The Hub does not accept your token: {LOGIN} again, or set HF_TOKEN to one that may write."
    if refusal is not None and refusal.status == 403:
        return f"You may not write to {repo}: check the owner's name, and that your token may write there."
    return explain(error, repo)
