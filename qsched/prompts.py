"""Lists of prompts: the built-in ones, a user's file, or the first few of either."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "prompts"
LONGEST_FILE = 1 << 20


def builtin_prompts(family: str, use: str) -> list[str]:
    """The prompts that ship for a family of backbones.

    Args:
        use: "calibration" (for searches) or "held-out" (for reports; shares no concept with the first).
    """
    return read_prompts(FOLDER / f"{family}-{use}.txt")


def choose_prompts(choice: str | int | None, family: str, use: str) -> list[str]:
    """What `--prompts` means: a number (the first N built-in prompts), a file's path, or None (all built-in ones).

    Raises:
        ValueError: one sentence, if there are no such prompts.
    """
    if choice is not None and not str(choice).strip().isdecimal():
        return read_prompts(choice)
    prompts = builtin_prompts(family, use)
    count = len(prompts) if choice is None else int(choice)
    if not 1 <= count <= len(prompts):
        raise ValueError(f"There are 1 to {len(prompts)} built-in {use} prompts to choose from, not {count}.")
    return prompts[:count]


def read_prompts(path: str | Path) -> list[str]:
    """A text file with one prompt per line; empty lines, lines that start with # and repeats are left out.

    Raises:
        ValueError: one sentence, if it cannot be read or holds no prompt.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(LONGEST_FILE + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"There is no prompt file at {path}.") from None
    except OSError as error:
        raise ValueError(f"The prompt file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a prompt file: it is not UTF-8 text.") from None
    if len(content) > LONGEST_FILE:
        raise ValueError(f"{path} is too long for a prompt file: more than 1 MiB.")
    lines = (" ".join(line.split()) for line in text.splitlines())
    prompts = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not prompts:
        raise ValueError(f"{path} holds no prompt: write one per line.")
    return prompts
