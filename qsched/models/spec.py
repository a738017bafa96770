"""What a backbone is: the facts that can be known without loading it."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qsched.hub.source import BackboneError, Source, pinned
from qsched.words import one_of


@dataclass(frozen=True)
class BackboneSpec:
    """One few-step model.

    steps: the step counts it supports. size: image width and height in pixels. source: a folder or a Hub id,
    of which revision and files are fetched. download_bytes: those files (0 = ships with the app).
    memory_bytes: what running the embedded model needs, roughly; for the others `qsched.models.memory` has a
    table. pipeline, scheduler: the diffusers classes that run it. scheduler_config: used where the source's
    own scheduler is of another class. step_options: arguments of the scheduler's step as the pipeline passes
    them. guidance: the scale that is embedded (None = no guidance). architecture: its entry in
    tests/bench/memory_table.py. lora: adapters to fuse, the one for N steps has "Nstep" in its name.
    tiny_vae: a small decoder of the same latents. vae: a decoder in place of the source's own. chosen: what
    `at` was asked for, None for the spec's own source.
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
    pipeline: str = ""
    scheduler: str = ""
    scheduler_config: dict[str, Any] = field(default_factory=dict, hash=False)
    step_options: dict[str, Any] = field(default_factory=dict, hash=False)
    architecture: str = ""
    lora: Source | None = None
    tiny_vae: Source | None = None
    vae: Source | None = None
    chosen: str | None = None

    def sources(self) -> list[Source]:
        """All that `pull` fetches, the pipeline first."""
        pipeline = Source(self.source, self.files, self.revision, self.download_bytes)
        return [source for source in (pipeline, self.lora, self.tiny_vae, self.vae) if source is not None]

    def at(self, source: str | Path) -> "BackboneSpec":
        """The same family from a local folder or from another repository, such as a fine-tune;
        REPOSITORY@REVISION takes a branch, tag or commit of it, and the backbone's own repository can be
        pinned that way too."""
        repo, revision = pinned(str(source))
        files = self.files if revision and repo == self.source else ANY_FILES
        return replace(self, source=repo, files=files, revision=revision, chosen=str(source))

    def steps_checked(self, steps: int | None) -> int:
        """The step count, the default for None.

        Raises:
            ValueError: one sentence, if it does not run in so many.
        """
        steps = self.default_steps if steps is None else steps
        if steps not in self.steps:
            raise ValueError(f"{self.title} runs in {one_of(self.steps)} steps, not {steps}.")
        return steps

    def check_decoder(self, tiny: bool, has_tiny: bool) -> None:
        """Refuse the tiny decoder where there is none.

        Raises:
            ValueError: one sentence.
        """
        if tiny and not has_tiny:
            advice = f"run `python -m qsched pull {self.id}`" if self.tiny_vae else "use the full one"
            raise ValueError(f"{self.title} has no tiny decoder here: {advice}.")

    def lora_file(self, steps: int) -> str | None:
        """The adapter's file for this step count, None for a model without adapters.

        Raises:
            BackboneError: there are adapters, but none for this step count.
        """
        if self.lora is None:
            return None
        found = [name for name in self.lora.files if f"_{steps}step" in name]
        if not found:
            raise BackboneError(f"{self.id} has no LoRA for {steps} steps in {self.lora.repo}.")
        return found[0]


def component_files(weights: str) -> tuple[str, ...]:
    """Patterns of every component of a diffusers folder, whose weights end like this."""
    folders = ("text_encoder*", "unet", "transformer", "vae")
    return (
        "model_index.json",
        "scheduler/*",
        "tokenizer*/*",
        *(f"{folder}/*.json" for folder in folders),
        *(f"{folder}/*{weights}" for folder in folders),
    )


ANY_FILES = component_files(".safetensors")
"""What to fetch from a repository of which only the family is known: every component, no single-file
checkpoints.
"""
