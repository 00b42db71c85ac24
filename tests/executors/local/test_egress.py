"""The egress proxy over real sockets: what is listed passes unchanged, what is not is refused by name and recorded."""

import asyncio
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address

import pytest

from backend.core.decisions import Decision
from backend.core.policy.egress import Address, Egress, parse_hosts
from backend.executors.local import egress as egress_module
from backend.executors.local.egress import LONGEST_HEAD, MOST_CONNECTIONS, Connection, EgressProxy, lookup, parse

BOUND = 10.0  # seconds
LOOPBACK = ip_address("127.0.0.1")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what it gets, until its end."""
    while piece := await reader.read(1 << 16):
        writer.write(piece)
        await writer.drain()
    writer.close()


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    """A server of the network; its port."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class World:
    """A proxy, and what it recorded. Every name leads to `addresses`."""

    def __init__(self, listed: str, addresses: Sequence[Address] = (LOOPBACK,), recordable: bool = True) -> None:
        self.recorded: list[Connection] = []
        self.ended = asyncio.Condition()
        self.lookups: list[str] = []
        self.addresses, self.recordable = addresses, recordable
        self.proxy = EgressProxy(Egress(parse_hosts(listed)), self.resolve, self.record)
        self.port = 0

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        self.lookups.append(host)
        return self.addresses

    async def record(self, connection: Connection) -> bool:
        async with self.ended:
            self.recorded.append(connection)
            self.ended.notify_all()
        return self.recordable

    async def count(self, events: int) -> None:
        async with asyncio.timeout(BOUND), self.ended:
            await self.ended.wait_for(lambda: len(self.recorded) >= events)

    async def ask(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        streams = await asyncio.open_connection("127.0.0.1", self.port)
        streams[1].write(request)
        return streams

    async def answer(self, request: bytes) -> bytes:
        """All that comes back."""
        reader, writer = await self.ask(request)
        try:
            async with asyncio.timeout(BOUND):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            await closed(writer)


@asynccontextmanager
async def proxying(world: World) -> AsyncIterator[World]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        world.port = listener.getsockname()[1]
        await world.proxy.serve(listener)
        try:
            yield world
        finally:
            await world.proxy.close()


def connect(host: str, port: int, more: str = "") -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{more}\r\n".encode()


async def test_a_tunnel_passes_every_byte_both_ways_and_is_recorded_with_their_numbers() -> None:
    data = bytes(range(256)) * 4000
    async with listening(echo) as port, proxying(World(f"x.example:{port} 127.0.0.1:{port}")) as world:
        who = b64encode(b"01ARZ3NDEKTSV4RRFFQ69G5FAV:").decode()
        reader, writer = await world.ask(connect("X.example.", port, f"Proxy-Authorization: Basic {who}\r\n"))
        async with asyncio.timeout(BOUND):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
            sending = asyncio.create_task(_send(writer, data))
            assert await reader.read(-1) == data
            await sending
        await closed(writer)
        await world.count(2)
    begun, ended = world.recorded
    assert (begun.execution, begun.host, begun.port) == ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "x.example", port)
    assert (begun.decision.rule, begun.sent, begun.received) == ("network.listed", 0, 0)
    assert (ended.sent, ended.received) == (len(data), len(data))


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
    writer.write_eof()


async def test_a_request_reaches_the_host_that_was_judged_alone() -> None:
    """Its Host is that of the URL, and what concerns the proxy stays here."""
    heard: list[bytes] = []

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(3))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        writer.close()

    async with listening(web) as port, proxying(World(f"x.example:{port} 127.0.0.1:{port}")) as world:
        request = (
            f"POST http://x.example:{port}/a?b=c#d HTTP/1.1\r\nHost: other.example\r\nProxy-Authorization: Basic eDo=\r\n"
            "Connection: X-Secret, keep-alive\r\nX-Secret: 1\r\nContent-Length: 3\r\nX-Kept: yes\r\n\r\nabc"
        )
        assert (await world.answer(request.encode())).endswith(b"\r\n\r\nhi")
    assert heard == [
        f"POST /a?b=c HTTP/1.1\r\nHost: x.example:{port}\r\nContent-Length: 3\r\nX-Kept: yes\r\n"
        "Connection: close\r\n\r\nabc".encode()
    ]


@pytest.mark.parametrize(
    ("listed", "request_", "status", "rule"),
    [
        ("x.example", connect("y.example", 443), 403, "network.host"),
        ("x.example", connect("x.example", 22), 403, "network.host"),
        ("x.example", connect("x.example", 443), 403, "network.address"),  # it leads to this machine
        ("*:*", connect("127.0.0.1", 8000), 403, "network.address"),
        ("*:*", connect("2130706433", 8000), 403, "network.name"),
        ("*:*", b"GET http://localhost/ HTTP/1.1\r\n\r\n", 403, "network.address"),
        ("*:*", b"GET / HTTP/1.1\r\nHost: x.example\r\n\r\n", 400, "network.request"),
        ("*:*", b"GET https://x.example/ HTTP/1.1\r\n\r\n", 400, "network.request"),
        ("*:*", b"CONNECT x.example HTTP/1.1\r\n\r\n", 400, "network.request"),
        ("*:*", b"CONNECT u:p@x.example:443 HTTP/1.1\r\n\r\n", 400, "network.request"),
        ("*:*", b"CONNECT x.example:443 HTTP/2\r\n\r\n", 400, "network.request"),
        ("*:*", b"CONNECT x.example:443 HTTP/1.1\r\nno field\r\n\r\n", 400, "network.request"),
        ("*:*", b"\x16\x03\x01\x00\xa5\x01\r\n\r\n", 400, "network.request"),
        ("*:*", b"GET http://[::1 HTTP/1.1\r\n\r\n", 400, "network.request"),
        ("*:*", b"A" * (LONGEST_HEAD + 10) + b"\r\n\r\n", 400, "network.request"),
    ],
)
async def test_what_is_refused_names_its_rule(listed: str, request_: bytes, status: int, rule: str) -> None:
    async with proxying(World(listed)) as world:
        answer = await world.answer(request_)
    if answer:  # a request that was not read to its end may cost the answer
        assert answer.startswith(f"HTTP/1.1 {status} {rule}\r\n".encode())
        assert f"gatepost: {rule}: ".encode() in answer
    else:
        assert len(request_) > LONGEST_HEAD
    assert [each.decision.rule for each in world.recorded] == ([rule] if status == 403 else [])


async def test_a_name_is_looked_up_once() -> None:
    """What it leads to a moment later (DNS rebinding) is never asked for."""
    async with listening(echo) as port, proxying(World(f"x.example:{port} 127.0.0.1:{port}")) as world:
        reader, writer = await world.ask(connect("x.example", port))
        await reader.readuntil(b"\r\n\r\n")
        await closed(writer)
        assert world.lookups == ["x.example"]


async def test_what_does_not_answer_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with proxying(World(f"x.example:{port} 127.0.0.1:{port}")) as world:
        answer = await world.answer(connect("x.example", port))
    assert answer.startswith(b"HTTP/1.1 502 network.unreachable\r\n")
    assert f"x.example:{port} cannot be reached: ".encode() in answer


async def test_what_cannot_be_recorded_is_not_connected() -> None:
    reached = asyncio.Event()

    async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1):
            reached.set()
        writer.close()

    async with listening(told) as port:
        world = World(f"x.example:{port} 127.0.0.1:{port}", recordable=False)
        async with proxying(world):
            answer = await world.answer(connect("x.example", port) + b"x")
    assert answer.startswith(b"HTTP/1.1 503 storage.unavailable")
    assert not reached.is_set()


async def test_a_request_that_does_not_end_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_module, "HEAD_TIME", 0.1)
    async with proxying(World("*:*")) as world:
        assert await world.answer(b"CONNECT x.exam") == b""


async def test_the_connections_of_a_room_have_a_bound() -> None:
    async with listening(echo) as port, proxying(World(f"x.example:{port} 127.0.0.1:{port}")) as world:
        held = [await world.ask(connect("x.example", port)) for _ in range(MOST_CONNECTIONS)]
        for reader, _ in held:
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), BOUND)
        assert await world.answer(connect("x.example", port)) == b""
        held[0][1].close()
        await world.count(MOST_CONNECTIONS + 1)  # that one has ended
        reader, writer = await world.ask(connect("x.example", port))
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), BOUND)).startswith(b"HTTP/1.1 200")
        for _, each in [*held, (reader, writer)]:
            await closed(each)


async def test_when_it_is_closed_its_connections_end() -> None:
    async with listening(echo) as port:
        async with proxying(World(f"x.example:{port} 127.0.0.1:{port}")) as world:
            reader, writer = await world.ask(connect("x.example", port))
            await reader.readuntil(b"\r\n\r\n")
        assert await asyncio.wait_for(reader.read(), BOUND) == b""
        await closed(writer)


async def test_names_are_looked_up_by_the_system() -> None:
    assert LOOPBACK in await lookup("localhost", 80)


@pytest.mark.parametrize(
    "given", ["Basic", "Basic !!!", "Basic \xff", "Bearer eDo=", "Basic " + b64encode(b"\xff:").decode()]
)
def test_a_name_of_the_execution_that_is_none_is_empty(given: str) -> None:
    wanted = parse(connect("x.example", 443, f"Proxy-Authorization: {given}\r\n"))
    assert not isinstance(wanted, Decision)
    assert wanted.execution == ""
