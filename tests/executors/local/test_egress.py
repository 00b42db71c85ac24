"""The egress proxy over real sockets: what is listed passes unchanged, what is not is refused by name and recorded."""

import asyncio
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address

import pytest

from backend.core.execution.model import Actor
from backend.core.policy.egress import Address, Egress, parse_hosts
from backend.executors.local import egress as egress_module
from backend.executors.local.egress import Caller, Connection, EgressProxies, lookup
from backend.executors.local.egress_request import LONGEST_HEAD
from backend.executors.local.upstream import Upstream

BOUND = 30.0  # seconds
LOOPBACK = ip_address("127.0.0.1")
CALLER = Caller("01ARZ3NDEKTSV4RRFFQ69G5FAV", Actor("user:ann", "10.0.0.1"))
SECRET = "x7Zt"
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

    def __init__(
        self,
        listed: str,
        addresses: Sequence[Address] = (LOOPBACK,),
        recordable: bool = True,
        upstream: Upstream | None = None,
    ) -> None:
        self.listed = listed
        self.recorded: list[Connection] = []
        self.ended = asyncio.Condition()
        self.lookups: list[str] = []
        self.addresses, self.recordable = addresses, recordable
        self.shared = EgressProxies(self.resolve, self.record, lambda: SECRET, upstream)
        self.proxy = self.shared.proxy(Egress(parse_hosts(listed), "shop"))
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

    async def answer(self, request: bytes, end: bool = False) -> bytes:
        """All that comes back; with `end` nothing follows the request."""
        reader, writer = await self.ask(request)
        try:
            if end:
                writer.write_eof()
            async with asyncio.timeout(BOUND):
                return await reader.read()
        except OSError:
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


ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def login(user: str, password: str) -> str:
    return f"Proxy-Authorization: Basic {b64encode(f'{user}:{password}'.encode()).decode()}\r\n"


def connect(host: str, port: int, more: str = "") -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{more}\r\n".encode()


async def test_a_tunnel_passes_every_byte_both_ways_and_is_recorded_with_their_numbers() -> None:
    data = bytes(range(256)) * 4000
    async with (
        listening(echo) as port,
        proxying(World(f"x.example:{port} 127.0.0.1:{port}")) as world,
        world.proxy.used_by(CALLER) as address,
    ):
        assert address == f"http://{CALLER.execution}:{SECRET}@127.0.0.1:{world.port}"
        reader, writer = await world.ask(connect("X.example.", port, login(CALLER.execution, SECRET)))
        async with asyncio.timeout(BOUND):
            assert await reader.readuntil(b"\r\n\r\n") == ESTABLISHED
            sending = asyncio.create_task(_send(writer, data))
            assert await reader.read(-1) == data
            await sending
        await closed(writer)
        await world.count(2)
    begun, ended = world.recorded
    assert (begun.project, begun.caller, begun.host, begun.port) == ("shop", CALLER, "x.example", port)
    assert (begun.decision.rule, begun.traffic) == ("network.listed", None)
    assert ended.traffic == (len(data), len(data))


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


async def test_the_connections_of_a_room_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_module, "MOST_CONNECTIONS", 8)
    async with listening(echo) as port, proxying(World(f"x.example:{port} 127.0.0.1:{port}")) as world:
        held = [await world.ask(connect("x.example", port)) for _ in range(8)]
        for reader, _ in held:
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), BOUND)
        assert await world.answer(connect("x.example", port)) == b""
        held[0][1].close()
        await world.count(9)  # that one has ended
        async with asyncio.timeout(BOUND):
            while await world.answer(connect("x.example", port), end=True) == b"":
                pass
        for _, each in held:
            await closed(each)


async def test_when_it_is_closed_its_connections_end() -> None:
    async with listening(echo) as port:
        async with proxying(World(f"x.example:{port} 127.0.0.1:{port}")) as world:
            reader, writer = await world.ask(connect("x.example", port))
            await reader.readuntil(b"\r\n\r\n")
        assert await asyncio.wait_for(reader.read(), BOUND) == b""
        await closed(writer)


async def test_the_lookups_of_a_room_leave_others_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that are waited for no longer: a name server that does not answer keeps a thread for longer."""
    monkeypatch.setattr(egress_module, "CONNECT_TIME", 0.05)
    answer = asyncio.Event()

    class Slow(World):
        async def resolve(self, host: str, port: int) -> Sequence[Address]:
            await super().resolve(host, port)
            await answer.wait()
            return self.addresses

    async with proxying(Slow("*:443")) as world:
        answers = await asyncio.gather(*(world.answer(connect(f"{number}.example", 443)) for number in range(6)))
        assert [each.split(b"\r\n")[0] for each in answers] == [b"HTTP/1.1 502 network.unreachable"] * 6
        assert len(world.lookups) == egress_module.LOOKUPS_OF_A_ROOM
        answer.set()
        assert b"network.address" in await world.answer(connect("next.example", 443))
        assert world.lookups[-1] == "next.example"


async def test_without_a_thread_a_host_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_module, "LOOKUPS", closed_threads := ThreadPoolExecutor(1))
    closed_threads.shutdown()  # then it raises what it also raises when no thread can be started
    with pytest.raises(OSError, match="no thread"):
        await lookup("localhost", 80)


async def test_names_are_looked_up_by_the_system() -> None:
    assert LOOPBACK in await lookup("localhost", 80)


@pytest.mark.parametrize(
    "field",
    [
        "",
        login(CALLER.execution, "guessed"),
        login("01ARZ3NDEKTSV4RRFFQ69G5FAW", SECRET),
        *(
            f"Proxy-Authorization: {each}\r\n"
            for each in ("Basic", "Basic !!!", "Basic \xff", "Bearer eDo=", "Basic /zo=")
        ),
    ],
)
async def test_a_connection_that_names_no_execution_belongs_to_the_project(field: str) -> None:
    async with proxying(World("y.example")) as world, world.proxy.used_by(CALLER):
        await world.answer(connect("x.example", 443, field))
        await world.answer(connect("x.example", 443, login(CALLER.execution, SECRET)))
    assert [(each.project, each.caller) for each in world.recorded] == [("shop", None), ("shop", CALLER)]


async def test_an_execution_takes_its_connections_with_it() -> None:
    """Also those that are open and silent; those of others in the room stay."""
    other = Caller("01ARZ3NDEKTSV4RRFFQ69G5FAW", CALLER.actor)
    async with listening(echo) as port, proxying(World(f"x.example:{port} 127.0.0.1:{port}")) as world:
        async with world.proxy.used_by(other):
            async with world.proxy.used_by(CALLER):
                streams = [
                    await world.ask(connect("x.example", port, more))
                    for more in (login(CALLER.execution, SECRET), login(other.execution, SECRET), "")
                ]
                for reader, _ in streams:
                    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), BOUND)
            assert [each.caller for each in world.recorded if each.traffic] == [CALLER]
        assert {each.caller for each in world.recorded if each.traffic} == {CALLER, other, None}
        for reader, writer in streams:
            with suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), BOUND) == b""
            await closed(writer)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "0177.0.0.1", "0x7f.0.0.1", "0x7f000001", "2130706433", "017700000001", "127.0.0.1."),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:1]", "[::127.0.0.1]"),
        *(
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "[fe80::1%25eth0]",
            "[fec0::1]",
            "localhost",
            "LOCALHOST.",
            "0",
            "0.0.0.0",
        ),
        *("169.254.169.254", "0xa9fea9fe", "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]", "100.100.100.200", "10.0.0.1"),
        *("x.ex%61mple", "x..example", "..", "*", "x.example\x00.evil", "x\texample", "ex\u00e4mple.example"),
    ],
)
async def test_no_spelling_of_an_address_gets_around_the_list(host: str) -> None:
    """Every name is listed here, on every port, and a server listens."""
    async with listening(echo) as port, proxying(World("*:*")) as world:
        world.shared.resolve = lookup
        answer = await world.answer(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode("latin-1"))
    assert answer.startswith((b"HTTP/1.1 403 network.", b"HTTP/1.1 400 network.request"))
    assert not any(each.decision.allowed for each in world.recorded)


async def test_a_name_that_changes_its_address_gains_nothing() -> None:
    """The address that was judged is the one that is connected to, and the next connection is judged again."""
    rebound = ip_address("127.0.0.2")
    async with listening(echo) as port, proxying(World(f"x.example:{port} 127.0.0.1:{port}")) as world:

        async def rebinding(host: str, port: int) -> Sequence[Address]:
            world.lookups.append(host)
            return [LOOPBACK if len(world.lookups) == 1 else rebound]

        world.shared.resolve = rebinding
        assert (await world.answer(connect("x.example", port), end=True)).startswith(ESTABLISHED)
        assert world.lookups == ["x.example"]
        assert (await world.answer(connect("x.example", port))).startswith(b"HTTP/1.1 403 network.address")


@pytest.mark.parametrize(
    "fields",
    [
        "Host: other.example\r\nHost: x.example",
        "hOsT: other.example",
        "X: 1\r\nHost : other.example",
        "X: 1\r\n Host: other.example",
        "X: 1\nHost: other.example",
        "X: 1\rHost: other.example",
        "X\x00: 1",
        ": 1",
    ],
)
async def test_no_field_names_another_host(fields: str) -> None:
    """It is dropped, or the request refused."""
    heard: list[bytes] = []

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async with listening(web) as port, proxying(World(f"x.example:{port} 127.0.0.1:{port}")) as world:
        request = f"GET http://x.example:{port}/ HTTP/1.1\r\n{fields}\r\n\r\n"
        answer = await world.answer(request.encode())
    assert b"other.example" not in b"".join(heard)
    assert answer.startswith(b"HTTP/1.1 204" if heard else b"HTTP/1.1 400 network.request")


async def test_a_half_closed_connection_goes_on() -> None:
    """The host answers after the program has sent all, and the program gets it after the host has sent all."""

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = await reader.read()
        writer.write(b"got %d" % len(sent))
        writer.close()

    async with listening(late) as port, proxying(World(f"x.example:{port} 127.0.0.1:{port}")) as world:
        reader, writer = await world.ask(connect("x.example", port))
        await reader.readuntil(b"\r\n\r\n")
        await _send(writer, b"x" * 200_000)
        assert await asyncio.wait_for(reader.read(), BOUND) == b"got 200000"
        await closed(writer)


async def test_a_host_that_breaks_off_ends_the_connection() -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    async with listening(rude) as port, proxying(World(f"x.example:{port} 127.0.0.1:{port}")) as world:
        assert (await world.answer(connect("x.example", port) + b"xyz")).startswith(ESTABLISHED)
        await world.count(2)


async def test_a_flood_of_connections_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the audit cannot be filled by a loop of requests that are refused."""
    async with proxying(World("y.example")) as world:
        world.proxy._pace.burst, world.proxy._pace.rate = 3, 0.01
        for _ in range(4):  # the first is due at once, and the burst with it
            await world.answer(connect("x.example", 443))
        waiting = asyncio.create_task(world.answer(connect("x.example", 443)))
        await asyncio.wait([waiting], timeout=0.2)
        assert not waiting.done()
        assert len(world.recorded) == 4
    assert await waiting == b""


class TestUpstream:
    """The proxy of the machine; here it is an egress proxy itself."""

    async def test_it_is_asked_for_a_tunnel_also_for_plain_http(self) -> None:
        asked: list[bytes] = []

        async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.0 200 OK\r\nX: 1\r\n\r\n")
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nhi")
            writer.close()

        async with listening(proxy) as port:
            upstream = Upstream.parse(f"http://me:p%40ss@127.0.0.1:{port}", "")
            world = World("x.example", addresses=(), upstream=upstream)
            async with proxying(world):
                answer = await world.answer(b"GET http://x.example/a HTTP/1.1\r\n\r\n")
        assert answer.endswith(b"hi")
        assert asked[0] == f"CONNECT x.example:80 HTTP/1.1\r\nHost: x.example:80\r\n{login('me', 'p@ss')}\r\n".encode()
        assert asked[1].startswith(b"GET /a HTTP/1.1\r\n")

    async def test_what_is_forbidden_does_not_reach_it(self) -> None:
        """It would look up the name itself."""
        async with listening(echo) as port:
            world = World("*:*", upstream=Upstream.parse(f"127.0.0.1:{port}", ""))
            async with proxying(world):
                assert b" 403 network.address" in await world.answer(connect("x.example", 443))

    @pytest.mark.parametrize("said", [b"HTTP/1.1 407 Login\r\n\r\n", b"SSH-2.0\r\n", b""])
    async def test_its_refusal_is_said(self, said: bytes) -> None:
        async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            writer.close()

        async with listening(proxy) as port:
            world = World("x.example", addresses=(), upstream=Upstream.parse(f"127.0.0.1:{port}", ""))
            async with proxying(world):
                answer = await world.answer(connect("x.example", 443))
        assert answer.startswith(b"HTTP/1.1 502 network.unreachable")
        assert b"the proxy of this machine " + (b"answered 407" if b"407" in said else b"did not answer") in answer

    @pytest.mark.parametrize(
        ("spared", "host", "without"),
        [
            ("", "x.example", False),
            ("*", "x.example", True),
            ("example", "x.example", True),
            (".example, y", "x.example", True),
            ("*.example", "x.example", True),
            ("ample", "x.example", False),
        ],
    )
    def test_some_hosts_are_reached_without_it(self, spared: str, host: str, without: bool) -> None:
        assert Upstream.parse("https://proxy.example:8443", spared).spares(host) == without

    def test_one_of_another_kind_is_named_without_its_password(self) -> None:
        with pytest.raises(ValueError, match="must be a proxy such as") as raised:
            Upstream.parse("socks5://me:secret@proxy.example", "")
        assert "secret" not in str(raised.value)
