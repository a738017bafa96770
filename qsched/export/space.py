"""Publish this app as a Hugging Face Space: what it needs to run there, and nothing else."""

import shutil
import tempfile
from pathlib import Path

from qsched.export.publish import Published, PublishError, check_name, push
from qsched.hub.errors import endpoint

ROOT = Path(__file__).resolve().parents[2]
NEEDED = (
    "app.py",
    "requirements.txt",
    "README.md",
    "LICENSE",
    "NOTICE",
    "qsched",
    "assets",
    "presets",
    "docs",
)
LARGE = ("*.safetensors", "*.webp", "*.jpg", "*.png", "*.gif")
"""Kept in LFS: the Hub refuses files of more than 10 MB, and images of any size, outside of it."""
UPLOAD_S = 900


def publish_space(
    repo: str, *, private: bool = False, dry_run: bool = False, token: str | None = None, root: Path = ROOT
) -> Published:
    """Upload the app to a Space, which is made if it does not exist; its hardware and
    secrets stay as they are.

    Args:
        repo: OWNER/NAME.
        private: only for a Space that does not exist yet.
        dry_run: only say what would be uploaded; the Hub is not asked.
        token: None takes the one of `hf auth login` or HF_TOKEN.
        root: the folder of app.py.
    Raises:
        PublishError: one sentence, whatever went wrong.
    """
    check_name(repo)
    if missing := [name for name in NEEDED if not (root / name).exists()]:
        raise PublishError(f"{missing[0]} is missing in {root}: run this in a checkout of the repository.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "space"
        folder.mkdir()
        for name in NEEDED:
            _copy(root / name, folder / name)
        attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE)
        (folder / ".gitattributes").write_text(attributes, "utf-8")
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        if not dry_run:
            push(
                folder, repo, "The Q-Sched app", kind="space", private=private, token=token, timeout=UPLOAD_S
            )
    return Published(f"{endpoint()}/spaces/{repo}", tuple(files))


def _copy(source: Path, place: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__", ".*", "*.sqlite3"))
    else:
        shutil.copyfile(source, place)
