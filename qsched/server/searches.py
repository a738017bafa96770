"""Where the page's searches are kept: an Optuna storage, by default one SQLite file per user."""

import os
import sys
import tempfile
from pathlib import Path

from sqlalchemy.engine import URL

from qsched.presets import Preset
from qsched.search.saved import SavedSearch, delete_search, find_search, load_search, saved_searches
from qsched.search.study import StorageError

FILE = "searches.sqlite3"


class Searches:
    """The searches in a storage.

    Args:
        where: an Optuna storage URL, a file, or None for the user's own file. A file's folder is made when it
            is needed.
    """

    def __init__(self, where: str | os.PathLike | None = None):
        text = None if where is None else str(where)
        self._file = (
            None
            if text is not None and "://" in text
            else Path(text or default_file()).expanduser().absolute()
        )
        self._url = text if self._file is None else str(URL.create("sqlite", database=str(self._file)))

    @property
    def url(self) -> str:
        """The storage's URL, ready to be used.

        Raises:
            StorageError: the file's folder cannot be made.
        """
        if self._file is not None:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(
                    f"The searches cannot be kept in {self._file}: {error.strerror}."
                ) from None
        return self._url

    def list(self) -> list[SavedSearch]:
        """Those with at least one finished point, the latest first; none is no reason to make a file."""
        if self._file is not None and not self._file.exists():
            return []
        return [search for search in saved_searches(self.url) if search.done]

    def find(self, name: str) -> SavedSearch:
        """One of them.

        Raises:
            ValueError: there is none of that name.
        """
        if (search := self.get(name)) is None:
            raise ValueError("This search is not stored any more.")
        return search

    def get(self, name: str) -> SavedSearch | None:
        """One of them, None if there is none of that name."""
        if self._file is not None and not self._file.exists():
            return None
        found = find_search(self.url, name)
        return found if found and found.done else None

    def load(self, name: str) -> Preset:
        """What it would recommend now."""
        return load_search(self.url, name)

    def delete(self, name: str) -> None:
        """Remove it for good."""
        delete_search(self.url, name)


def default_file() -> Path:
    """In the user's data folder; on a Hugging Face Space, which keeps nothing anyway, in a temporary one."""
    if os.environ.get("SPACE_ID"):
        return Path(tempfile.gettempdir()) / "qsched" / FILE
    if sys.platform == "win32":
        folder = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        folder = "~/Library/Application Support"
    else:
        folder = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(folder).expanduser() / "qsched" / FILE
