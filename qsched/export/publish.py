"""Publish a preset on the Hugging Face Hub: the exported scheduler folder, with a model card.

    publish(preset, pipe.scheduler, "me/qsched-sdxl-turbo-w4a8", dry_run=True).files
    QSchedEulerAncestralDiscreteScheduler.from_pretrained("me/qsched-sdxl-turbo-w4a8")

The preset itself stays here: it holds the prompts, which are the user's.
"""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import get_token
from huggingface_hub.utils import validate_repo_id

from qsched.export.model_card import model_card
from qsched.export.usage import export_scheduler
from qsched.hub.errors import LOGIN, Failure, endpoint, explain, is_offline
from qsched.hub.process import converse
from qsched.presets import Preset
from qsched.schedulers import with_coefficients
from qsched.words import steps_in_words


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
        timeout: seconds to wait for each of the two calls.
    Raises:
        PublishError: one sentence, whatever went wrong.
        TypeError: the scheduler has no Q-Sched twin. PresetError: no room for a temporary folder.
    """
    check_name(repo)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "scheduler"
        usage = export_scheduler(preset, scheduler, folder, called=repo)
        twin = type(with_coefficients(scheduler, **preset.coefficients.to_dict())).__name__
        (folder / "README.md").write_text(model_card(preset, twin, usage), "utf-8")
        published = Published(f"{endpoint()}/{repo}", tuple(sorted(path.name for path in folder.iterdir())))
        if not dry_run:
            title = f"Q-Sched scheduler for {preset.backbone}, {preset.bits}, {steps_in_words(preset.steps)}"
            push(folder, repo, title, private=private, token=token, timeout=timeout)
    return published


def check_name(repo: str) -> None:
    """Refuse what is no name for a repository.

    Raises:
        PublishError: one sentence.
    """
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


def push(
    folder: Path,
    repo: str,
    title: str,
    *,
    kind: str = "model",
    private: bool = False,
    token: str | None = None,
    timeout: float = 10,
) -> None:
    """Upload a folder to a repository on the Hub, which is made if it does not exist.

    Args:
        title: of the commit.
        kind: "model" or "space".
        token: None takes the one of `hf auth login` or HF_TOKEN.
        timeout: seconds to wait for each of the two calls.
    Raises:
        PublishError: one sentence, whatever went wrong.
    """
    token = token or get_token()
    if is_offline():
        raise PublishError(f"{repo} cannot be pushed offline (HF_HUB_OFFLINE is set).")
    if token is None:
        raise PublishError(
            f"You are not logged in to the Hub: {LOGIN} and a token that may write, or set HF_TOKEN."
        )
    asked = {"folder": str(folder), "repo": repo, "kind": kind, "private": private, "title": title}
    try:
        converse("push", timeout, **asked, token=token)
    except Failure as failure:
        raise PublishError(_in_words(failure, repo)) from failure


def _in_words(failure: Failure, repo: str) -> str:
    if failure.status == 401:
        return f"The Hub does not accept your token: {LOGIN} again, or set HF_TOKEN to one that may write."
    if failure.status == 403:
        return f"You may not write to {repo}: check the owner's name, and that your token may write there."
    return explain(failure, repo)
