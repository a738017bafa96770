"""The built-in prompts: enough of them, balanced, short enough for CLIP, calibration and reports apart."""

import re

import open_clip
import pytest

from qsched.models.registry import SPECS
from qsched.prompts.builtin import SETS, builtin_prompts, categories, categorised, choose_prompts

EMOJI = ["animals", "plants", "food", "drink", "travel", "activities", "objects", "composition", "unseen"]
PHOTO = ["abstract", "fine detail", "text rendering", "people", "composition"]


def words(prompt: str) -> list[str]:
    return re.findall(r"[\w'’-]+", prompt.casefold())


def runs(prompt: str, length: int = 4) -> set[tuple[str, ...]]:
    """All sequences of so many words."""
    said = words(prompt)
    return {tuple(said[i : i + length]) for i in range(len(said) - length + 1)}


def subjects(prompt: str) -> set[str]:
    """The words that carry meaning, roughly."""
    return {word for word in words(prompt) if len(word) > 3}


def test_emoji_prompts_are_many_and_share_no_concept():
    calibration, reported = categories("emoji", "calibration"), categories("emoji", "held-out")
    held_out = builtin_prompts("emoji", "held-out")
    assert list(reported) == EMOJI and list(calibration) == [
        kind for kind in EMOJI if kind not in ("drink", "unseen")
    ]
    assert len(builtin_prompts("emoji", "calibration")) >= 25 and len(set(held_out)) == len(held_out) >= 100
    single = lambda sets: [prompt for kind in sets if kind != "composition" for prompt in sets[kind]]
    styled = re.compile(r"(.+), (classic|flat|glossy) style")
    assert all(map(styled.fullmatch, single(reported)))
    concepts = {styled.fullmatch(prompt)[1] for prompt in single(calibration)}
    assert len(concepts) == len(single(calibration))
    assert not [
        (one, prompt) for one in concepts for prompt in held_out if re.search(rf"\b{one}s?\b", prompt)
    ]


def test_photo_prompts_cover_every_category_evenly():
    calibration, held_out = categories("sdxl", "calibration"), categories("sdxl", "held-out")
    assert list(calibration) == list(held_out) == PHOTO
    assert {len(prompts) for prompts in calibration.values()} == {5}
    assert min(len(prompts) for prompts in held_out.values()) >= 24
    lengths = [len(words(prompt)) for prompt in builtin_prompts("sdxl", "held-out")]
    assert min(lengths) >= 4 and max(lengths) <= 60 and max(lengths) > 5 * min(lengths)


def test_photo_prompts_to_report_on_are_none_of_those_to_search_with():
    calibration, held_out = builtin_prompts("sd", "calibration"), builtin_prompts("sd", "held-out")
    assert len({*calibration, *held_out}) == len(calibration) + len(held_out) == 25 + len(held_out)
    assert not set().union(*map(runs, calibration)) & set().union(*map(runs, held_out))
    for one in calibration:
        for other in held_out:
            shared = subjects(one) & subjects(other)
            assert len(shared) <= 0.4 * min(len(subjects(one)), len(subjects(other))), (one, other)


def test_photo_prompts_differ_from_each_other():
    held_out = builtin_prompts("sd", "held-out")
    seen: dict[tuple[str, ...], str] = {}
    for prompt in held_out:
        for run in runs(prompt):
            assert seen.setdefault(run, prompt) == prompt, (prompt, seen[run])


@pytest.mark.parametrize("use", ["calibration", "held-out"])
def test_no_photo_prompt_is_cut_off_by_clip(use):
    tokenizer = open_clip.SimpleTokenizer()
    for prompt in builtin_prompts("flux", use):
        assert len(tokenizer.encode(prompt)) + 2 <= 77, prompt


def test_every_prompt_asked_to_be_rendered_is_quoted():
    for use in ("calibration", "held-out"):
        for prompt in categories("sd", use)["text rendering"]:
            assert re.search(r'"[^"]+"', prompt) and prompt.count('"') % 2 == 0, prompt


def test_every_family_has_its_prompts():
    assert {spec.family for spec in SPECS.values()} <= set(SETS) >= {"emoji", "sd", "sdxl", "flux"}
    assert builtin_prompts("sd", "held-out") == builtin_prompts("flux", "held-out")
    assert builtin_prompts("sd", "held-out") != builtin_prompts("emoji", "held-out")
    with pytest.raises(ValueError, match="no built-in prompts for the family 'audio'"):
        choose_prompts(3, "audio", "held-out")


@pytest.mark.parametrize(
    ("family", "use"), [("emoji", "calibration"), ("emoji", "held-out"), ("sd", "calibration")]
)
def test_a_few_prompts_cover_the_categories(family, use):
    by_category = categories(family, use)
    few = choose_prompts(len(by_category), family, use)
    assert few == [prompts[0] for prompts in by_category.values()]
    twice = choose_prompts(str(2 * len(by_category)), family, use)
    assert twice == few + [prompts[1] for prompts in by_category.values()]
    everything = choose_prompts(None, family, use)
    assert (
        everything == builtin_prompts(family, use) == [p for prompts in by_category.values() for p in prompts]
    )
    assert sorted(choose_prompts(len(everything), family, use)) == sorted(everything)


def test_a_path_is_a_users_file(tmp_path):
    (tmp_path / "prompts.txt").write_text("red fox\n")
    (tmp_path / "prompts.yaml").write_text("- red fox\n")
    for name in ("prompts.txt", "prompts.yaml"):
        assert choose_prompts(str(tmp_path / name), "emoji", "held-out") == ["red fox"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [("0", "1 to 25"), ("999", "not 999"), ("nowhere.txt", "no prompt file"), (".", "cannot be read")],
)
def test_bad_choices_of_prompts_are_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        choose_prompts(choice, "emoji", "calibration")


def test_prompts_are_sorted_into_categories_only_if_all_are_built_in():
    few = choose_prompts(6, "sd", "held-out")
    found = categorised(few, "sd", "held-out")
    assert list(found) == PHOTO and [len(prompts) for prompts in found.values()] == [2, 1, 1, 1, 1]
    assert categorised([*few, "my own"], "sd", "held-out") == {} == categorised(few, "audio", "held-out")
    assert categorised(few[:1], "sd", "held-out") == {"abstract": few[:1]}
