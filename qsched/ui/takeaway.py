"""What can be taken away from a search: a preset file, a scheduler folder, a repository on the Hub; and who may write here."""

import os
import tempfile
import zipfile
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr

from qsched.presets import Preset, PresetError, export_scheduler, preset_name, save_preset
from qsched.publish import Published, PublishError, publish
from qsched.ui.engine import Engine
from qsched.ui.pictures import stored

FOREIGN_PUSH = "This page may not use its server's login: give a token of your own that may write."
FOREIGN_KEEP = "Only a visitor on the server's own machine can change its presets: save the preset as a file instead."


def preset_file(preset: Preset) -> str:
    """Path of the preset for download."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "preset.json"
        save_preset(preset, path)
        return stored(path.read_bytes(), f"{preset.backbone}-{_name(preset)}")


def scheduler_file(preset: Preset, engine: Engine) -> str:
    """Path of a zip that holds the scheduler folder."""
    packed, name = BytesIO(), f"qsched-{preset.backbone}-{Path(_name(preset)).stem}"
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        folder = Path(temporary) / name
        export_scheduler(preset, engine.backbone(preset.backbone).scheduler, folder, called=name)
        for path in sorted(folder.iterdir()):
            archive.writestr(f"{name}/{path.name}", path.read_bytes())
    return stored(packed.getvalue(), f"{name}.zip")


def push(preset: Preset, engine: Engine, repo: str, token: str, private: bool, dry_run: bool, local: bool) -> Published:
    """Publish the scheduler on the Hub, or say what would be published.

    Args:
        local: whether the visitor may use this machine's login.
    Raises:
        PublishError: one sentence.
    """
    token = (token or "").strip()
    if not dry_run and not token and not local:
        raise PublishError(FOREIGN_PUSH)
    scheduler = engine.backbone(preset.backbone).scheduler
    return publish(preset, scheduler, (repo or "").strip(), private=private, dry_run=dry_run, token=token or None)


def kept_path(preset: Preset, engine: Engine) -> Path:
    """Where Compare looks for the best known coefficients of this model, bit-width and step count."""
    return engine.presets / preset.backbone / _name(preset)


def keep(preset: Preset, engine: Engine, local: bool) -> Path:
    """Store a preset where Compare finds it; whoever calls this has asked before an old one is replaced.

    Raises:
        PresetError: it cannot be written, or the visitor may not.
    """
    if not local:
        raise PresetError(FOREIGN_KEEP)
    path = kept_path(preset, engine)
    save_preset(preset, path)
    return path


def is_local(request: gr.Request) -> bool:
    """Whether the visitor sits at the machine that serves the page, and not behind a tunnel or on a Space."""
    if os.environ.get("SPACE_ID") or request.client is None:
        return False
    headers = {name.lower(): value for name, value in dict(request.headers).items()}
    host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    forwarded = any(name.startswith("x-forwarded") or name == "forwarded" for name in headers)
    return not forwarded and _loopback(host) and _loopback(request.client.host)


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _name(preset: Preset) -> str:
    return preset_name(preset.bits, preset.steps, preset.method)
