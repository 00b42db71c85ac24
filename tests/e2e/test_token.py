"""The access token: by header or by first message, and in no log."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.client import Terminal, terminal
from tests.conftest import StartServer
from tests.serving import ANY_PROGRAM, Server, start, wait_until

TOKEN = "canary-token-4b1d0c7e"
WRONG = "canary-wrong-99aa77bb"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start(tmp_path_factory.mktemp("guarded"), {**ANY_PROGRAM, "GATEPOST_ACCESS_TOKEN": TOKEN})
    yield server
    server.stop()


async def _closed(client: Terminal) -> list[dict[str, Any]]:
    """What comes until the server closes the socket."""
    messages = []
    with pytest.raises(ConnectionClosed):
        while True:
            messages.append(await client.receive())
    return messages


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_the_header_opens(guarded: Server) -> None:
    async with terminal(guarded, additional_headers=_bearer(TOKEN)) as client:
        assert (await client.command("pwd"))[-1]["status"] == "succeeded"


async def test_the_first_message_opens(guarded: Server) -> None:
    async with terminal(guarded, greeted=False) as client:
        error = await client.receive()
        assert (error["type"], error["rule"]) == ("error", "auth.required")
        await client.send(type="auth", token=TOKEN)
        await client.until("ready")
        assert (await client.command("pwd"))[-1]["status"] == "succeeded"
        await client.send(type="auth", token=TOKEN)
        assert (await client.receive())["rule"] == "auth.unneeded"


@pytest.mark.parametrize("way", ["header", "message"])
async def test_a_wrong_token_closes_with_4001(start_server: StartServer, way: str) -> None:
    server = start_server({"GATEPOST_ACCESS_TOKEN": TOKEN})
    for token in (WRONG, "", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ü" * 21):
        headers = [("Authorization", f"Bearer {token}".encode().decode("latin-1"))] if way == "header" else []
        async with terminal(server, greeted=False, additional_headers=headers) as client:
            if way == "message":
                await client.send(type="auth", token=token)
            messages = await _closed(client)
            assert client.socket.close_code == 4001
            assert messages[-1]["rule"] == "auth.wrong"
            assert "ready" not in {message["type"] for message in messages}


@pytest.mark.parametrize("noisy", [False, True], ids=["silent", "noisy"])
async def test_no_token_within_five_seconds_closes_with_4001(guarded: Server, noisy: bool) -> None:
    """Frames that are no messages do not lengthen the time."""
    async with terminal(guarded, greeted=False) as client:
        began = time.monotonic()
        with pytest.raises(ConnectionClosed):
            while time.monotonic() - began < 20:
                await client.receive()
                if noisy:
                    await client.socket.send("{")
        assert client.socket.close_code == 4001
        assert 4.5 < time.monotonic() - began < 20


async def test_a_command_before_the_token_does_not_run(guarded: Server) -> None:
    async with terminal(guarded, greeted=False) as client:
        await client.send(type="run", command="pyguard touch early.txt")
        await client.send(type="auth", token=TOKEN)
        messages = await _closed(client)
        assert client.socket.close_code == 4001
        assert {message["type"] for message in messages} == {"error"}
    assert not (guarded.workspace / "early.txt").exists()


async def test_a_recording_is_exported_only_with_the_token(guarded: Server) -> None:
    async with terminal(guarded, additional_headers=_bearer(TOKEN)) as client:
        execution = (await client.run("pwd"))[0]["execution"]
    path = f"/api/executions/{execution}/recording"
    without, wrong, right = (guarded.get(path, headers) for headers in ({}, _bearer(WRONG), _bearer(TOKEN)))
    assert (without.status, wrong.status, right.status) == (401, 401, 200)
    assert without.headers["www-authenticate"] == "Bearer"
    assert guarded.get(f"{path}?token={TOKEN}").status == 401
    assert guarded.get("/health").status == 200


async def test_after_too_many_wrong_tokens_of_an_address_none_is_looked_at(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_ACCESS_TOKEN": TOKEN})
    path = "/api/executions/01ARZ3NDEKTSV4RRFFQ69G5FAV/recording"
    statuses = [server.get(path, _bearer(WRONG)).status for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    assert server.get(path, _bearer(TOKEN)).status == 429
    async with terminal(server, greeted=False, additional_headers=_bearer(WRONG)) as client:
        assert (await _closed(client))[-1]["rule"] == "auth.limited"
        assert client.socket.close_code == 4001


async def test_the_token_may_come_from_a_file(start_server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    server = start_server({"GATEPOST_ACCESS_TOKEN_FILE": str(tmp_path / "token")})
    async with terminal(server, additional_headers=_bearer(TOKEN)) as client:
        assert client.greeting


@pytest.mark.parametrize("level", ["info", "debug"])
async def test_no_token_stands_in_any_log(start_server: StartServer, level: str) -> None:
    server = start_server({"GATEPOST_ACCESS_TOKEN": TOKEN, "LOG_LEVEL": level})
    async with terminal(server, additional_headers=_bearer(TOKEN)) as client:
        await client.run("pwd")
    async with terminal(server, greeted=False) as client:
        await client.send(type="auth", token=TOKEN)
        await client.until("ready")
    async with terminal(server, greeted=False) as client:
        await client.send(type="auth", token=WRONG)
        await _closed(client)
    server.get(f"/?token={TOKEN}", _bearer(TOKEN))
    wait_until(lambda: server.get("/health").json["active_connections"] == 0, "the sockets to be closed")
    server.stop()
    assert TOKEN not in server.logs
    assert WRONG not in server.logs


async def test_some_seconds_after_its_start_the_server_is_awake(guarded: Server) -> None:
    await asyncio.sleep(max(0.0, guarded.began + 10.5 - time.monotonic()))  # mostly gone by in the tests above
    async with terminal(guarded, additional_headers=_bearer(TOKEN)) as client:
        assert [message["type"] for message in client.greeting] == ["ready"]
