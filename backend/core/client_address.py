"""The address that a request comes from, and whether its Origin is allowed."""

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, ip_address, ip_network
from urllib.parse import urlsplit

from backend.core.decisions import Decision

DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
OwnNames = Callable[[str], bool]  # whether a host name is one of the server's own
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


@lru_cache(maxsize=1024)  # of every request, and most come from a few addresses
def _network(address: str) -> str:
    """The address that limits are counted for: an IPv6 customer can choose any address of a /64."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv4Address) or found.is_loopback:
        return str(found)
    return str(found.ipv4_mapped or ip_network((found, 64), strict=False))


def origin_allowed(origin: str | None, host: str, allowed: Sequence[str], own: OwnNames) -> bool:
    """Whether a WebSocket may be opened by a page of `origin`.

    Programs send no Origin and are allowed. A page is allowed when it comes from the host and port that it connects
    to, if that host is one of the `own` names, or is listed.
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
    if not own(came[0]):
        return False
    return came[0] == asked[0] and asked[1] in {came[1], None if _is_default(origin) else came[1]}


def any_name(_: str) -> bool:
    """The names of a server behind a proxy, which has chosen it by the name."""
    return True


def names_of_machine(names: Collection[str]) -> OwnNames:
    """The names of a server that browsers reach directly: its addresses, `localhost`, and `names`.

    Another name that resolves to it is a DNS rebinding attack: a page of an attacker would be taken for its own.
    """

    def is_own(host: str) -> bool:
        return host == "localhost" or host.endswith(".localhost") or host in names or _is_address(host)

    return is_own


def is_loopback(address: str | None) -> bool:
    """Whether it is an address on which only this machine can connect."""
    return address is not None and _is_address(address) and ip_address(address).is_loopback


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def canonical_origin(origin: str) -> str:
    """An origin as browsers send it: in lower case, without the default port of its scheme."""
    text = origin.rstrip("/").lower()
    return text.removesuffix(f":{DEFAULT_PORTS.get(text.partition('://')[0])}")


def foreign_name(host: str) -> Decision:
    """Why a page may not connect to a name that is not the server's own, by the `Host` header of its request."""
    found = _host_port(f"//{host}", None)
    name = (found[0] if found else host)[:SHOWN]
    reason = f"{name} is not a name of this server: a page that another server sent may be using it."
    return Decision.deny("origin.foreign", reason, f"The operator can list the name: GATEPOST_HOST_NAMES={name}")


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
