"""A viewer that does not read costs the others nothing."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from tests.client import BATCH, LINES, assert_gapless, output, terminal
from tests.conftest import StartServer
from tests.serving import Server

MIB = 2**20
LINE = "0123456789" * 9


async def _ended(server: Server, execution: str) -> None:
    """Wait for the end of a recording without watching it through a socket."""
    async with asyncio.timeout(30):
        while '"type":"complete"' not in _tail(server, execution):
            await asyncio.sleep(0.05)


def _tail(server: Server, execution: str) -> str:
    data = (server.recordings / f"{execution}.ndjson").read_bytes()
    return data[-400:].decode()


@pytest.mark.parametrize("subprotocol", [LINES, BATCH])
async def test_others_are_answered_and_memory_stays_while_nobody_reads(
    start_server: StartServer, subprotocol: str
) -> None:
    server = start_server({"GATEPOST_DETACH_GRACE": "1"})
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(terminal(server))
        lazy = await stack.enter_async_context(terminal(server, subprotocol, max_queue=1))
        await other.run("pyguard seq 50000")
        before = server.resident()
        await lazy.send(type="run", command=f"pyguard yes {LINE}")
        execution = (await lazy.until("started"))[-1]["execution"]
        slowest, most = 0.0, 0
        ended = asyncio.create_task(_ended(server, execution))
        while not ended.done():
            began = time.monotonic()
            assert output(await other.run("echo there")) == "there\n"
            slowest = max(slowest, time.monotonic() - began)
            most = max(most, server.resident())
        await ended
        assert slowest < 20
        assert most - before < 8 * MIB
        lazy.socket.transport.abort()
    async with terminal(server, BATCH) as late:
        replies = await late.attach(execution, bound=20)
        assert_gapless(replies)
        assert len(output(replies)) == 10 * MIB


async def test_a_viewer_that_reads_late_gets_everything(server: Server) -> None:
    async with terminal(server, LINES, max_queue=1) as lazy, terminal(server) as other:
        await lazy.send(type="run", command="pyguard seq 30000")
        execution = (await lazy.until("started"))[-1]["execution"]
        await _ended(server, execution)
        assert output(await other.run("echo there")) == "there\n"
        replies = await lazy.reply(30)
        assert_gapless(replies, 1)
        assert output(replies) == "".join(f"{number}\n" for number in range(1, 30_001))


async def test_a_viewer_that_does_not_read_can_still_cancel(server: Server) -> None:
    async with terminal(server, LINES, max_queue=1) as lazy:
        await lazy.send(type="run", command="pyguard bash -c 'seq 300000; sleep 30'")
        execution = (await lazy.until("started"))[-1]["execution"]
        async with asyncio.timeout(60):
            while (server.recordings / f"{execution}.ndjson").stat().st_size < 2 * MIB:
                await asyncio.sleep(0.02)
        await lazy.send(type="cancel")
        await _ended(server, execution)
        assert '"status":"cancelled"' in _tail(server, execution)
        lazy.socket.transport.abort()


async def test_a_viewer_that_dies_in_the_middle_of_a_flood_is_forgotten(server: Server) -> None:
    async with terminal(server, LINES, max_queue=1) as lazy:
        await lazy.send(type="run", command="pyguard seq 300000")
        await lazy.until("started")
        lazy.socket.transport.abort()
    async with asyncio.timeout(30):
        while server.get("/health").json["active_connections"]:
            await asyncio.sleep(0.02)
