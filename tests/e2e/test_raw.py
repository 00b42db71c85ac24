"""Recordings that keep everything: what a terminal would act on is in the file and reaches no viewer."""

import pytest

from tests.client import BATCH, LINES, output, terminal
from tests.conftest import StartServer

HOSTILE = r"pyguard printf 'a\033]0;title\007b\033[31mred\033[0m\n\033[2Jc\n'"
SHOWN = "ab\x1b[31mred\x1b[0m\nc\n"


@pytest.mark.parametrize("subprotocol", [LINES, BATCH])
async def test_what_a_terminal_would_act_on_stays_in_the_recording(start_server: StartServer, subprotocol: str) -> None:
    server = start_server({"GATEPOST_RAW_OUTPUT": "true"})
    async with terminal(server, subprotocol) as client:
        live = await client.run(HOSTILE)
        later = await client.attach(live[0]["execution"])
    assert output(live) == output(later) == SHOWN
    assert [message["seq"] for message in live] == [message["seq"] for message in later]
    for kind in ("ndjson", "asciicast"):
        shown = server.get(f"/api/executions/{live[0]['execution']}/recording?format={kind}").body.decode()
        assert r"\u001b[31m" in shown
        assert r"\u001b]0" not in shown
        assert r"\u001b[2J" not in shown
    kept = "".join(line for message in server.recording(live[0]["execution"]) for line in message.get("lines", []))
    assert "\x1b]0;title\x07" in kept
    assert "\x1b[2J" in kept


async def test_by_default_not_even_there(start_server: StartServer) -> None:
    server = start_server()
    async with terminal(server) as client:
        live = await client.run(HOSTILE)
    assert output(live) == SHOWN
    assert "title" not in str(server.recording(live[0]["execution"])[1:])
