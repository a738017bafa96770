"""The one table of settings: page, links, API and command line offer what stands there."""

import argparse
import inspect
import math

import gradio as gr
import pytest

from qsched import settings as table
from qsched.commands import options
from qsched.comparison.given import named_settings, settings_of
from qsched.comparison.result import Settings
from qsched.quantization import BitWidth, Quantization
from qsched.sampling import coefficients
from qsched.scoring import K_DEFAULT
from qsched.search.options import STRATEGIES
from qsched.settings import IN_EVERY_LINK, IN_SOME_LINKS, QUANTIZATION, K
from qsched.surfaces.stability import HIGHEST_K
from qsched.ui.api import public_compare
from qsched.ui.widgets import widget

ALL = [value for value in vars(table).values() if isinstance(value, table.Setting)]


def test_the_table_says_what_the_library_can_do():
    assert (K.default, K.high) == (K_DEFAULT, HIGHEST_K)
    assert tuple(table.SHAPE.choices) == coefficients.SHAPES and set(table.STRATEGY.choices) == set(
        STRATEGIES
    )
    assert all(str(BitWidth.parse(bits)) == bits for bits in table.BITS.choices)
    assert settings_of({"prompt": "a fox", "steps": 4}) == Settings("a fox", 0, 4, Quantization())
    for setting in ALL:
        assert setting.help and setting.label
        assert setting.default is None or setting.check(setting.default) == setting.default


@pytest.mark.parametrize("setting", IN_EVERY_LINK + IN_SOME_LINKS, ids=lambda setting: setting.name)
def test_a_link_carries_every_value_there_and_back(setting):
    samples = {str: ["a & b"], bool: [False, True], int: [setting.high], float: [0.3]}
    values = [*setting.choices] or (samples | {tuple: [(0.9,), (1.05, 0.123457)]})[setting.kind]
    assert [setting.read(setting.write(value)) for value in values] == values


def test_settings_survive_their_names():
    for settings in (
        Settings("fox"),
        Settings("a house", 7, 2, Quantization("w3a8", 64, "tensor", "linear", False, "mixdq"), True),
    ):
        assert settings_of(named_settings(settings)) == settings


@pytest.mark.parametrize("setting", ALL, ids=lambda setting: setting.name)
def test_what_cannot_be_set_is_one_sentence(setting):
    wrong = {str: [None, 3, {}, ["a fox"]], bool: None, tuple: [[9.0], [math.nan], [True], ["1"]]}.get(
        setting.kind, [math.nan, math.inf, True, "1", None, [1], setting.high + 1, setting.low - 1]
    )
    if setting.choices and setting.kind is str:
        wrong = ["<b>", None, 3, True, ["plain"], {}]
    for value in wrong or ():
        with pytest.raises(ValueError, match=r"must be .*, not .*\.$"):
            setting.check(value)


def test_command_line_and_api_have_the_names_and_defaults_of_the_table():
    parser = argparse.ArgumentParser()
    options.add_backbone(parser)
    options.add_quantization(parser)
    options.add_decoder(parser)
    options.add_k(parser)
    given = vars(parser.parse_args([]))
    for setting in (*QUANTIZATION, table.BACKBONE, table.DECODER, K):
        assert given[setting.name] == setting.default
    given = vars(parser.parse_args(["--quantize-all", "--tiny-decoder", "--group-size", "64"]))
    assert (given["keep"], given["decoder"], given["group_size"]) == (False, "tiny", 64)
    compare = public_compare(type("Engine", (), {"default": "emoji-lcm"}))
    parameters = dict(inspect.signature(compare).parameters)
    assert parameters.pop("request").default is None and len(parameters) == 15
    by_name = {setting.name: setting for setting in (*IN_EVERY_LINK, *IN_SOME_LINKS)}
    for name, parameter in parameters.items():
        assert by_name[name].help in compare.__doc__
        assert name in ("prompt", "steps") or parameter.default == by_name[name].default


def test_a_widget_takes_label_default_choices_and_range_from_the_table():
    with gr.Blocks():
        group, k = widget(gr.Dropdown, table.GROUP_SIZE), widget(gr.Slider, K, label="k in JAQ")
    assert (group.label, group.value, group.elem_id) == (table.GROUP_SIZE.label, 0, "group-size")
    assert ("groups of 64", 64) in group.choices
    assert (k.label, k.minimum, k.maximum, k.step, k.value) == ("k in JAQ", 0, 5, 0.1, 2)
