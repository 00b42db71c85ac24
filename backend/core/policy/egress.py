"""Which hosts the commands of a project may reach through the egress proxy, by name and by address."""

import re
from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeVar

from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision, Risk
from backend.core.identity import NetworkAccess
from backend.core.policy.profile import OFFLINE, Offline

Address = IPv4Address | IPv6Address
T = TypeVar("T")
Network = IPv4Network | IPv6Network

WEB_PORTS = frozenset({80, 443})  # of an entry that names no port
MOST_ENTRIES = 256  # of a list
LONGEST_NAME = 253  # characters, RFC 1035
# Besides what is private or reserved: carrier-grade NAT, where clouds keep services of their own.
SHARED = ip_network("100.64.0.0/10")
NAT64, SIX_TO_FOUR = ip_network("64:ff9b::/96"), ip_network("2002::/16")
LOCAL_NAT64 = ip_network("64:ff9b:1::/48")  # where in them the IPv4 address is, each network decides for itself
COMPATIBLE = ip_network("::/96")  # IPv4 in IPv6 in an older form
SITE_LOCAL = ip_network("fec0::/10")  # private until 2004

TURN_ON = (
    "Use what is already in the workspace. An administrator can turn it on: `network` of the project {project} "
    'is set to true, or to a list such as ["registry.example.org:443"] for these hosts alone.'
)
LIST = 'An administrator can correct it: `network` of the project {project} is set to a list such as ["registry.example.org:443"].'
NO_ROOMS = "but commands cannot be held to the list of the project here, which needs namespaces (L3)"
LIST_NOT_HELD = (
    "The protection report of the server says why, and its operator sets GATEPOST_NAMESPACES; or an administrator sets "
    "`network` of the project {project} to true, which is for all hosts, or to false."
)

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_ENTRY = re.compile(r"(?:\[(?P<six>[^\[\]]*)\]|(?P<host>[^:\[\]]*))(?::(?P<port>[0-9]{1,5}|\*))?")


@dataclass(frozen=True, slots=True)
class Host:
    """An entry of a list: a name, all names below one (`*.example.org`), any name (`*`), or a range of addresses.

    `ports` are those that it is for; without any, all of them.
    """

    name: str
    network: Network | None
    ports: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> "Host":
        """`HOST`, `HOST:PORT` or `HOST:*`, with an IPv6 address in brackets. Raises ValueError that says what is wrong."""
        found = _ENTRY.fullmatch(text.strip())
        if not found:
            raise ValueError(f"{text!r} is not HOST or HOST:PORT, such as registry.example.org or *.example.org:443")
        host = (found["six"] or found["host"] or "").lower().rstrip(".")
        return cls(*_named(host, text), _ports(found["port"], text))

    def names(self, host: str, port: int) -> bool:
        """Whether it is for this name or address, as it was asked for."""
        if self.ports and port not in self.ports:
            return False
        if self.network:
            return (found := _literal(host)) is not None and found in self.network
        if self.name == "*":
            return True
        return host.endswith(self.name[1:]) if self.name.startswith("*.") else host == self.name

    def covers(self, address: Address, port: int, *, alone: bool) -> bool:
        """Whether the address itself is listed; with `alone`, not as one of a range."""
        if not self.network or (alone and self.network.num_addresses > 1):
            return False
        return address in self.network and (not self.ports or port in self.ports)

    def __str__(self) -> str:
        host = str(self.network).removesuffix("/32").removesuffix("/128") if self.network else self.name
        host = f"[{host}]" if ":" in host else host
        match sorted(self.ports):
            case []:
                return f"{host}:*"
            case [port]:
                return f"{host}:{port}"
            case _:
                return host


def _named(host: str, text: str) -> tuple[str, Network | None]:
    try:
        return "", ip_network(host, strict=False)
    except ValueError:
        pass
    if not host.isascii():
        raise ValueError(f"{text!r}: write a host with other letters in its ASCII form, which begins with xn--")
    bare = "x" if host == "*" else host.removeprefix("*.")
    if len(host) > LONGEST_NAME or not _NAME.fullmatch(bare) or _looks_numeric(bare):
        raise ValueError(f"{text!r} names no host; a name, *.name, an address or a range such as 10.1.0.0/16 does")
    return host, None


def _ports(port: str | None, text: str) -> frozenset[int]:
    if port is None:
        return WEB_PORTS
    if port == "*":
        return frozenset()
    if not 0 < int(port) < 65536:
        raise ValueError(f"{text!r}: ports are 1 to 65535")
    return frozenset({int(port)})


def parse_hosts(text: str) -> tuple[Host, ...]:
    """A list, separated by commas or blanks. Raises ValueError."""
    return hosts_of(text.replace(",", " ").split())


def hosts_of(entries: Sequence[str]) -> tuple[Host, ...]:
    """The hosts of a list. Raises ValueError."""
    if len(entries) > MOST_ENTRIES:
        raise ValueError(f"{len(entries)} hosts are more than {MOST_ENTRIES}")
    return tuple(dict.fromkeys(map(Host.parse, entries)))


@dataclass(frozen=True, slots=True)
class Egress:
    """The hosts that the commands of a project may reach."""

    hosts: tuple[Host, ...]
    project: str = ""

    def asked(self, host: str, port: int) -> Decision:
        """Judge what a command asked for, before the name is looked up. `host` is in lower case, without a final dot."""
        if not _literal(host) and (len(host) > LONGEST_NAME or not _NAME.fullmatch(host) or _looks_numeric(host)):
            return Decision.deny("network.name", "That is no host name.", "Name a host, such as registry.example.org.")
        if any(each.names(host, port) for each in self.hosts):
            return Decision(True, "network.listed", Risk.MODERATE, "The host is listed.")
        return not_listed(host, port, self.hosts)

    def resolved(
        self, host: str, port: int, addresses: Sequence[Address], own: Container[Address] = ()
    ) -> tuple[Address, ...] | Decision:
        """The addresses of the name that may be connected to, or why none of them may; `own` are those of this machine.

        A name that leads to one forbidden address is refused whole: an honest one leads to none.
        """
        for address in addresses:
            kind = "this machine" if address in own else kind_of(address)
            alone = kind == "this machine"  # a range of the machine's network is not meant for the service itself
            if kind and not any(each.covers(plain(address), port, alone=alone) for each in self.hosts):
                return forbidden(host, port, kind)
        return tuple(dict.fromkeys(addresses))


def not_listed(host: str, port: int, hosts: Iterable[Host]) -> Decision:
    """The project's list does not contain the host."""
    listed = ", ".join(map(str, hosts)) or "none"
    reason = f"{show(host, port)} is not one of the hosts that this project may reach ({listed})."
    return Decision.deny("network.host", reason, f"An administrator can add it to the project: {show(host, port)}")


def forbidden(host: str, port: int, kind: str) -> Decision:
    """The name leads to an address that must be listed itself."""
    reason = f"{show(host, port)} leads to {kind}."
    hint = "An administrator can list the address itself for the project, such as 10.1.2.3:443 or 10.1.0.0/16:443."
    return Decision.deny("network.address", reason, hint)


def show(host: str, port: int) -> str:
    """Host and port as they are written in a list."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def kind_of(address: Address) -> str:
    """The kind of an address that must be listed itself; empty for a public one."""
    address = plain(address)
    if address.is_unspecified or address.is_loopback:
        return "this machine"
    if address.is_link_local:
        return "an address of the local link, where clouds have their metadata"
    if address.is_multicast or (isinstance(address, IPv4Address) and str(address) == "255.255.255.255"):
        return "a group of machines"
    if not address.is_global or any(address in each for each in (SHARED, SITE_LOCAL, LOCAL_NAT64)):
        return "a private address"
    return ""


def plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, where it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64 or (address in COMPATIBLE and int(address) > 0xFFFF):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address in SIX_TO_FOUR:
        return IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    return address.ipv4_mapped or address


async def first_reached(judged: Sequence[Address], connect: Callable[[Address], Awaitable[T]]) -> T:
    """The connection to the first address that answers. `connect` raises OSError, also where it takes too long.

    Addresses are what was judged; by now the name may lead elsewhere. Raises OSError where none answers.
    """
    problem = OSError(0, "it has no address")
    for address in judged:
        try:
            return await connect(address)
        except OSError as error:
            problem = error
    raise problem


def network_of(access: NetworkAccess, project: str, holds_hosts: bool) -> tuple[bool | Egress, Offline]:
    """What commands of a project may reach, and what is said where that is nothing: also where there is a list to which they
    cannot be held."""
    if isinstance(access, bool):
        return access, Offline("network.off", "which is off in this project", TURN_ON.format(project=project))
    try:
        egress = Egress(hosts_of(access), project)
    except ValueError as error:
        return False, Offline(
            "network.host", f"but the list of the project is invalid: {error}", LIST.format(project=project)
        )
    if not holds_hosts:
        return False, Offline("network.rooms", NO_ROOMS, LIST_NOT_HELD.format(project=project))
    return egress, OFFLINE


def is_wider(access: NetworkAccess, than: NetworkAccess, default: Iterable[str]) -> bool:
    """Whether it permits more than another, and more than the list of the operator."""
    if than is True or access is False:
        return False
    return access is True or not set(access) <= {*(than or ()), *default}


def _literal(host: str) -> Address | None:
    try:
        return None if "%" in host else ip_address(host)  # no zones: they name interfaces of this machine
    except ValueError:
        return None


def _looks_numeric(host: str) -> bool:
    """Whether resolvers take it for an address in another form: 127.1, 0x7f000001, 2130706433."""
    return bool(re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2]))
