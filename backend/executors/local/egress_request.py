"""What a program asks a proxy for: a tunnel by CONNECT, or something of `http` by its whole URL. Every byte is hostile."""

import re
from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from backend.core.decisions import Decision

LONGEST_HEAD = 16 * 1024  # bytes of a request before its body
LONGEST_LOGIN = 128  # characters of the user and the password in the proxy's address

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
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(r"[\x21-\x7e]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # a line break that only some programs take for one hides a field


class Wanted(NamedTuple):
    """What a request asks for. `head` is what is sent to the host, nothing for a tunnel; `login` is user:password."""

    host: str
    port: int
    head: bytes
    login: str


def parse(head: bytes) -> Wanted | Decision:
    """What a request asks for. `head` ends with its empty line; without one it is too long."""
    lines = head.decode("latin-1").split("\r\n")[:-2]
    method, _, rest = (lines or [""])[0].partition(" ")
    target, _, version = rest.partition(" ")
    fields = [(name, value) for name, colon, value in (line.partition(":") for line in lines[1:]) if colon]
    readable = all(_TOKEN.fullmatch(name) and not _CONTROL.search(value) for name, value in fields)
    known = _TOKEN.fullmatch(method) and _TARGET.fullmatch(target) and version in {"HTTP/1.0", "HTTP/1.1"}
    if not known or not readable or len(fields) != len(lines) - 1:
        return _malformed("That is no request of HTTP/1.1 to a proxy, or one of more than 16 KiB.")
    if method == "CONNECT":
        place = _place(f"//{target}")
        return Wanted(*place, b"", _login(fields)) if place else _malformed("CONNECT names a host and a port.")
    place = _place(target, 80)
    if not place or not target.lower().startswith("http://"):
        return _malformed("A proxy is asked with the whole URL of http, or by CONNECT.")
    return Wanted(*place, _passed_on(method, target, fields), _login(fields))


def _place(url: str, default: int | None = None) -> tuple[str, int] | None:
    """Host, in lower case and without a final dot, and port."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or default
    except ValueError:
        return None
    if not host or not port or "@" in parts.netloc or (default is None and parts.netloc != url[2:]):
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


def _login(fields: Sequence[tuple[str, str]]) -> str:
    """The user and the password that the address of the proxy contains."""
    given = next((value.split() for name, value in fields if name.lower() == "proxy-authorization"), [])
    with suppress(ValueError):
        if len(given) == 2 and given[0].lower() == "basic":
            return b64decode(given[1], validate=True).decode("ascii")[:LONGEST_LOGIN]
    return ""


def _malformed(reason: str) -> Decision:
    return Decision.deny("network.request", reason, "Use a client that supports HTTP proxies.")
