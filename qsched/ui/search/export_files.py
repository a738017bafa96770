"""What can be taken away from a search: a preset file, a scheduler folder, a repository on the Hub."""

import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

from qsched.export.publish import Published, publish
from qsched.export.usage import export_scheduler
from qsched.presets import Preset, preset_name, save_preset
from qsched.server.engine import Engine
from qsched.ui.images import stored


def preset_file(preset: Preset) -> str:
    """Path of the preset for download."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "preset.json"
        save_preset(preset, path)
        return stored(path.read_bytes(), f"{preset.backbone}-{_name(preset)}")


def scheduler_file(preset: Preset, engine: Engine) -> str:
    """Path of a zip that holds the scheduler folder."""
    packed, name = BytesIO(), f"qsched-{preset.backbone}-{Path(_name(preset)).stem}"
    with (
        tempfile.TemporaryDirectory() as temporary,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        folder = Path(temporary) / name
        export_scheduler(preset, engine.scheduler(preset.backbone), folder, called=name)
        for path in sorted(folder.iterdir()):
            archive.writestr(f"{name}/{path.name}", path.read_bytes())
    return stored(packed.getvalue(), f"{name}.zip")


def push(preset: Preset, engine: Engine, repo: str, token: str, private: bool, dry_run: bool) -> Published:
    """Publish the scheduler on the Hub, or say what would be published; an empty token is this machine's
    login.

    Raises:
        PublishError: one sentence.
    """
    scheduler, token = engine.scheduler(preset.backbone), (token or "").strip() or None
    return publish(preset, scheduler, (repo or "").strip(), private=private, dry_run=dry_run, token=token)


def best_known_path(preset: Preset, engine: Engine) -> Path:
    """Where Compare looks for the best known coefficients of this model, bit-width and step count."""
    return engine.presets / preset.backbone / _name(preset)


def save_as_best_known(preset: Preset, engine: Engine) -> Path:
    """Store a preset where Compare finds it; whoever calls this has asked before an old one is replaced.

    Raises:
        PresetError: it cannot be written.
    """
    path = best_known_path(preset, engine)
    save_preset(preset, path)
    return path


def _name(preset: Preset) -> str:
    return preset_name(preset.bits, preset.steps, preset.method)
