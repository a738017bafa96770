"""At which address a phone reaches the page, and the code that says so."""

import pytest

from qsched.ui.stage import ALONE, NO_NETWORK, asked_address, code_card, lan_address, reachable
from qsched.ui.visitors import is_loopback


@pytest.mark.parametrize(
    ("headers", "root", "address"),
    [
        ({"host": "192.168.0.17:7860"}, "", "http://192.168.0.17:7860"),
        ({"Host": "127.0.0.1:7860", "X-Forwarded-Host": "a.hf.space", "X-Forwarded-Proto": "https,http"}, "",
         "https://a.hf.space"),
        ({"host": "here.example", "referer": "https://here.example/?bits=w4a8"}, "/demo/",
         "https://here.example/demo"),
        ({"host": "127.0.0.1:7860"}, "https://here.example/demo", "https://here.example/demo"),
        ({"host": "<script>"}, "", "http://"),
    ],
)  # fmt: skip
def test_the_address_is_that_of_the_request(headers, root, address):
    assert asked_address(headers, root) == address


@pytest.mark.parametrize(
    ("asked", "listens", "share", "lan", "expected"),
    [
        ("http://192.168.0.17:7860", "0.0.0.0", None, "10.0.0.5", ("http://192.168.0.17:7860", "")),
        ("http://here.example/demo", "127.0.0.1", None, None, ("http://here.example/demo", "")),
        ("http://127.0.0.1:7860", "0.0.0.0", None, "10.0.0.5", ("http://10.0.0.5:7860", "")),
        ("http://0.0.0.0:7860/demo", "0.0.0.0", None, "10.0.0.5", ("http://10.0.0.5:7860/demo", "")),
        ("http://localhost:7860", "127.0.0.1", "https://a.gradio.live", None, ("https://a.gradio.live", "")),
        ("http://localhost:7860", "127.0.0.1", None, "10.0.0.5", (None, ALONE)),
        ("http://[::1]:7860", "localhost", None, "10.0.0.5", (None, ALONE)),
        ("http://localhost:7860", "0.0.0.0", None, None, (None, NO_NETWORK)),
    ],
)
def test_a_phone_gets_an_address_that_works_or_none(asked, listens, share, lan, expected):
    assert reachable(asked, listens, share, lan) == expected


def test_the_machine_s_own_address_is_one_that_others_can_use():
    address = lan_address()
    assert address is None or not is_loopback(address)


def test_the_code_is_black_on_white_with_the_address_below():
    card = code_card("http://10.0.0.5:7860/?a=1&b=2")
    assert '<svg viewBox="0 0 ' in card and 'fill="#fff"' in card and 'stroke="#000"' in card
    assert "<p>http://10.0.0.5:7860/?a=1&amp;b=2</p>" in card
    assert code_card(None, ALONE) == f'<div class="no-code"><p>{ALONE}</p></div>'
