"""Where a request comes from, and whether the page that sent it may."""

from collections.abc import Sequence
from ipaddress import IPv4Address, ip_address, ip_network
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def client_address(peer: str, forwarded: Sequence[str], trusted_hops: int) -> str:
    """The address of the client: the `trusted_hops`-th entry of X-Forwarded-For from the right.

    `forwarded` are all such headers in order. Entries further left are the client's own words and count for nothing;
    without trusted hops, or with too few entries, it is the peer of the socket.
    """
    entries = [entry.strip() for header in forwarded for entry in header.split(",") if entry.strip()]
    if 0 < trusted_hops <= len(entries):
        return _network(entries[-trusted_hops][:64])
    return _network(peer)


def _network(address: str) -> str:
    """What limits count an address as: an IPv6 customer has a whole /64 to choose from."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv4Address) or found.is_loopback:
        return str(found)
    return str(found.ipv4_mapped or ip_network((found, 64), strict=False))


def origin_allowed(origin: str | None, host: str, allowed: Sequence[str], *, loopback: bool) -> bool:
    """Whether a WebSocket may be opened by a page of `origin`.

    Programs send no Origin and pass. A page passes when it comes from the same host and port as it asks, or is
    listed. With `loopback` (the socket arrived on this machine's own address, no proxy) the host must be a name of
    this machine: a foreign name that resolves to it is a rebinding attack.
    """
    if origin is None:
        return True
    if origin.rstrip("/").lower() in {entry.rstrip("/").lower() for entry in allowed}:
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


def _is_default(origin: str) -> bool:
    """Whether the origin stands on the default port of its scheme, which a Host header leaves out."""
    parts = urlsplit(origin)
    return parts.port is None or parts.port == DEFAULT_PORTS.get(parts.scheme)


def _host_port(url: str, default: int | None) -> tuple[str, int | None] | None:
    try:
        parts = urlsplit(url)
        return (parts.hostname, parts.port or default) if parts.hostname else None
    except ValueError:
        return None


def reachable(host: str) -> str:
    """How a URL on this machine names the address that the server listens on."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
