"""Clients that keep no rules: raw sockets from many addresses of this machine."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

BOUND = 10.0  # seconds for a handshake
UPGRADE = (
    "GET /ws/terminal HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: eHh4eHh4eHh4eHh4eHh4eA==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
)


@dataclass(slots=True)
class Peer:
    """One connection of an attacker."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def until(self, expected: bytes) -> bytes:
        """Read until `expected` was received; ConnectionError if the server closes before."""
        data = b""
        while expected not in data:
            piece = await self.reader.read(65536)
            if not piece:
                raise ConnectionError(f"closed before {expected!r}")
            data += piece
        return data


def address(number: int) -> str:
    """One of many addresses of this machine, none of which is the one that measures."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


def frame(message: object, first: int = 0x81) -> bytes:
    """A short message as a client's frame, masked with zeros. `first` is its first byte: FIN and opcode."""
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    assert len(data) < 126
    return bytes((first, 0x80 | len(data))) + bytes(4) + data


async def connect(url: str, source: str) -> Peer:
    """A connection from the address `source`."""
    place = urlsplit(url)
    return Peer(*await asyncio.open_connection(place.hostname, place.port, local_addr=(source, 0)))


async def terminal(url: str, source: str, token: str = "") -> Peer:
    """A terminal that is ready. ConnectionError if it is refused."""
    peer = await connect(url, source)
    more = f"Authorization: Bearer {token}\r\n" if token else ""
    peer.writer.write(UPGRADE.format(host=urlsplit(url).netloc, more=more).encode())
    try:
        async with asyncio.timeout(BOUND):
            await peer.until(b'"type":"ready"')
    except (OSError, TimeoutError) as error:
        peer.writer.transport.abort()
        raise ConnectionError("no terminal") from error
    return peer


@asynccontextmanager
async def many(opening: Iterable[Awaitable[Peer]]) -> AsyncIterator[list[Peer]]:
    """Those of the connections that the server accepts."""
    opened = [peer for peer in await asyncio.gather(*opening, return_exceptions=True) if isinstance(peer, Peer)]
    try:
        yield opened
    finally:
        for peer in opened:
            peer.writer.transport.abort()


async def until_complete(url: str, source: str, message: bytes) -> None:
    """Send a message on a terminal of its own, and wait for the end of the command that it starts."""
    peer = await terminal(url, source)
    try:
        peer.writer.write(message)
        await peer.until(b'"type":"complete"')
    finally:
        peer.writer.transport.abort()


async def for_seconds(seconds: float, *work: Awaitable[object]) -> None:
    """Run all of `work` until the time is over; what the server cuts off is over earlier."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*work, return_exceptions=True)


async def again(action: Callable[..., Awaitable[object]], *values: object) -> None:
    """Do it again and again, also after the server has closed the connection: an attacker connects again."""
    while True:
        with suppress(OSError):
            await action(*values)
        await asyncio.sleep(0)
