"""The egress proxy: the way out of a project's room, for HTTP by name and for anything else by CONNECT.

A name is judged, looked up, its addresses are judged, and then one of exactly those is connected to, so that a name which
changes its address between two lookups gains nothing. What a redirect names is asked for anew, and judged anew.
"""

import asyncio
import re
import socket
from base64 import b64decode
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from backend.core.decisions import Decision, Risk
from backend.core.policy.egress import Address, Egress, show

LONGEST_HEAD = 16 * 1024  # bytes of a request before its body
MOST_CONNECTIONS = 128  # of a room at once
HEAD_TIME = 10.0  # seconds until a request is complete
CONNECT_TIME = 15.0  # seconds for the lookup and the connection
IDLE_TIME = 600.0  # seconds without a byte either way
PIECE = 64 * 1024  # bytes that are passed on at once
LONGEST_WHO = 64  # characters of the execution in the proxy's address

# Fields that concern one connection, and so are not passed on.
HOP_BY_HOP = {
    "connection",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "keep-alive",
    "te",
    "upgrade",
}
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]


class Wanted(NamedTuple):
    """What a request asks for. `head` is what is sent to the host, nothing for a tunnel."""

    host: str
    port: int
    head: bytes
    execution: str


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection that was made or refused. `sent` and `received` are bytes, as seen by the command."""

    execution: str  # as the command names it; empty where it does not
    host: str
    port: int
    decision: Decision
    sent: int = 0
    received: int = 0


class EgressProxy:
    """Serves the connections of one room.

    `record` is awaited when a connection is made (no bytes yet) or refused, and again when it has ended. Where it cannot be
    recorded (False) nothing is passed on.
    """

    def __init__(self, egress: Egress, resolve: Resolve, record: Callable[[Connection], Awaitable[bool]]) -> None:
        self._egress, self._resolve, self._record = egress, resolve, record
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def serve(self, listening: socket.socket) -> None:
        """Begin to accept; `listening` may be one of another network namespace."""
        self._server = await asyncio.start_server(self._accepted, sock=listening, limit=LONGEST_HEAD)

    async def close(self) -> None:
        """End all connections, and accept no more."""
        if self._server:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MOST_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._converse(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(HEAD_TIME):
                    head = await _head(reader)
                wanted = parse(head)
                if isinstance(wanted, Decision):
                    await _refuse(writer, wanted)
                else:
                    await self._carry(wanted, reader, writer)
        finally:
            writer.close()

    async def _carry(self, wanted: Wanted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect as the list permits, and pass on what comes either way until it ends."""
        decision, there = await self._connect(wanted)
        if not await self._record(Connection(wanted.execution, wanted.host, wanted.port, decision)):
            decision = Decision.deny("storage.unavailable", "The connection could not be recorded.", "Try again later.")
            if there:
                there[1].close()
            there = None
        if there is None:
            await _refuse(writer, decision)
            return
        try:
            sent, received = await _join(wanted, (reader, writer), there)
        finally:
            there[1].close()
        await self._record(Connection(wanted.execution, wanted.host, wanted.port, decision, sent, received))

    async def _connect(self, wanted: Wanted) -> tuple[Decision, "Streams | None"]:
        decision = self._egress.asked(wanted.host, wanted.port)
        if not decision.allowed:
            return decision, None
        try:
            async with asyncio.timeout(CONNECT_TIME):
                found = await self._resolve(wanted.host, wanted.port)
                judged = self._egress.resolved(wanted.host, wanted.port, found, own_addresses(found))
                if isinstance(judged, Decision):
                    return judged, None
                return decision, await _open_first(judged, wanted.port)
        except TimeoutError:
            return _unreachable(wanted, f"it did not answer within {CONNECT_TIME:.0f} seconds"), None
        except OSError as error:
            return _unreachable(wanted, (error.strerror or "it has no address").lower()), None


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _head(reader: asyncio.StreamReader) -> bytes:
    """A request up to its empty line; what is too long is cut there, and so is malformed."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return b""


def parse(head: bytes) -> Wanted | Decision:
    """What a request to the proxy asks for: CONNECT HOST:PORT, or a method with a whole URL of `http`."""
    lines = head.decode("latin-1").split("\r\n")[:-2]
    method, _, rest = (lines or [""])[0].partition(" ")
    target, _, version = rest.partition(" ")
    fields = [(name, value) for name, colon, value in (line.partition(":") for line in lines[1:]) if colon]
    if not _METHOD.fullmatch(method) or version not in {"HTTP/1.0", "HTTP/1.1"} or len(fields) != len(lines) - 1:
        return _malformed("That is no request of HTTP/1.1 to a proxy, or one of more than 16 KiB.")
    execution = _execution(fields)
    if method == "CONNECT":
        place = _place(f"//{target}")
        return Wanted(*place, b"", execution) if place else _malformed("CONNECT names a host and a port.")
    place = _place(target, 80)
    if not place or not target.lower().startswith("http://"):
        return _malformed("A proxy is asked with the whole URL of http, or by CONNECT.")
    return Wanted(*place, _passed_on(method, target, fields), execution)


def _place(url: str, default: int | None = None) -> tuple[str, int] | None:
    """Host, in lower case and without a final dot, and port."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or default
    except ValueError:
        return None
    if not host or not port or "@" in parts.netloc or not host.isascii():
        return None
    return host.lower().rstrip("."), port


def _passed_on(method: str, target: str, fields: Sequence[tuple[str, str]]) -> bytes:
    """The request as the host gets it: one for each connection, and for the host that was judged."""
    parts = urlsplit(target)
    named = {
        word.strip().lower() for name, value in fields if name.lower() == "connection" for word in value.split(",")
    }
    dropped = HOP_BY_HOP | named | {"host"}
    path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
    lines = [f"{method} {path if path.startswith(('/', '*')) else '/' + path} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}:{value}" for name, value in fields if name.lower() not in dropped]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


def _execution(fields: Sequence[tuple[str, str]]) -> str:
    """The execution that the address of the proxy names as its user."""
    given = next((value.split() for name, value in fields if name.lower() == "proxy-authorization"), [])
    with suppress(ValueError):
        if len(given) == 2 and given[0].lower() == "basic":
            return b64decode(given[1], validate=True).decode("ascii").partition(":")[0][:LONGEST_WHO]
    return ""


async def _open_first(addresses: Sequence[Address], port: int) -> Streams:
    """A connection to the first address that answers. Raises OSError where none does."""
    problem = OSError("")
    for address in addresses:
        try:
            return await asyncio.open_connection(str(address), port, limit=PIECE)
        except OSError as error:
            problem = error
    raise problem


async def _join(wanted: Wanted, here: Streams, there: Streams) -> tuple[int, int]:
    """Pass on what comes either way. How many bytes went out and came back."""
    if wanted.head:
        there[1].write(wanted.head)
    else:
        here[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    counts = [len(wanted.head), 0]
    idle = asyncio.timeout(IDLE_TIME)
    with suppress(TimeoutError, OSError):
        async with idle, asyncio.TaskGroup() as both:
            both.create_task(_pump(here[0], there[1], counts, 0, idle))
            both.create_task(_pump(there[0], here[1], counts, 1, idle))
    return counts[0], counts[1]


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, counts: list[int], way: int, idle: asyncio.Timeout
) -> None:
    with suppress(OSError):
        while piece := await source.read(PIECE):
            counts[way] += len(piece)
            idle.reschedule(asyncio.get_running_loop().time() + IDLE_TIME)
            sink.write(piece)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()


async def _refuse(writer: asyncio.StreamWriter, decision: Decision) -> None:
    """Answer with the rule in the line of the status too: for CONNECT clients show nothing else."""
    text = f"gatepost: {decision.rule}: {decision.reason} {decision.hint}".rstrip() + "\n"
    status = {"network.unreachable": 502, "network.request": 400, "storage.unavailable": 503}.get(decision.rule, 403)
    body = text.encode("utf-8", "replace")
    head = f"HTTP/1.1 {status} {decision.rule}\r\nContent-Type: text/plain; charset=utf-8\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    await writer.drain()


def _malformed(reason: str) -> Decision:
    return Decision.deny("network.request", reason)


def _unreachable(wanted: Wanted, why: str) -> Decision:
    reason = f"{show(wanted.host, wanted.port)} cannot be reached: {why}."
    return Decision.deny("network.unreachable", reason, risk=Risk.MODERATE)


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
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(str(address[0]).partition("%")[0]) for *_, address in found]
