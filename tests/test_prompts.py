"""Lists of prompts: the built-in ones, and a user's file."""

import pytest

from qsched.prompts import builtin_prompts, choose_prompts, read_prompts


def test_built_in_prompts_are_many_and_share_no_concept():
    calibration, held_out = builtin_prompts("emoji", "calibration"), builtin_prompts("emoji", "held-out")
    concepts = lambda prompts: {prompt.split(",")[0] for prompt in prompts}
    assert len(calibration) >= 25 and len(held_out) >= 100
    assert len(concepts(calibration)) == len(calibration) and not concepts(calibration) & concepts(held_out)
    assert all(p.endswith(("classic style", "flat style", "glossy style")) for p in calibration + held_out)
    assert (
        choose_prompts("5", "emoji", "held-out") == held_out[:5]
        and choose_prompts(None, "emoji", "held-out") == held_out
    )


def test_prompt_files_are_read_line_by_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeff# mine\nred  fox\r\n\n  pizza \nred fox\nпингвин\n".encode())
    assert read_prompts(path) == ["red fox", "pizza", "пингвин"] == choose_prompts(str(path), "emoji", "held-out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no prompt"),
        (b"# a\n\n", "holds no prompt"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"x\n" * 2**20, "too long"),
    ],
)
def test_bad_prompt_files_are_refused(tmp_path, content, message):
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / "prompts.txt")


@pytest.mark.parametrize(
    ("choice", "message"),
    [("0", "1 to 25"), ("999", "not 999"), ("nowhere.txt", "no prompt file"), (".", "cannot be read")],
)
def test_bad_choices_of_prompts_are_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        choose_prompts(choice, "emoji", "calibration")
