"""From named values, as a page, a link, a script or a command line gives them, to what the library takes, and
back. The names are those of `qsched.settings`.
"""

from collections.abc import Mapping
from typing import Any

from qsched import settings as table
from qsched.comparison.result import Settings
from qsched.quantization import BitWidth, Quantization
from qsched.settings import Setting


def checked(setting: Setting, given: Mapping[str, Any]) -> Any:
    """One value as it is used, the default where nothing is given.

    Raises:
        ValueError: one sentence, if it cannot be set.
    """
    return setting.check(given.get(setting.name, setting.default))


def quantization_of(given: Mapping[str, Any]) -> Quantization:
    """How the denoiser is quantized.

    Raises:
        ValueError: one sentence about the first value that cannot be set.
    """
    values = {setting.name: checked(setting, given) for setting in table.QUANTIZATION[1:]}
    return Quantization(
        str(BitWidth.parse(given.get("bits", table.BITS.default))),
        values["group_size"] or None,
        values["activation_scale"],
        values["scope"],
        values["keep"],
        values["method"],
    )


def settings_of(given: Mapping[str, Any]) -> Settings:
    """What is compared.

    Raises:
        ValueError: one sentence about the first value that cannot be set.
    """
    seed, steps, decoder = (checked(setting, given) for setting in (table.SEED, table.STEPS, table.DECODER))
    return Settings(given.get("prompt") or "", seed, steps, quantization_of(given), decoder == "tiny")


def named_quantization(quantization: Quantization) -> dict[str, Any]:
    """The inverse of `quantization_of`."""
    q = quantization
    return {
        "bits": q.bits,
        "group_size": q.group_size or 0,
        "activation_scale": q.activation_scale,
        "scope": q.scope,
        "keep": q.keep_high_precision,
        "method": q.method,
    }


def named_settings(settings: Settings) -> dict[str, Any]:
    """The inverse of `settings_of`."""
    return {
        "prompt": settings.prompt,
        "seed": settings.seed,
        "steps": settings.steps,
        "decoder": "tiny" if settings.tiny_decoder else "full",
    } | named_quantization(settings.quantization)
