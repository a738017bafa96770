"""Presets: searched coefficients with their loss surface and provenance, as one JSON file.

preset = find_preset("emoji-lcm", "w4a8", 4)           # shipped in presets/emoji-lcm/w4a8-4steps.json
preset.coefficients, preset.surface.best(k=2.0)
print(export_scheduler(preset, pipe.scheduler, "out")) # a diffusers scheduler folder, and how to use it
"""

import json
import math
import os
import re
import uuid
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qsched.quantization import BitWidth
from qsched.sampling.coefficients import Coefficients
from qsched.sampling.slices import Slice
from qsched.scoring import JAQ_DEFINITION, K_DEFAULT
from qsched.surfaces.surface import Surface
from qsched.words import images_in_words, many

__all__ = ["PRESETS", "Preset", "PresetError", "Surface", "find_preset", "load_preset", "save_preset"]

PRESETS = Path(__file__).parents[1] / "presets"
FORMAT, VERSION = "qsched-preset", 1
SHAPES = {"constant": Coefficients.constant, "ramp": Coefficients.ramp}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FILE = re.compile(r"(w\d+a\d+)(?:-([a-z]+))?-(\d+)steps\.json")


class PresetError(ValueError):
    """A preset that cannot be read, written or used; the text is one sentence for the user."""


@dataclass
class Preset:
    """What a search found, and everything needed to judge and repeat it.

    Attributes:
        backbone, revision: id of the backbone and hash of its weights.
        bits: "w4a8" and so on.
        steps: denoiser calls the coefficients are meant for.
        shape: how a point of the surface becomes coefficients, "constant" or "ramp"; without a surface any
            shape.
        coefficients: the ones to use.
        surface: scores of the grid; the images of a cell are the prompts, once per seed. None: no image was
            scored for the coefficients; then provenance has the strategy "fit", or names under "published"
            where they come from.
        slice: scores around the coefficients themselves, where they are no point of the surface: the first
            step's vary, the others stay; one seed per prompt. None: there is none.
        settings: of the quantizer, keyword arguments such as group_size.
        prompts: the search's prompts.
        held_out: results on prompts that the search never saw.
        provenance: scorer, definition, k, seeds, versions, date, ...
    Raises:
        ValueError: if a field does not fit.
    """

    backbone: str
    revision: str
    bits: str
    steps: int
    shape: str
    coefficients: Coefficients
    surface: Surface | None
    settings: dict[str, Any] = field(default_factory=dict)
    prompts: list[str] = field(default_factory=list)
    held_out: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    slice: Surface | None = None

    def __post_init__(self) -> None:
        for name, kind in _FIELDS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"{name} must be {_KINDS[kind]}, not {value!r:.60}")
        if not _NAME.fullmatch(self.backbone):
            raise ValueError(f"backbone must be an id such as emoji-lcm, not {self.backbone!r:.60}")
        self.bits = str(BitWidth.parse(self.bits))
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        self.coefficients.expand(self.steps)
        if not all(isinstance(prompt, str) for prompt in self.prompts):
            raise ValueError("prompts must be a list of texts")
        if self.surface is None:
            return self._check_without_surface()
        if "published" in self.provenance:
            raise ValueError(
                "it has a surface, and its provenance says that its coefficients were only published"
            )
        if self.shape not in SHAPES:
            raise ValueError(f'shape must be "constant" or "ramp", not "{self.shape:.60}"')
        if not self.prompts:
            raise ValueError("prompts must be a list of at least one text")
        for surface in filter(None, (self.surface, self.slice)):
            surface.laid_out(len(self.prompts))

    def _check_without_surface(self) -> None:
        source = self.provenance.get("published")
        if self.fitted:
            if not self.prompts:
                raise ValueError("prompts must be a list of at least one text")
        elif not isinstance(source, str) or not source.strip():
            raise ValueError(
                "it has no surface, and its provenance does not name where its coefficients were published"
            )
        if self.shape != self.coefficients.shape:
            raise ValueError(f'shape must be that of its coefficients, "{self.coefficients.shape}"')

    @property
    def published(self) -> str | None:
        """Where coefficients that were not measured here were published;

        None for those that a search or a fit has found.
        """
        if self.surface is not None or self.fitted:
            return None
        return " ".join(self.provenance["published"].split())

    @property
    def fitted(self) -> bool:
        """Whether the coefficients are a least-squares fit, for which no image was scored."""
        return self.surface is None and self.provenance.get("strategy") == "fit"

    @property
    def mark(self) -> str | None:
        """What has to stand beside published or fitted coefficients, one sentence;

        None for those that a search has found.
        """
        if self.fitted:
            prompts = many(len(self.prompts), "prompt")
            return f"These coefficients are a least-squares fit on {prompts}; no image was scored for them."
        return self.published and f"These coefficients are published ({self.published}), not measured here."

    @property
    def method(self) -> str:
        """The method of qsched.quantizers that quantized the denoiser;

        "plain" in presets that do not name one.
        """
        return self.settings.get("method", "plain")

    @property
    def formula(self) -> str:
        """What JAQ is in this preset, in its scorer's own terms."""
        return str(self.provenance.get("jaq", JAQ_DEFINITION))

    def at(self, c_x: float, c_eps: float) -> Coefficients:
        """The coefficients that a point of the surface stands for, in this preset's shape."""
        return SHAPES[self.shape](c_x, c_eps)

    @cached_property
    def maps(self) -> list[Slice]:
        """Its surfaces with what their points stand for; the same objects for everyone."""
        found = ((self.surface, lambda: self.at(1.0, 1.0)), (self.slice, lambda: self.coefficients))
        return [Slice(each, through(), self.images_of(each)) for each, through in found if each is not None]

    def images_of(self, surface: Surface) -> str:
        """Which images a cell is the mean of."""
        return images_in_words(len(self.prompts), surface.images // len(self.prompts))

    @property
    def k(self) -> float:
        """The weight of the quality that the coefficients were searched for."""
        k = self.provenance.get("k")
        return float(k) if isinstance(k, int | float) and not isinstance(k, bool) else K_DEFAULT

    def best(self, k: float) -> Coefficients:
        """The preset's own coefficients at its own k; at another, those of the surface's best cell there, if
        it has one.
        """
        own = self.surface is None or math.isclose(k, self.k)
        return self.coefficients if own else self.at(*self.surface.best(k)[:2])

    def to_dict(self) -> dict[str, Any]:
        """JSON friendly, with format and version."""
        values = {name: getattr(self, name) for name in _FIELDS}
        surface = None if self.surface is None else self.surface.to_dict()
        values |= {"coefficients": self.coefficients.to_dict(), "surface": surface}
        if self.slice is not None:
            values["slice"] = self.slice.to_dict()
        return {"format": FORMAT, "version": VERSION} | values

    @classmethod
    def from_dict(cls, data: Any) -> "Preset":
        """The inverse of `to_dict`.

        Raises:
            ValueError: one sentence that names the first thing that is wrong.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f'it has no "format": "{FORMAT}"')
        if data.get("version") != VERSION or isinstance(data["version"], bool):
            raise ValueError(
                f"it has version {data.get('version')!r:.40}, and this program reads version {VERSION}"
            )
        missing = [name for name in (*_FIELDS, "coefficients", "surface") if name not in data]
        found = {name: data.get(name) for name in ("surface", "slice")}
        for name, surface in found.items():
            if not isinstance(surface, dict | None):
                raise ValueError(f"{name} must be an object")
            missing += [f"{name}.{key}" for key in _SURFACE if surface is not None and key not in surface]
        if missing:
            raise ValueError(f"these fields are missing: {', '.join(missing)}")
        found = {name: surface and _surface_of(surface, name) for name, surface in found.items()}
        coefficients = Coefficients.from_dict(data["coefficients"])
        return cls(coefficients=coefficients, **found, **{name: data[name] for name in _FIELDS})


_KINDS = {str: "a text", int: "a whole number", list: "a list", dict: "an object"}
_FIELDS = dict(
    backbone=str, revision=str, bits=str, steps=int, shape=str, settings=dict, prompts=list, held_out=dict
)
_FIELDS["provenance"] = dict
_SURFACE = ("c_x", "c_eps", "alignment", "quality")


def _surface_of(data: dict[str, Any], name: str) -> Surface:
    surface = Surface(**{key: data[key] for key in _SURFACE})
    if not np.isfinite(surface.jaq()).any():
        raise ValueError(f"no cell of its {name} has a finite score")
    return surface


def load_preset(path: str | Path) -> Preset:
    """Read a preset.

    Raises:
        PresetError: one sentence, if the file is missing, unreadable, not JSON, something else, or wrong in
            any field.
    """
    try:
        data = json.loads(Path(path).read_text("utf-8-sig"), parse_constant=_refuse)
    except FileNotFoundError:
        raise PresetError(f"There is no preset at {path}.") from None
    except OSError as error:
        raise PresetError(f"The preset {path} cannot be read: {error.strerror}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise PresetError(f"{path} is not a preset: it is not JSON.") from None
    except ValueError as error:
        raise PresetError(f"{path} is not a valid preset: {error}.") from None
    try:
        return Preset.from_dict(data)
    except (ValueError, TypeError) as error:
        raise PresetError(f"{path} is not a valid preset: {str(error).rstrip('.')}.") from None


def save_preset(preset: Preset, path: str | Path) -> None:
    """Write a preset completely or not at all: a crash or a full disk leaves the file that was there.

    Raises:
        PresetError: if it holds something JSON cannot, could not be loaded again, or cannot be written.
    """
    path = Path(path)
    try:
        fields = preset.to_dict()
        lines = (f"{json.dumps(k)}:{_compact(v)}" for k, v in fields.items())
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        Preset.from_dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise PresetError(f"The preset cannot be saved: {str(error).rstrip('.')}.") from None
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise PresetError(f"The preset cannot be written to {path}: {error.strerror}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def find_preset(
    backbone: str, bits: Any, steps: int, folder: str | Path = PRESETS, method: str = "plain"
) -> Preset | None:
    """The shipped preset for a backbone id, bit-width ("w4a8" or a BitWidth), step count and method, or None.
    A method other than plain stands in the file's name: w4a4-svdquant-4steps.json.

    Raises:
        PresetError: if there is one and it is broken.
    """
    path = preset_path(backbone, bits, steps, folder, method)
    preset = load_preset(path) if path else None
    return preset if preset and preset.method == method else None


def preset_path(
    backbone: str, bits: Any, steps: int, folder: str | Path = PRESETS, method: str = "plain"
) -> Path | None:
    """The file of a shipped preset; None if there is none."""
    name = preset_name(bits, steps, method)
    if not _NAME.fullmatch(backbone) or not _FILE.fullmatch(name):
        return None  # also keeps an id like "../x" inside the folder
    path = Path(folder) / backbone / name
    return path if path.is_file() else None


def preset_name(bits: Any, steps: int, method: str = "plain") -> str:
    """The name of a shipped preset's file: w4a8-4steps.json, w4a8-mixdq-4steps.json."""
    return f"{bits}-{steps}steps.json" if method == "plain" else f"{bits}-{method}-{steps}steps.json"


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}, which is not a finite number")
