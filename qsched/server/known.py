"""The best known coefficients: presets, by the names that sessions know backbones by."""

from dataclasses import replace
from pathlib import Path

from qsched.comparison.result import Settings
from qsched.presets import Preset, PresetError, find_preset, preset_path
from qsched.quantization import Quantization
from qsched.sampling.coefficients import Coefficients
from qsched.surfaces.remembering import Remembered

SOURCE = "@"
"""Between a backbone's id and another source of its family, in the name that sessions know it by."""


class KnownPresets:
    """The presets of a folder, which may change at any time.

    Attributes:
        presets: the folder.
    """

    def __init__(self, folder: Path):
        self.presets = folder
        self._read: Remembered[Preset | None] = Remembered(32)  # every event asks for one

    def preset(self, backbone: str, quantization: Quantization, steps: int) -> Preset | None:
        """The shipped preset, unless it was made for another way of quantizing.

        Raises:
            PresetError: if there is one and it is broken.
        """
        asked = backbone.partition(SOURCE)[0], quantization.bits, steps, self.presets, quantization.method
        path = preset_path(*asked)
        if path is None:
            return None
        file = path.stat()
        key = path, file.st_ino, file.st_mtime_ns, file.st_size
        preset = self._read.get(key, lambda: find_preset(*asked))
        return preset if preset and _fits(preset, quantization) else None

    def best_known(self, backbone: str, settings: Settings, k: float | None = None) -> Coefficients | None:
        """The best coefficients of the shipped preset at this k (None: its own), None without a readable
        preset.
        """
        preset = self.readable_preset(backbone, settings)
        return preset.best(preset.k if k is None else k) if preset else None

    def readable_preset(self, backbone: str, settings: Settings) -> Preset | None:
        """As `preset`; None too if it is broken."""
        try:
            return self.preset(backbone, settings.quantization, settings.steps)
        except PresetError:
            return None

    def start(self, backbone: str, settings: Settings, k: float | None = None) -> Coefficients:
        """Where the coefficients begin for these settings: the best known ones, 1 where nothing is known."""
        return self.best_known(backbone, settings, k) or Coefficients.identity()


def _fits(preset: Preset, quantization: Quantization) -> bool:
    """Whether a preset was made for this way of quantizing; what it does not say is as usual."""
    return replace(Quantization(quantization.bits), **preset.settings) == quantization
