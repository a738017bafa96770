"""The app as an API and as an MCP server: what each tool says of itself and answers, through real clients."""

import ast
import asyncio
import zipfile

import pytest
from browser_app import serving, write_preset
from gradio_client import Client
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from qsched.settings import BITS, C_X, PROMPT


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    write_preset(folder)
    with serving(folder) as (url, _):
        yield url


def mcp(url, work):
    """What `work` gives for a session of an MCP client."""

    async def talk():
        async with streamablehttp_client(f"{url}/gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                return await work(session)

    return asyncio.run(talk())


def test_the_tools_are_those_of_the_api_typed_and_described(url):
    tools = {tool.name: tool for tool in mcp(url, lambda session: session.list_tools()).tools}
    assert {"compare", "export", "searches"} == set(tools)
    properties = tools["compare"].inputSchema["properties"]
    assert "naive quantization" in tools["compare"].description
    assert PROMPT.help in properties["prompt"]["description"] and properties["prompt"]["type"] == "string"
    assert BITS.help in properties["bits"]["description"] and properties["steps"]["type"] == "integer"
    assert C_X.help in properties["c_x"]["description"]
    assert "request" not in properties


def test_an_agent_compares_and_exports(url):
    answer = mcp(url, lambda session: session.call_tool("compare", {"prompt": "a fox", "bits": "w4a8"}))
    assert not answer.isError
    record = ast.literal_eval(answer.content[0].text)
    assert record["settings"]["prompt"] == "a fox" and len(record["columns"]) == 3
    answer = mcp(url, lambda session: session.call_tool("export", {"bits": "w4a8", "steps": 4}))
    assert ast.literal_eval(answer.content[0].text)["coefficients"]["c_x"][1] == 1.0


def test_what_cannot_be_done_is_one_sentence_for_an_agent(url):
    for tool, asked, sentence in (
        ("compare", {"prompt": ""}, "type a prompt"),
        ("export", {"bits": "w2a8"}, "No best coefficients are known for W2A8 at 4 steps"),
    ):
        answer = mcp(url, lambda session, tool=tool, asked=asked: session.call_tool(tool, asked))
        assert answer.isError and sentence in answer.content[0].text
        assert "Traceback" not in answer.content[0].text


def test_a_script_gets_the_scheduler_and_the_searches(url):
    client = Client(url, verbose=False)
    found = client.predict("w4a8", steps=4, api_name="/export")
    path = found["scheduler"]["path"] if isinstance(found["scheduler"], dict) else found["scheduler"]
    with zipfile.ZipFile(path) as archive:
        assert {name.split("/")[-1] for name in archive.namelist()} >= {
            "scheduler_config.json",
            "schedulers.py",
        }
    assert client.predict(api_name="/searches") == []
    with pytest.raises(Exception, match="No best coefficients are known for W2A8"):
        client.predict("w2a8", api_name="/export")
