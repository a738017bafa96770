"""A user's own prompts: a text file, or the layouts in which caption data sets come.

- Text (any other name): one prompt per line.
- Tables (.csv, .tsv) and JSON lines (.jsonl): the column named like one of COLUMNS, in upper or lower case.
- YAML and JSON (.yaml, .yml, .json): a list of texts; names with a text each, as in sDCI.yaml (summarised
  Densely Captioned Images, the SVDQuant data set); lists under a heading; or entries that keep a text in one
  of FIELDS, as DCI's own records, MJHQ-30K's meta_data.json and COCO's captions do.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from qsched.words import size

LONGEST_TEXT, LONGEST_DATA = 1_000_000, 16_000_000
"""Bytes. sDCI's 5,000 prompts and MJHQ's 30,000 fit the second."""
DEEPEST = 6
MOST_NODES = 1_000_000
"""Values that are looked at in one file: aliases can make a short file stand for far more."""
FIELDS = (
    "prompt",
    "prompts",
    "summary",
    "summaries",
    "caption",
    "captions",
    "short_caption",
    "base",
    "annotations",
)
"""Where entries keep their text; the first that is there counts. `base` is DCI's summary of the image, beside
those of its parts; `annotations` is COCO's list of entries."""
COLUMNS = ("prompt", "text", "caption", "description")
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".yaml", ".yml", ".json")
# the same rules, ten times faster, where libyaml is built in
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file, without repeats, each on one line.

    In a text file, empty lines and lines that start with # are left out.

    Raises:
        ValueError: one sentence, if it cannot be read, is laid out differently, or holds no prompt.
    """
    kind = Path(path).suffix.lower()
    if kind in _READERS:
        text = read_text(path, LONGEST_DATA)
        try:
            found = list(_READERS[kind](text))
        except ValueError as error:
            raise ValueError(f"{path} is not a prompt file: {error}.") from None
    else:
        found = [line for line in read_text(path).splitlines() if not line.lstrip().startswith("#")]
    lines = (" ".join(prompt.split()) for prompt in found)
    prompts = list(dict.fromkeys(line for line in lines if line))
    if not prompts:
        raise ValueError(f"{path} holds no prompt: write one per line.")
    return prompts


def read_text(path: str | Path, longest: int = LONGEST_TEXT) -> str:
    """A whole UTF-8 file of at most `longest` bytes.

    Raises:
        ValueError: one sentence, if it is missing, unreadable, too long or something else.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(longest + 1)
        if len(content) > longest:
            raise ValueError(f"{path} is too long for a prompt file: more than {size(longest)}.")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"There is no prompt file at {path}.") from None
    except OSError as error:
        raise ValueError(f"The prompt file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a prompt file: it is not UTF-8 text.") from None


def texts(data: Any) -> Iterator[str]:
    """The prompts in plain data, in order: a text is one, lists and names are followed, an entry's field
    alone counts.

    Raises:
        ValueError: one clause: what stands where a prompt should, or that it is nested too deep or too large.
    """
    waiting, seen = [(data, 0, False)], 0
    while waiting:
        node, depth, in_list = waiting.pop()
        seen += 1
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        if seen > MOST_NODES:
            raise ValueError(f"it holds more than {MOST_NODES:,} values")
        if isinstance(node, str):
            if any("\ud800" <= character <= "\udfff" for character in node):
                raise ValueError("a prompt in it holds half a character")
            yield node
        elif isinstance(node, list):
            waiting += [(item, depth + 1, True) for item in reversed(node)]
        elif isinstance(node, dict):
            waiting += [(node[field], depth + 1, False) for field in reversed(_fields(node, in_list))]
        else:
            hint = "a prompt that is a number, a date, yes or no needs quotes"
            raise ValueError(f"{_brief(node)} stands where a prompt should ({hint})")


def _fields(entry: dict, in_list: bool) -> list:
    """The keys to follow."""
    names = {str(key).lower(): key for key in entry}
    known = (*FIELDS, *COLUMNS) if in_list else FIELDS  # elsewhere "text" may be a heading
    if found := [names[field] for field in known if field in names][:1]:
        return found
    if in_list:  # "- a sign: red" is such an entry, and its writer meant all of it
        raise ValueError(
            f"the entry {_brief(entry)} has no prompt or caption (a prompt with a colon needs quotes)"
        )
    return list(entry)


def _brief(node: Any) -> str:
    return f"{' '.join(repr(node).split()):.40}"


def _table(text: str, delimiter: str) -> Iterator[str]:
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        names = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        found = [names[column] for column in COLUMNS if column in names]
        if not found:
            raise ValueError(f"its first line names no column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}")
        for row in rows:
            yield row[found[0]] or ""
    except csv.Error as error:
        raise ValueError(f"it is not a table ({error})") from None


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep") from None
    except ValueError:
        raise ValueError("it is not JSON") from None


def _from_json_lines(text: str) -> Iterator[str]:
    return texts([_from_json(line) for line in text.split("\n") if line.strip()])


def _from_yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ValueError(
            "it is not one plain YAML document" + (f" (line {mark.line + 1})" if mark else "")
        ) from None
    except Exception:  # tags that contradict their text make PyYAML raise KeyError, IndexError and more
        raise ValueError("it is not one plain YAML document") from None


def _tree(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        raise ValueError("it is one text, not a list (in YAML, start every prompt with a hyphen)")
    return texts([] if data is None else data)


_READERS = {
    ".csv": lambda text: _table(text, ","),
    ".tsv": lambda text: _table(text, "\t"),
    ".jsonl": _from_json_lines,
    ".json": lambda text: _tree(_from_json(text)),
    ".yaml": lambda text: _tree(_from_yaml(text)),
    ".yml": lambda text: _tree(_from_yaml(text)),
}
