"""Floods over one connection: others are served, memory stays, and what goes on is cut off."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import pytest
from websockets.exceptions import ConnectionClosed

from backend.transports import frame_pace
from backend.transports.bounded_socket import BoundedSocket
from backend.transports.request_timeout import BoundedProtocol, bounded_protocol
from bench.hostile.clients import Peer, address, frame, many
from bench.hostile.clients import terminal as hostile
from tests.client import output, terminal
from tests.recipes.house import build, shared
from tests.serving import Server
from tests.transports.in_process import served

SLOWEST = 30.0  # seconds; floods, tests and service share few cores
GROWTH = 64 << 20  # bytes
PING, FRAGMENT, TEXT_START = 0x89, 0x00, 0x01


async def flood(peer: Peer, frames: bytes) -> None:
    """Send the same again and again, and read nothing, until the server ends the connection."""
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    with suppress(OSError):
        while not peer.writer.is_closing():
            peer.writer.write(frames)
            await peer.writer.drain()


async def timed(action: Callable[[], Awaitable[object]]) -> float:
    begun = time.monotonic()
    await action()
    return time.monotonic() - begun


@pytest.fixture
async def attackers() -> AsyncIterator[Callable[[Server, int, bytes], Awaitable[None]]]:
    """Begins a flood of so many sockets, twenty of an address."""
    async with AsyncExitStack() as stack:

        async def begin(server: Server, count: int, frames: bytes) -> None:
            opening = [hostile(server.url, address(number // 20)) for number in range(count)]
            peers = await stack.enter_async_context(many(opening))
            assert len(peers) == count
            for peer in peers:
                stack.callback(asyncio.create_task(flood(peer, frames)).cancel)

        yield begin


Begin = Callable[[Server, int, bytes], Awaitable[None]]


async def test_lines_that_are_pasted_arrive_all_and_in_order(server: Server) -> None:
    async with terminal(server, "gatepost.v1.json") as client:
        await client.start("cat")
        for number in range(300):
            await client.send(type="stdin", data=f"{number}\n")
        await client.send(type="stdin_close")
        assert output(await client.reply()) == "".join(f"{number}\n" for number in range(300))


async def test_others_are_served_while_twenty_sockets_send_empty_commands(server: Server, attackers: Begin) -> None:
    async with terminal(server) as other:
        await attackers(server, 20, frame({"command": ""}) * 2000)
        echo = [await timed(lambda: other.run("echo on")) for _ in range(10)]
        health = [await timed(lambda: asyncio.to_thread(server.get, "/healthz")) for _ in range(10)]
    assert max(echo) < SLOWEST
    assert max(health) < SLOWEST


async def test_what_two_hundred_sockets_never_read_costs_little_memory(server: Server, attackers: Begin) -> None:
    before = server.resident()
    async with terminal(server) as other:
        await attackers(server, 200, frame(b"{") * 2000)
        echo = [await timed(lambda: other.run("echo on")) for _ in range(10)]
    assert server.resident() - before < GROWTH
    assert max(echo) < SLOWEST


async def test_a_flood_of_messages_is_cut_off_without_a_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_pace, "LONGEST_WAIT", 0.05)
    common = shared()
    house = build(common)
    async with house.joined(), served(common, house) as front, terminal(front) as client:
        with pytest.raises(ConnectionClosed) as closed:
            for _ in range(1000):
                await client.send(command="")
                await client.socket.ping()
            await client.receive()
        assert closed.value.rcvd is None
        assert [event.fields["rule"] for event in common.audit.events] == ["limits.frames"]


@pytest.mark.parametrize(
    "frames", [frame(b"p" * 125, PING) * 500, frame(b"", TEXT_START) + frame(b"", FRAGMENT) * 5000]
)
async def test_a_flood_that_never_becomes_a_message_is_cut_off(server: Server, frames: bytes) -> None:
    peer = await hostile(server.url, address(0))
    async with asyncio.timeout(60):
        peer.writer.write(frames)
        with suppress(ConnectionError):
            while await peer.reader.read(65536):
                pass
    peer.writer.transport.abort()


async def test_a_message_in_many_fragments_is_one_message(server: Server) -> None:
    async with terminal(server) as client:
        await client.socket.send(iter(['{"type":"ping","id":"', *"x" * 60, '"}']))
        assert await client.receive() == {"type": "pong", "id": "x" * 60}


async def test_a_client_is_not_silent_while_its_answer_waits_behind_what_it_sent_before() -> None:
    common = shared()
    house = build(common)
    impatient = {"ws": BoundedSocket, "ws_ping_interval": 0.1, "ws_ping_timeout": 2.0}
    async with house.joined(), served(common, house, **impatient) as front:
        async with terminal(front) as client:
            for number in range(600):  # at 200 a second: three seconds, longer than the bound
                await client.send(type="ping", id=str(number))
            for number in range(600):
                assert await client.receive() == {"type": "pong", "id": str(number)}
        silent = await hostile(front.url, address(0))
        async with asyncio.timeout(60):
            with suppress(ConnectionError):
                while await silent.reader.read(65536):
                    pass
        silent.writer.transport.abort()


@pytest.mark.parametrize(
    "headers",
    ["".join(f"X-{number}: x\r\n" for number in range(200)), f"Cookie: {'x' * 9000}\r\n", "Content-Length: 5\r\n"],
    ids=["many", "long", "a body"],
)
async def test_a_handshake_that_cannot_be_read_is_refused_and_closed(server: Server, headers: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    request = f"GET /ws/terminal HTTP/1.1\r\nHost: 127.0.0.1\r\n{upgrade}Sec-WebSocket-Version: 13\r\n{headers}\r\n"
    writer.write(request.encode())
    async with asyncio.timeout(20):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"[request.invalid]" in answer
    writer.close()


async def test_an_idle_terminal_does_not_keep_the_parser_of_its_request() -> None:
    common = shared()
    house = build(common)
    bounded = {"ws": BoundedSocket, "http": bounded_protocol(1000, None)}
    async with house.joined(), served(common, house, **bounded) as front, terminal(front) as client:
        await client.send(type="ping", id="1")
        assert await client.receive() == {"type": "pong", "id": "1"}
        gc.collect()
        assert not [each for each in gc.get_objects() if issubclass(type(each), BoundedProtocol)]


async def test_text_that_is_not_utf_8_is_closed_with_1007_and_no_traceback(server: Server) -> None:
    async with terminal(server) as client:
        await client.socket.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed):
            await client.receive()
        assert client.socket.close_code == 1007
    assert "Traceback" not in server.logs
    assert "Invalid UTF-8" not in server.logs
