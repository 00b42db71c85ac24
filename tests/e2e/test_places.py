"""Visitors leave places to accounts: connections, commands, and the HTTP connections of other addresses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bench.hostile.clients import Peer, address, connect, many
from tests.accounts import new_token
from tests.client import Terminal, output, terminal
from tests.conftest import StartServer
from tests.serving import Server

EIGHT = {"GATEPOST_CONNECTIONS_TOTAL": "8", "GATEPOST_CONNECTIONS_PER_ADDRESS": "20"}  # two of them for accounts


@asynccontextmanager
async def visitors(server: Server, count: int) -> AsyncIterator[list[Terminal]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(terminal(server)) for _ in range(count)]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_accounts_connect_while_visitors_hold_all_their_places(start_server: StartServer) -> None:
    server = start_server(EIGHT)
    token = new_token(server.folder, "ann")
    async with visitors(server, 6) as held:
        async with terminal(server, greeted=False) as person:
            assert (await person.receive())["rule"] == "limits.connections"
            with pytest.raises(InvalidStatus) as refused:
                await terminal(server).__aenter__()
            assert refused.value.response.status_code == 429
            async with terminal(server, additional_headers=bearer(token)) as program:
                assert program.greeting[-1]["user"] == "ann"
            await person.send(type="auth", token=token)
            assert (await person.until("ready"))[-1]["user"] == "ann"
        async with terminal(server, greeted=False) as seventh:
            assert (await seventh.receive())["rule"] == "limits.connections"
            await seventh.send(command="echo hi")
            with pytest.raises(ConnectionClosed):
                await seventh.until("ready")
            assert (seventh.socket.close_code, seventh.socket.close_reason) == (1013, "limits.connections")
        await held[0].send(type="auth", token=token)
        await held[0].until("ready")
        async with terminal(server) as successor:
            assert output(await successor.run("echo on")) == "on\n"


async def test_an_idle_visitor_makes_room_once_half_of_the_places_are_taken(start_server: StartServer) -> None:
    server = start_server({**EIGHT, "GATEPOST_VISITOR_IDLE": "0.1"})
    token = new_token(server.folder, "ann")
    async with (
        terminal(server, additional_headers=bearer(token)) as account,
        visitors(server, 3) as (idle, busy, other),
    ):
        await busy.start("pyguard sleep 30")
        with pytest.raises(ConnectionClosed):
            await idle.until("ready")
        assert (idle.socket.close_code, idle.socket.close_reason) == (1013, "limits.idle")
        await busy.quiet()
        await other.quiet()
        await account.quiet()


async def test_accounts_run_commands_while_visitors_fill_all_their_slots(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_CONCURRENT_TOTAL": "4"})
    token = new_token(server.folder, "ann")
    async with visitors(server, 4) as clients, terminal(server, additional_headers=bearer(token)) as account:
        for client in clients[:3]:
            await client.start("cat -")
        refused = (await clients[3].run("echo on"))[-1]
        assert (refused["rule"], "visitors" in refused["message"]) == ("limits.busy", True)
        assert output(await account.run("echo on")) == "on\n"


async def test_one_address_does_not_hold_every_http_connection(start_server: StartServer) -> None:
    bounds = {"GATEPOST_HTTP_CONNECTIONS_PER_ADDRESS": "3", "GATEPOST_CONNECTIONS_PER_ADDRESS": "2"}
    server = start_server(bounds)

    async def answer() -> bytes:
        peer: Peer = await connect(server.url, address(0))
        async with many([asyncio.sleep(0, peer)]), asyncio.timeout(30):
            peer.writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            return (await peer.reader.readline()).split()[1]

    async with many([connect(server.url, address(0)) for _ in range(5)]):
        sixth = await connect(server.url, address(0))
        async with many([asyncio.sleep(0, sixth)]):
            assert b" 429 " in await sixth.reader.readline()
        assert server.get("/healthz").status == 200
    async with asyncio.timeout(30):
        while await answer() != b"200":
            await asyncio.sleep(0.05)
