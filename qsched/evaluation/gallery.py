"""Examples by honest outcome: held-out prompts where Q-Sched helps, changes nothing, or hurts.

Every prompt is compared as the page compares it, alone, from one seed that no search has seen. Of each
outcome the examples in the middle are taken, not the best ones.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from qsched.comparison.comparison import compare
from qsched.comparison.result import OUTCOMES, Comparison, Settings, outcome_of
from qsched.comparison.thumbnail import data_uri
from qsched.evaluation.held_out import FIRST_SEED, quantization_of
from qsched.models.base import Backbone
from qsched.models.registry import ASSETS
from qsched.presets import Preset
from qsched.quantization import Quantization

FOLDER = ASSETS / "gallery"
EXAMPLES = 4
"""Of each outcome."""


@dataclass(frozen=True)
class Example:
    """One prompt: JAQ of the naive and of the Q-Sched image, and both images as data addresses."""

    prompt: str
    naive: float
    qsched: float
    images: tuple[str, str]

    @property
    def difference(self) -> float:
        """JAQ of Q-Sched minus naive."""
        return self.qsched - self.naive


@dataclass(frozen=True)
class Gallery:
    """Examples of one preset. settings: of its quantizer; counts: of all prompts, by outcome; examples: those
    shown, likewise.
    """

    backbone: str
    revision: str
    bits: str
    steps: int
    settings: dict
    coefficients: dict
    k: float
    seed: int
    counts: dict[str, int]
    examples: dict[str, list[Example]]

    @property
    def all_examples(self) -> list[Example]:
        """In the order of OUTCOMES."""
        return [example for outcome in OUTCOMES for example in self.examples[outcome]]

    def compared(self, index: int) -> Settings | None:
        """What the example at a place of `all_examples` was compared with, None where there is none."""
        examples = self.all_examples
        if not isinstance(index, int) or not 0 <= index < len(examples):
            return None
        quantization = Quantization(self.bits, **self.settings)
        return Settings(examples[index].prompt, self.seed, self.steps, quantization)

    def to_json(self) -> str:
        """What `load_gallery` reads."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def load_gallery(backbone: str, folder: Path = FOLDER) -> Gallery | None:
    """The gallery that ships for a backbone, None if there is none."""
    path = folder / f"{backbone}.json"
    if not path.is_file():
        return None
    data = json.loads(path.read_text("utf-8"))
    examples = {
        outcome: [Example(**one | {"images": tuple(one["images"])}) for one in found]
        for outcome, found in data["examples"].items()
    }
    return Gallery(**data | {"examples": examples})


def make_gallery(
    backbone: Backbone,
    preset: Preset,
    prompts: Sequence[str],
    k: float,
    on_prompt: Callable[[int, int], None] = lambda done, total: None,
) -> Gallery:
    """Compare every prompt with the preset's coefficients and take the middle examples of each outcome."""
    found: dict[str, list[Example]] = {outcome: [] for outcome in OUTCOMES}
    for done, prompt in enumerate(prompts, 1):
        settings = Settings(prompt, FIRST_SEED, preset.steps, quantization_of(preset))
        example = _example(compare(backbone, settings, preset.best(k)), k)
        found[outcome_of(example.difference)].append(example)
        on_prompt(done, len(prompts))
    return Gallery(
        preset.backbone,
        backbone.revision,
        preset.bits,
        preset.steps,
        preset.settings,
        preset.best(k).to_dict(),
        k,
        FIRST_SEED,
        {outcome: len(examples) for outcome, examples in found.items()},
        {outcome: middle(examples) for outcome, examples in found.items()},
    )


def middle(examples: Sequence[Example], count: int = EXAMPLES) -> list[Example]:
    """The examples in the middle of all, by their difference, largest first."""
    ranked = sorted(examples, key=lambda example: -example.difference)
    begin = max(0, (len(ranked) - count) // 2)
    return ranked[begin : begin + count]


def _example(comparison: Comparison, k: float) -> Example:
    naive, qsched = comparison.naive, comparison.qsched
    return Example(
        comparison.settings.prompt,
        round(naive.jaq(k), 4),
        round(qsched.jaq(k), 4),
        (data_uri(naive.image), data_uri(qsched.image)),
    )
