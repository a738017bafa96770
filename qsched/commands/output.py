"""Files and texts that commands leave behind: whole or not at all, JSON that any parser reads."""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def writable_folder(path: str | Path) -> Path:
    """Make a folder and prove that it can be written, before anything is computed for it.

    Raises:
        ValueError: one sentence, if it cannot.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{path} is no folder: give --out the name of a folder.") from None
    except OSError as error:
        raise ValueError(f"The folder {path} cannot be written: {error.strerror}.") from None
    return folder


def write_files(folder: Path, files: dict[str, bytes]) -> list[str]:
    """Write files under these names, each whole or not at all; returns their paths.

    Raises:
        ValueError: one sentence that names the file that could not be written.
    """
    written = []
    for name, content in files.items():
        temporary = folder / f".{name}.{os.getpid()}.tmp"
        try:
            temporary.write_bytes(content)
            os.replace(temporary, folder / name)
        except OSError as error:
            raise ValueError(f"{folder / name} cannot be written: {error.strerror}.") from None
        finally:
            temporary.unlink(missing_ok=True)
        written.append(str(folder / name))
    return written


@contextmanager
def progress(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, where stderr is a terminal, as a function of (done, total)."""
    from tqdm import tqdm

    with tqdm(desc=label, unit=unit, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield show


def to_json(data: Any, indent: int | None = None) -> str:
    """JSON text; a number that JSON cannot hold becomes null."""
    return json.dumps(_finite(data), indent=indent, ensure_ascii=False, allow_nan=False)


def table(rows: list[list[str]]) -> str:
    """Columns aligned by spaces: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
