"""The proxy of the machine itself, where it has one: the egress proxy asks it for tunnels.

Also for plain HTTP: on a tunnel nothing that a program sends can name another host to that proxy.
"""

import asyncio
import re
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import field
from typing import Self
from urllib.parse import unquote, urlsplit

from backend.core.dataclasses import dataclass

PIECE = 64 * 1024  # bytes that are passed on at once
CLOSE_TIME = 10.0  # seconds in which the other end takes what is left
PORTS = {"http": 80, "https": 443}
_ANSWER = re.compile(rb"HTTP/1\.[01] ([0-9]{3})")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Upstream:
    """An HTTP proxy. `spared` are the hosts that are reached without it, in the words of NO_PROXY."""

    host: str
    port: int
    encrypted: bool
    login: str = field(default="", repr=False)
    spared: tuple[str, ...] = ()

    @classmethod
    def parse(cls, url: str, spared: str) -> Self:
        """The proxy with this URL. Raises ValueError, which does not contain the URL: there may be a password in it."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in PORTS or not parts.hostname:
            raise ValueError("must be a proxy such as http://proxy.example.org:3128")
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
        names = tuple(name.lower().removeprefix("*").removeprefix(".") for name in spared.replace(",", " ").split())
        return cls(parts.hostname, parts.port or PORTS[parts.scheme], parts.scheme == "https", login, names)

    def spares(self, host: str) -> bool:
        """Whether the host is reached without it."""
        return any(not name or host == name or host.endswith(f".{name}") for name in self.spared)

    async def connect(self, host: str, port: int) -> Streams:
        """A tunnel to a host. Raises OSError."""
        tls = ssl.create_default_context() if self.encrypted else None
        streams = await asyncio.open_connection(self.host, self.port, ssl=tls, limit=PIECE)
        try:
            await self._ask(streams, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except BaseException:
            streams[1].transport.abort()
            raise
        return streams

    async def _ask(self, streams: Streams, place: str) -> None:
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
        if self.login:
            lines.append(f"Proxy-Authorization: Basic {b64encode(self.login.encode()).decode()}")
        streams[1].write("\r\n".join([*lines, "", ""]).encode())
        try:
            answer = _ANSWER.match(await streams[0].readuntil(b"\r\n\r\n"))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            answer = None
        if not answer or not answer[1].startswith(b"2"):
            said = f"answered {answer[1].decode()}" if answer else "did not answer as a proxy"
            raise OSError(0, f"the proxy of this machine {said}")


@asynccontextmanager
async def closed_after(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close it at the end: with what is still to be sent, but not after an error."""
    try:
        yield
        writer.close()
        async with asyncio.timeout(CLOSE_TIME):
            await writer.wait_closed()
    except BaseException:
        writer.transport.abort()
        raise
