"""Prompt files of users: text, the layouts of caption data sets, and files that mean harm."""

import json

import pytest
import yaml

from qsched.prompts.files import LONGEST_DATA, LONGEST_TEXT, read_prompts


def read(folder, name: str, content: str | bytes) -> list[str]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_prompts(path)


def test_text_files_are_read_line_by_line(tmp_path):
    content = "\ufeff# mine\nred  fox\r\n\n  pizza \n  # not this\nred fox\nпингвин\n"
    assert read(tmp_path, "prompts.txt", content) == ["red fox", "pizza", "пингвин"]


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        ('- red  fox\n- |\n  two\n  lines\n- red fox\n- "1984"\n', ["red fox", "two lines", "1984"]),
        ("sa_1: a fox\nsa_2: a hill, snow\n3: a pond\n", ["a fox", "a hill, snow", "a pond"]),
        ("prompts: [a, b]\nseed: 3\n", ["a", "b"]),
        ("captions:\n  people: [a, b]\n  text: [c]\n", ["a", "b", "c"]),
        ("people: [a]\ntext: [c, a]\n", ["a", "c"]),
        ("- {filename: 1.jpg, caption: a}\n- {filename: 2.jpg, caption: b}\n", ["a", "b"]),
        ("one: {category: food, prompt: a}\ntwo: {category: art, prompt: b}\n", ["a", "b"]),
        (
            "- short_caption: s\n  mask_data: {'0': {idx: 0}}\n  summaries: {base: [a, b], '0': part}\n",
            ["a", "b"],
        ),
        ("- short_caption: a man\n  extra_caption: in a hat\n", ["a man"]),
    ],
    ids=["list", "sDCI", "key", "nested", "categories", "entries", "MJHQ", "DCI", "DCI without summaries"],
)
def test_yaml_layouts(tmp_path, content, prompts):
    assert read(tmp_path, "prompts.yaml", content) == prompts
    as_json = json.dumps(yaml.safe_load(content))
    assert read(tmp_path, "prompts.JSON", as_json) == prompts == read(tmp_path, "prompts.yml", as_json)


def test_a_file_of_the_size_of_sdci_is_read_whole(tmp_path):
    captions = {f"sa_{i}": f"caption {i}, " + "with very many words " * 12 for i in range(5000)}
    content = "".join(f"{name}: {caption}\n" for name, caption in captions.items())
    assert len(content) > LONGEST_TEXT
    assert len(read(tmp_path, "sDCI.yaml", content)) == 5000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "holds no prompt"),
        ("a.txt", "# a\n\n", "holds no prompt"),
        ("a.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("a.txt", "x\n" * 2**20, "more than 1.0 MB"),
        ("a.yaml", "", "holds no prompt"),
        ("a.yaml", "[]", "holds no prompt"),
        ("a.yaml", "prompts: []", "holds no prompt"),
        ("a.yaml", b"\xff\xfe\xff", "not UTF-8"),
        ("a.yaml", b"#" * (LONGEST_DATA + 1), "more than 16.0 MB"),
        ("a.yaml", "red fox\nblue cat\n", "start every prompt with a hyphen"),
        ("a.yaml", "a: b: c", r"not one plain YAML document \(line 1\)"),
        ("a.yaml", "a\0b", "not one plain YAML document"),
        ("a.yaml", "- a\n---\n- b\n", "not one plain YAML document"),
        ("a.yaml", "- a\n- 1984\n", "1984 stands where a prompt should"),
        ("a.yaml", "model: x\nsteps: 4\n", "4 stands where a prompt should"),
        ("a.yaml", "- 2020-01-01\n", "stands where a prompt should"),
        ("a.yaml", "- a sign: red\n", "a prompt with a colon needs quotes"),
        ("a.yaml", "- {filename: 1.jpg}\n", "has no prompt or caption"),
        ("a.yaml", "!!python/object/apply:os.mkdir [made]", "not one plain YAML document"),
        ("a.yaml", "- !!bool perhaps\n", "not one plain YAML document"),
        ("a.yaml", "- !!int ''\n", "not one plain YAML document"),
        ("a.yaml", "? [a]\n: b\n", "not one plain YAML document"),
        ("a.yaml", "[" * 10 + "]" * 10, "more than 6 levels"),
        ("a.json", "[" * 10 + "]" * 10, "more than 6 levels"),
        ("a.yaml", "[" * 10**6, "not one plain YAML document"),
        ("a.yaml", "- " * 10**6, "not one plain YAML document"),
        ("a.json", "[" * 10**6, "more than 6 levels"),
        ("a.yaml", "&a [*a]", "more than 6 levels"),
        ("a.csv", "", "no column prompt, text, caption or description"),
        ("a.csv", "id,title\n1,a fox\n", "no column prompt, text, caption or description"),
        ("a.tsv", "a red fox\na blue cat\n", "no column prompt, text, caption or description"),
        ("a.csv", 'prompt\n"open\n', "not a table"),
        ("a.csv", "prompt\n" + "x" * 200_000, "not a table"),
        ("a.csv", "prompt\n\n", "holds no prompt"),
        ("a.jsonl", '{"prompt": "a"}\n{"title": "b"}\n', "has no prompt or caption"),
        ("a.jsonl", '{"prompt": "a"}\n{\n', "not JSON"),
        ("a.json", "{", "not JSON"),
        ("a.json", "[" + "9" * 5000 + "]", "not JSON"),
        ("a.json", "[NaN]", "nan stands where a prompt should"),
        ("a.json", '["\\ud800"]', "half a character"),
        ("a.json", "null", "holds no prompt"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, name, content)
    told = str(caught.value)
    assert name in told and "\n" not in told and len(told.removeprefix(str(tmp_path))) < 200
    assert not (tmp_path / "made").exists()


def test_a_bomb_of_aliases_never_goes_off(tmp_path):
    rows = "\n".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 2000)}]" for before, name in ("ab", "bc", "cd")
    )
    with pytest.raises(ValueError, match="more than 1,000,000 values"):
        read(tmp_path, "bomb.yaml", f"a: &a []\n{rows}\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("parti.tsv", 'Prompt\tCategory\tNote\na fox, red\tanimals\t\na "big" cat\tanimals\tx\n'),
        ("table.csv", '\ufeffid,CAPTION\r\n1,"a fox, red"\r\n2,"a ""big"" cat"\r\n'),
        ("drawbench.csv", 'text,prompt\nnot this,"a fox, red"\nnor this,"a ""big"" cat"\n'),
        ("lines.jsonl", '\ufeff{"Text": "a fox, red", "id": 1}\n\n{"Text": "a \\"big\\" cat"}\n'),
        ("texts.jsonl", '"a fox, red"\n"a \\"big\\" cat"'),
        ("described.json", '[{"description": "a fox, red"}, {"Description": "a \\"big\\" cat"}]'),
        (
            "captions_val2017.json",
            '{"info": {"year": 2017}, "licenses": [{"id": 1}], "images": [{"id": 9, "file_name": '
            '"9.jpg"}], "annotations": '
            '[{"image_id": 9, "id": 1, "caption": "a fox, red"}, {"image_id": 9, "id": 2, '
            '"caption": "a \\"big\\" cat"}]}',
        ),
    ],
)
def test_tables_json_lines_and_coco(tmp_path, name, content):
    assert read(tmp_path, name, content) == ["a fox, red", 'a "big" cat']


def test_without_libyaml_the_same_rules_hold(tmp_path, monkeypatch):
    monkeypatch.setattr("qsched.prompts.files.LOADER", yaml.SafeLoader)
    assert read(tmp_path, "a.yaml", "sa_1: a fox\n") == ["a fox"]
    for content, message in (
        ("&a [*a]", "levels"),
        ("[" * 10**4, "not one plain"),
        ("!!python/name:os.x", "not one plain"),
    ):
        with pytest.raises(ValueError, match=message):
            read(tmp_path, "a.yaml", content)
