"""What to fetch, and the error that says why it cannot be had."""

from dataclasses import dataclass
from pathlib import Path

OWNERS: dict[str, str] = {}
"""Repository -> id of the first backbone that needs it, for advice; qsched.models.registry fills it."""


class BackboneError(RuntimeError):
    """A backbone cannot be used; the message is one clear sentence for the user."""


@dataclass(frozen=True)
class Source:
    """Files to fetch: repo is a Hub id or a local folder, files are allow patterns (() = all), bytes the
    download size.
    """

    repo: str
    files: tuple[str, ...] = ()
    revision: str | None = None
    bytes: int = 0


def pinned(source: str) -> tuple[str, str | None]:
    """Folder or repository, and the revision after an @; a folder that is there may have an @ in its name."""
    if Path(source).expanduser().exists():
        return source, None
    repo, _, revision = source.partition("@")
    return repo, revision or None
