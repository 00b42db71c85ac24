"""The egress proxy: the way out of a project's room, for HTTP by name and for anything else by CONNECT.

A name is judged, looked up, its addresses are judged, and then one of exactly those is connected to, so that a name which
changes its address between two lookups gains nothing. What a redirect names is a connection of its own, judged as any other.
"""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import field
from functools import partial
from ipaddress import ip_address
from typing import NamedTuple

from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision, Risk
from backend.core.execution.model import Actor
from backend.core.limits import Pace
from backend.core.policy.egress import Address, Egress, first_reached, show
from backend.executors.local.egress_request import LONGEST_HEAD, Wanted, parse
from backend.executors.local.upstream import PIECE, Streams, Upstream, closed_after

MOST_CONNECTIONS = 128  # of a room at once
MOST_IN_TOTAL = 512  # of all rooms: each takes two descriptors of the service
# Connections of a room a second, and at once: each is two events of the audit. More of them wait.
PACE, BURST = 5, 200
HEAD_TIME = 10.0  # seconds until a request is complete
CONNECT_TIME = 15.0  # seconds for the lookup and the connection
ADDRESS_TIME = 5.0  # seconds for one of several addresses
LOOKUP_TIME = 2.0  # seconds for a lookup that an upstream proxy repeats
IDLE_TIME = 600.0  # seconds without a byte either way
LOOKUPS = ThreadPoolExecutor(16, "lookup")  # its own, so that slow name servers hold up nothing else
LOOKUPS_OF_A_ROOM = 2  # at once: the name servers of what a project lists hold up no other project

LOCAL = "localhost,127.0.0.1,::1"  # the servers of the room itself
STATUS = {"network.unreachable": 502, "network.request": 400, "storage.unavailable": 503}


class Caller(NamedTuple):
    """The execution that a room is entered for, and who it belongs to."""

    execution: str
    actor: Actor


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection that was refused, was opened or has ended. `traffic` are the bytes that went out and came back.

    It belongs to the execution of `caller`, or to the project alone where none is named.
    """

    project: str
    caller: Caller | None
    host: str
    port: int
    decision: Decision
    traffic: tuple[int, int] | None = None


Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
Record = Callable[[Connection], Awaitable[bool]]


@dataclass(slots=True)
class EgressProxies:
    """What the proxies of all rooms share.

    `record` is awaited when a connection was refused, before the first byte of one passes, and when it has ended. Where it
    returns False nothing passes. `new_secret` makes the passwords that identify executions.
    """

    resolve: Resolve
    record: Record
    new_secret: Callable[[], str]
    upstream: Upstream | None = None
    connections: int = 0

    def proxy(self, egress: Egress) -> "EgressProxy":
        """That of a new room."""
        return EgressProxy(egress, self)


@dataclass(slots=True, eq=False)
class EgressProxy:
    """Serves the connections of one room."""

    egress: Egress
    shared: EgressProxies
    _callers: dict[str, Caller] = field(default_factory=dict)  # by user:password
    _open: dict["asyncio.Task[None]", str] = field(default_factory=dict)  # with the user:password, or nothing
    _pace: Pace = field(default_factory=lambda: Pace(PACE, BURST))
    _lookups: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOOKUPS_OF_A_ROOM))
    _server: asyncio.Server | None = None
    _port: int = 0

    async def serve(self, listening: socket.socket) -> None:
        """Begin to accept; `listening` may be one of another network namespace."""
        self._port = listening.getsockname()[1]
        self._server = await asyncio.start_server(self._accepted, sock=listening, limit=LONGEST_HEAD)

    async def close(self) -> None:
        """End all connections, and accept no more."""
        if self._server:
            self._server.close()
        await _end(list(self._open))

    @asynccontextmanager
    async def used_by(self, caller: Caller) -> AsyncIterator[str]:
        """The address of the proxy for an execution, whose connections end with it."""
        login = f"{caller.execution}:{self.shared.new_secret()}"
        self._callers[login] = caller
        try:
            yield f"http://{login}@127.0.0.1:{self._port}"
        finally:
            del self._callers[login]
            # Where no execution is left, neither is a program whose connection belongs to none.
            await _end([task for task, owner in self._open.items() if owner == login or not self._callers])

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MOST_CONNECTIONS or self.shared.connections >= MOST_IN_TOTAL:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._converse(reader, writer))
        self._open[task] = ""
        self.shared.connections += 1
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        del self._open[task]
        self.shared.connections -= 1

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with closed_after(writer):
                await asyncio.sleep(self._pace.wait(asyncio.get_running_loop().time()))
                async with asyncio.timeout(HEAD_TIME):
                    wanted = parse(await _head(reader))
                if isinstance(wanted, Decision):
                    await _refuse(writer, wanted)
                else:
                    await self._carry(wanted, (reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # the program has gone, or sends nothing

    async def _carry(self, wanted: Wanted, here: Streams) -> None:
        """Connect as the list permits, and pass on what comes either way until it ends."""
        connection = Connection(
            self.egress.project,
            self._identified(wanted.login),
            wanted.host,
            wanted.port,
            self.egress.asked(wanted.host, wanted.port),
        )
        there = await self._connect(wanted) if connection.decision.allowed else connection.decision
        if isinstance(there, Decision):
            await self.shared.record(replace(connection, decision=there))
            await _refuse(here[1], there)
            return
        async with closed_after(there[1]):
            if await self.shared.record(connection):
                await self._pass_on(wanted, here, there, connection)
            else:
                await _refuse(here[1], UNRECORDED)

    async def _pass_on(self, wanted: Wanted, here: Streams, there: Streams, connection: Connection) -> None:
        """Pass on what comes either way; its end is recorded also where the execution has ended."""
        traffic = [0, 0]
        try:
            await _join(wanted, here, there, traffic)
        finally:
            await self.shared.record(replace(connection, traffic=(traffic[0], traffic[1])))

    def _identified(self, login: str) -> Caller | None:
        """The execution that the connection belongs to, with which it then ends."""
        caller = self._callers.get(login)
        if caller and (task := asyncio.current_task()):
            self._open[task] = login
        return caller

    async def _connect(self, wanted: Wanted) -> Streams | Decision:
        try:
            async with asyncio.timeout(CONNECT_TIME):
                upstream = self.shared.upstream
                if upstream and not upstream.spares(wanted.host):
                    return await self._through(upstream, wanted)
                judged = self._judged(wanted, await self._resolve(wanted))
                if isinstance(judged, Decision):
                    return judged
                return await first_reached(judged, partial(_connect, wanted.port))
        except OSError as error:
            return _unreachable(wanted, error)

    async def _through(self, upstream: Upstream, wanted: Wanted) -> Streams | Decision:
        """By the proxy of the machine, which looks the name up itself: there may be no other name service here. Where there
        is one, what it finds is judged all the same."""
        found: Sequence[Address] = ()
        with suppress(OSError):
            async with asyncio.timeout(LOOKUP_TIME):
                found = await self._resolve(wanted)
        judged = self._judged(wanted, found)
        return judged if isinstance(judged, Decision) else await upstream.connect(wanted.host, wanted.port)

    async def _resolve(self, wanted: Wanted) -> Sequence[Address]:
        """Look a name up. A lookup that is waited for no longer goes on in its thread, and counts until it ends."""

        def ended(lookup: "asyncio.Future[Sequence[Address]]") -> None:
            self._lookups.release()
            if not lookup.cancelled():
                lookup.exception()  # the caller may be gone

        await self._lookups.acquire()
        lookup = asyncio.ensure_future(self.shared.resolve(wanted.host, wanted.port))
        lookup.add_done_callback(ended)
        return await asyncio.shield(lookup)

    def _judged(self, wanted: Wanted, found: Sequence[Address]) -> tuple[Address, ...] | Decision:
        return self.egress.resolved(wanted.host, wanted.port, found, own_addresses(found))


UNRECORDED = Decision.deny("storage.unavailable", "The connection could not be recorded.", "Try again later.")


async def _end(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _head(reader: asyncio.StreamReader) -> bytes:
    """A request up to its empty line; nothing of one that is too long."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return b""


async def _connect(port: int, address: Address) -> Streams:
    """Raises OSError."""
    async with asyncio.timeout(ADDRESS_TIME):
        return await asyncio.open_connection(str(address), port, limit=PIECE)


async def _join(wanted: Wanted, here: Streams, there: Streams, traffic: list[int]) -> None:
    """Pass on what comes either way, and count it, until both have ended, one has gone, or both are silent for long."""
    if wanted.head:
        there[1].write(wanted.head)
        traffic[0] = len(wanted.head)
    else:
        here[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    try:
        async with asyncio.timeout(IDLE_TIME) as idle, asyncio.TaskGroup() as both:
            both.create_task(_pump(here[0], there[1], traffic, 0, idle))
            both.create_task(_pump(there[0], here[1], traffic, 1, idle))
    except* OSError:
        pass


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, traffic: list[int], way: int, idle: asyncio.Timeout
) -> None:
    """One way, until its end; the other may go on (a half-closed connection)."""
    while piece := await source.read(PIECE):
        sink.write(piece)
        await sink.drain()
        traffic[way] += len(piece)
        idle.reschedule(asyncio.get_running_loop().time() + IDLE_TIME)
    if sink.can_write_eof():
        sink.write_eof()


async def _refuse(writer: asyncio.StreamWriter, decision: Decision) -> None:
    """Answer with the rule in the line of the status too: for CONNECT clients show nothing else."""
    body = f"gatepost: {decision.rule}: {decision.reason} {decision.hint}".rstrip().encode("utf-8", "replace") + b"\n"
    status = f"HTTP/1.1 {STATUS.get(decision.rule, 403)} {decision.rule}"
    head = f"{status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
    await writer.drain()


def _unreachable(wanted: Wanted, error: OSError) -> Decision:
    why = "it did not answer in time" if isinstance(error, TimeoutError) else (error.strerror or "no answer").lower()
    return Decision.deny(
        "network.unreachable", f"{show(wanted.host, wanted.port)} cannot be reached: {why}.", risk=Risk.MODERATE
    )


def own_addresses(addresses: Sequence[Address]) -> frozenset[Address]:
    """Those of the addresses that are of this machine."""
    return frozenset(address for address in addresses if _is_own(address))


def _is_own(address: Address) -> bool:
    """Whether a socket may be bound to it, which the kernel permits for its own addresses alone."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


async def lookup(host: str, port: int) -> Sequence[Address]:
    """The addresses of a host. Raises OSError."""

    def find() -> list[Address]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [ip_address(str(address[0]).partition("%")[0]) for *_, address in found]

    try:
        return await asyncio.get_running_loop().run_in_executor(LOOKUPS, find)
    except RuntimeError as error:  # no thread can be started: commands have used up the processes
        raise OSError(errno.EAGAIN, "the service has no thread for the lookup") from error


def proxy_environment(proxy: str) -> dict[str, str]:
    """The variables by which programs find the proxy. Servers of the room itself are reached without it."""
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    return {
        **dict.fromkeys((*proxies, "npm_config_proxy", "npm_config_https_proxy"), proxy),
        **dict.fromkeys(("NO_PROXY", "no_proxy", "npm_config_noproxy"), LOCAL),
        "NODE_USE_ENV_PROXY": "1",  # without it fetch of node does not look at them, and before version 24 never
        "GIT_HTTP_PROXY_AUTHMETHOD": "basic",  # otherwise git names the execution only when it is asked to
    }
