"""Webhooks: one POST over a connection to an address that was judged. Redirects are not followed."""

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from functools import cache, partial
from ipaddress import ip_address
from typing import Self
from urllib.parse import urlsplit

from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.notifications.model import LONGEST_URL, Delivery, Failure, Notification
from backend.core.notifications.rules import signed_headers
from backend.core.policy.egress import Address, Egress, Host, first_reached
from backend.notifiers.waiting import in_thread

PATIENCE = 10.0  # seconds for looking up the name, connecting, sending and the status
ADDRESS_PATIENCE = 3.0  # seconds for connecting to one address, where a name has several
PRINTABLE = re.compile(r"[!-~]+")
PORTS = {"http": 80, "https": 443}
STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: |\r?$)", re.M)
ANY = Host.parse("*:*")
Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
Own = Callable[[Sequence[Address]], Container[Address]]


@dataclass(frozen=True, slots=True)
class Url:
    """The parts of a URL that a message can be posted to."""

    secure: bool
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, which says what is wrong."""
        if len(text) > LONGEST_URL or not PRINTABLE.fullmatch(text):
            raise ValueError(f"a URL has 1 to {LONGEST_URL} ASCII characters without blanks")
        parts = urlsplit(text)
        if parts.scheme not in PORTS or not parts.hostname or "@" in parts.netloc or parts.fragment:
            raise ValueError("it must be an https:// or http:// URL, without a user and without #")
        port = parts.port or PORTS[parts.scheme]
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme == "https", parts.hostname.rstrip("."), port, path)

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS["https" if self.secure else "http"] else f"{host}:{self.port}"


async def resolve(host: str, port: int) -> Sequence[Address]:
    """The addresses of a name. Raises OSError."""
    found = await in_thread(partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM))
    return [ip_address(str(each[4][0]).partition("%")[0]) for each in found]


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Posts messages. `hosts` are the private addresses that the operator has listed; `own` returns those of this machine."""

    own: Own
    hosts: tuple[Host, ...] = ()
    resolve: Resolve = resolve

    def refusal(self, url: str) -> str:
        """Why nothing can be posted there; empty if it can be tried. Names are judged when they are looked up."""
        try:
            place = Url.parse(url)
        except ValueError as error:
            return str(error)
        asked = self._egress.asked(place.host, place.port)
        if not asked.allowed:
            return asked.reason
        try:
            judged = self._judged(place, [ip_address(place.host)])
        except ValueError:
            return ""
        return judged.reason if isinstance(judged, Decision) else ""

    async def send(self, notification: Notification, delivery: Delivery) -> Failure | None:
        """Post a delivery, signed; why it was not accepted."""
        body = delivery.body.encode()
        headers = signed_headers(notification.secret, delivery.id, int(time.time()), body)
        return await self.post(notification.url or "", headers, body)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Failure | None:
        """Post a body; why it was not accepted."""
        if refusal := self.refusal(url):
            return Failure(refusal, final=True)
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._post(Url.parse(url), headers, body)
        except TimeoutError:
            return Failure(f"no answer within {PATIENCE:.0f} s")
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            return Failure(f"{type(error).__name__}: {error}")

    @property
    def _egress(self) -> Egress:
        return Egress((ANY, *self.hosts))

    def _judged(self, url: Url, found: Sequence[Address]) -> tuple[Address, ...] | Decision:
        return self._egress.resolved(url.host, url.port, found, self.own(found))

    async def _post(self, url: Url, headers: Mapping[str, str], body: bytes) -> Failure | None:
        judged = self._judged(url, await self.resolve(url.host, url.port))
        if isinstance(judged, Decision):
            return Failure(judged.reason, final=True)
        if not judged:
            return Failure(f"{url.host} has no address")
        reader, writer = await first_reached(judged, partial(_connect, url))
        try:
            writer.write(_request(url, headers, body))
            await writer.drain()
            return _failure(await reader.readline())
        finally:
            writer.close()


async def _connect(url: Url, address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises OSError."""
    secure = _tls() if url.secure else None
    async with asyncio.timeout(ADDRESS_PATIENCE):
        return await asyncio.open_connection(
            str(address), url.port, ssl=secure, server_hostname=url.host if secure else None
        )


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _request(url: Url, headers: Mapping[str, str], body: bytes) -> bytes:
    fields = {
        "Host": url.host_header,
        "User-Agent": "Gatepost",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **headers,
    }
    lines = [f"POST {url.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join((*lines, "", "")).encode("ascii") + body


def _failure(line: bytes) -> Failure | None:
    """What the status of an answer means."""
    found = STATUS.match(line.rstrip())
    if not found:
        return Failure("the answer is not one of HTTP")
    return None if found[1].startswith(b"2") else Failure(f"the receiver answered {found[1].decode()}")
