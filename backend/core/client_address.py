"""The address that a request comes from, and whether its Origin is allowed."""

from collections.abc import Sequence
from ipaddress import IPv4Address, ip_address, ip_network
from urllib.parse import urlsplit

from backend.core.decisions import Decision

DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SHOWN = 200  # characters of a header that are repeated in a refusal


def client_address(peer: str, forwarded: Sequence[str], trusted_hops: int) -> str:
    """The address of the client: the `trusted_hops`-th entry of X-Forwarded-For from the right.

    `forwarded` are all such headers in order. Entries further left were written by the client and are ignored; without
    trusted hops, or with too few entries, it is the peer of the socket.
    """
    entries = [entry.strip() for header in forwarded for entry in header.split(",") if entry.strip()]
    if 0 < trusted_hops <= len(entries):
        return _network(entries[-trusted_hops][:64])
    return _network(peer)


def _network(address: str) -> str:
    """The address that limits are counted for: an IPv6 customer can choose any address of a /64."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv4Address) or found.is_loopback:
        return str(found)
    return str(found.ipv4_mapped or ip_network((found, 64), strict=False))


def origin_allowed(origin: str | None, host: str, allowed: Sequence[str], *, loopback: bool) -> bool:
    """Whether a WebSocket may be opened by a page of `origin`.

    Programs send no Origin and are allowed. A page is allowed when it comes from the host and port that it connects
    to, or is listed. With `loopback` (the connection arrived on the loopback address, without a proxy) the host must be
    a name of this machine: a foreign name that resolves to it is a DNS rebinding attack.
    """
    if origin is None:
        return True
    if canonical_origin(origin) in map(canonical_origin, allowed):
        return True
    asked = _host_port(f"//{host}", None)
    try:
        came = _host_port(origin, DEFAULT_PORTS.get(urlsplit(origin).scheme))
    except ValueError:
        return False
    if came is None or asked is None or urlsplit(origin).scheme not in {"http", "https"}:
        return False
    if loopback and came[0] not in LOOPBACK_NAMES:
        return False
    return came[0] == asked[0] and asked[1] in {came[1], None if _is_default(origin) else came[1]}


def canonical_origin(origin: str) -> str:
    """An origin as browsers send it: in lower case, without the default port of its scheme."""
    text = origin.rstrip("/").lower()
    return text.removesuffix(f":{DEFAULT_PORTS.get(text.partition('://')[0])}")


def foreign_origin(origins: Sequence[str], hosts: Sequence[str]) -> Decision:
    """Why a page of another origin may not connect, by the `Origin` and `Host` headers of its request."""
    origin, host = ", ".join(origins)[:SHOWN], ", ".join(hosts)[:SHOWN]
    reason = f"Pages of {origin or 'an empty origin'} may not connect to {host or 'a server without a name'}."
    hint = f"The operator can list the origin: GATEPOST_ALLOWED_ORIGINS={origin}"
    came, asked = _host_port(origin, None), _host_port(f"//{host}", None)
    if came and asked and came[0] == asked[0] and came[1] != asked[1]:
        hint += " - or let the proxy pass the port in Host, with nginx: proxy_set_header Host $http_host;"
    return Decision.deny("origin.foreign", reason, hint)


def _is_default(origin: str) -> bool:
    """Whether the origin has the default port of its scheme, which a Host header omits."""
    parts = urlsplit(origin)
    return parts.port is None or parts.port == DEFAULT_PORTS.get(parts.scheme)


def _host_port(url: str, default: int | None) -> tuple[str, int | None] | None:
    try:
        parts = urlsplit(url)
        return (parts.hostname, parts.port or default) if parts.hostname else None
    except ValueError:
        return None


def reachable(host: str) -> str:
    """The address that the server listens on, as a URL on this machine contains it."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
