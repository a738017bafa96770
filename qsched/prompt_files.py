"""A user's own prompts: a text file, or the YAML and JSON layouts in which caption data sets come.

Text (any name): one prompt per line. YAML and JSON (.yaml, .yml, .json): a list of texts; names with a text each, as in
sDCI.yaml (summarised Densely Captioned Images, the SVDQuant data set); lists under a heading; or entries that keep a
text in one of FIELDS, as DCI's own records and MJHQ-30K's meta_data.json do.

Files come from strangers. Only plain data is built from YAML, depth is limited before anything is built (deep nesting
would exhaust the stack), and aliases are refused: a list of prompts needs none, and a few lines of them can stand for
gigabytes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from qsched.sizes import size

LONGEST_TEXT, LONGEST_TREE = 1_000_000, 16_000_000
"""Bytes. sDCI's 5,000 prompts and MJHQ's 30,000 fit the second."""
DEEPEST = 6
FIELDS = ("prompt", "prompts", "summary", "summaries", "caption", "captions", "short_caption", "base")
"""Where entries keep their text; the first that is there counts. `base` is DCI's summary of the whole picture, beside
those of its parts."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same rules, ten times faster, where libyaml is built in


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file, without repeats, each on one line.

    In a text file, empty lines and lines that start with # are left out.

    Raises:
        ValueError: one sentence, if it cannot be read, is laid out differently, or holds no prompt.
    """
    kind = Path(path).suffix.lower()
    if kind in (".yaml", ".yml", ".json"):
        text = read_text(path, LONGEST_TREE)
        try:
            data = _from_json(text) if kind == ".json" else _from_yaml(text)
            if isinstance(data, str):
                raise ValueError("it is one text, not a list (in YAML, start every prompt with a hyphen)")
            found = [] if data is None else list(texts(data))
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


def texts(node: Any, depth: int = 0, in_list: bool = False) -> Iterator[str]:
    """The prompts in plain data, in order: a text is one, lists and names are followed, an entry's field alone counts.

    Raises:
        ValueError: one clause: what stands where a prompt should, or that it is nested too deep.
    """
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    if isinstance(node, str):
        if any("\ud800" <= character <= "\udfff" for character in node):
            raise ValueError("a prompt in it holds half a character")
        yield node
    elif isinstance(node, list):
        for item in node:
            yield from texts(item, depth + 1, in_list=True)
    elif isinstance(node, dict) and (fields := _fields(node, in_list)):
        for field in fields:
            yield from texts(node[field], depth + 1)
    elif not isinstance(node, dict):
        hint = "a prompt that is a number, a date, yes or no needs quotes"
        raise ValueError(f"{_brief(node)} stands where a prompt should ({hint})")


def _fields(entry: dict, in_list: bool) -> list:
    """The keys to follow."""
    if fields := [field for field in FIELDS if field in entry][:1]:
        return fields
    if in_list:  # "- a sign: red" is such an entry, and its writer meant all of it
        raise ValueError(f"the entry {_brief(entry)} has no prompt or caption (a prompt with a colon needs quotes)")
    return list(entry)


def _brief(node: Any) -> str:
    return f"{' '.join(repr(node).split()):.40}"


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep") from None
    except ValueError:
        raise ValueError("it is not JSON") from None


def _from_yaml(text: str) -> Any:
    depth = 0
    try:
        for event in yaml.parse(text, Loader=LOADER):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it uses YAML aliases (a prompt that starts with * needs quotes)")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError("it is not YAML" + (f" (line {mark.line + 1})" if mark else "")) from None
    try:
        return yaml.load(text, Loader=LOADER)
    except Exception:  # tags that contradict their text make PyYAML raise KeyError, IndexError and more
        raise ValueError("it is not one plain YAML document") from None
