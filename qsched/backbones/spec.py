"""What a backbone is: the facts that can be known without loading it."""

from dataclasses import dataclass, replace
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[2] / "assets"


class BackboneError(RuntimeError):
    """A backbone cannot be used; the message is one clear sentence for the user."""


@dataclass(frozen=True)
class Source:
    """Files to fetch: repo is a Hub id or a local folder, files are allow patterns (() = all), bytes the download size."""

    repo: str
    files: tuple[str, ...] = ()
    revision: str | None = None
    bytes: int = 0


@dataclass(frozen=True)
class BackboneSpec:
    """One few-step model.

    steps: the step counts it supports. size: picture width and height in pixels. source: a folder or a Hub id.
    download_bytes: what `pull` fetches (0 = ships with the app); memory_bytes: what running it at fp16 needs, roughly.
    """

    id: str
    title: str
    family: str
    source: str
    licence: str
    description: str
    steps: tuple[int, ...]
    default_steps: int
    size: int
    gated: bool = False
    guidance: float | None = None
    download_bytes: int = 0
    memory_bytes: int = 0
    default_bits: str = "w4a8"
    examples: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    revision: str | None = None

    def at(self, source: str | Path) -> "BackboneSpec":
        """The same family from another folder or repository."""
        return replace(self, source=str(source), files=(), revision=None)

    def sources(self) -> list[Source]:
        """All that `pull` fetches, the pipeline first."""
        return [Source(self.source, self.files, self.revision, self.download_bytes)]


EMOJI_LCM = BackboneSpec(
    id="emoji-lcm",
    title="Emoji LCM (embedded)",
    family="emoji",
    source=str(ASSETS / "emoji-lcm"),
    licence="Apache-2.0",
    description="A text-to-emoji latent-consistency-style model of 13 M parameters that ships with the app: animals, plants, food and drink at 64 px.",
    steps=(1, 2, 3, 4, 5, 6, 7, 8),
    default_steps=4,
    size=64,
    memory_bytes=200 << 20,
    examples=(
        "red apple, glossy style",
        "fox, flat style",
        "pineapple, classic style",
        "octopus, glossy style",
        "hamburger, flat style",
        "penguin, classic style",
        "strawberry, glossy style",
        "sunflower, flat style",
    ),
)

SPECS: dict[str, BackboneSpec] = {spec.id: spec for spec in (EMOJI_LCM,)}
