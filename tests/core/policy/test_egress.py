"""Egress: entries of a list, names as they are asked for, and the addresses that they lead to."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.decisions import Decision
from backend.core.policy.egress import MOST_ENTRIES, Address, Egress, Host, first_reached, kind_of, parse_hosts

PUBLIC = ip_address("93.184.216.34")


def reaches(listed: str, host: str, port: int = 443) -> bool:
    return Egress(parse_hosts(listed)).asked(host, port).allowed


def leads(listed: str, *addresses: str, port: int = 443) -> str:
    """The rule that refuses a name with these addresses; empty where it may be connected to."""
    found = Egress(parse_hosts(listed)).resolved("x.example", port, [ip_address(each) for each in addresses])
    return found.rule if isinstance(found, Decision) else ""


@pytest.mark.parametrize(
    ("listed", "host", "port", "allowed"),
    [
        ("registry.example.org", "registry.example.org", 443, True),
        ("registry.example.org", "registry.example.org", 80, True),
        ("registry.example.org", "registry.example.org", 22, False),
        ("registry.example.org:22", "registry.example.org", 22, True),
        ("registry.example.org:22", "registry.example.org", 443, False),
        ("registry.example.org:*", "registry.example.org", 9418, True),
        ("Registry.Example.ORG.", "registry.example.org", 443, True),
        ("registry.example.org", "evil.registry.example.org", 443, False),
        ("registry.example.org", "registry.example.org.evil.test", 443, False),
        ("*.example.org:443", "a.example.org", 443, True),
        ("*.example.org:443", "a.b.example.org", 443, True),
        ("*.example.org:443", "example.org", 443, False),
        ("*.example.org:443", "badexample.org", 443, False),
        ("*:443", "anything.test", 443, True),
        ("*:443", "93.184.216.34", 443, True),
        ("93.184.216.0/24", "93.184.216.34", 443, True),
        ("93.184.216.0/24", "example.org", 443, False),
        ("[2606:2800::]:443", "2606:2800::", 443, True),
        ("", "example.org", 443, False),
    ],
)
def test_a_name_is_asked_for_as_it_is_listed(listed: str, host: str, port: int, allowed: bool) -> None:
    assert reaches(listed, host, port) == allowed


@pytest.mark.parametrize(
    "host", ["2130706433", "127.1", "0x7f000001", "0x7f.1", "0177.0.0.1", "a..b", "a b", "-", "", "x" * 254]
)
def test_what_is_no_name_is_refused_even_where_every_name_is_listed(host: str) -> None:
    """Resolvers read some of these as 127.0.0.1."""
    assert Egress(parse_hosts("*:*")).asked(host, 443).rule == "network.name"


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "this machine"),
        ("127.8.8.8", "this machine"),
        ("0.0.0.0", "this machine"),
        ("::1", "this machine"),
        ("::", "this machine"),
        ("::ffff:127.0.0.1", "this machine"),
        ("64:ff9b::7f00:1", "this machine"),
        ("2002:7f00:1::", "this machine"),
        ("169.254.169.254", "an address of the local link, where clouds have their metadata"),
        ("fe80::1", "an address of the local link, where clouds have their metadata"),
        ("fd00:ec2::254", "a private address"),
        ("10.0.0.1", "a private address"),
        ("172.16.0.1", "a private address"),
        ("192.168.1.1", "a private address"),
        ("100.100.100.200", "a private address"),
        ("64:ff9b:1::7f00:1", "a private address"),
        ("192.0.2.1", "a private address"),
        ("224.0.0.1", "a group of machines"),
        ("ff02::1", "a group of machines"),
        ("255.255.255.255", "a group of machines"),
        ("93.184.216.34", ""),
        ("2606:2800:220:1::1", ""),
    ],
)
def test_addresses_that_nobody_reaches_unless_they_are_listed(address: str, kind: str) -> None:
    assert kind_of(ip_address(address)) == kind
    assert leads("x.example *:*", address) == ("network.address" if kind else "")
    if "." in address and ":" not in address:
        assert leads(f"x.example {address}:443", address) == ""
        assert leads(f"x.example {address}:80", address) == ("network.address" if kind else "")


def test_one_forbidden_address_is_enough() -> None:
    """A name that leads to a public and to a private address is one of an attacker."""
    assert leads("x.example", str(PUBLIC), "10.0.0.1") == "network.address"


@pytest.mark.parametrize(
    ("listed", "address", "rule"),
    [
        ("10.0.0.0/8:443", "10.0.0.7", "network.address"),
        ("10.0.0.7:443", "10.0.0.7", ""),
        ("10.0.0.0/8:443", "10.0.0.8", ""),
        ("0.0.0.0/0", "127.0.0.1", "network.address"),
    ],
)
def test_a_range_does_not_list_the_machine_itself(listed: str, address: str, rule: str) -> None:
    """Gatepost is there, and what else listens on the machine."""
    found = Egress(parse_hosts(listed)).resolved("x.example", 443, [ip_address(address)], own={ip_address("10.0.0.7")})
    assert (found.rule if isinstance(found, Decision) else "") == rule


def test_the_addresses_of_this_machine_are_private_too() -> None:
    egress = Egress(parse_hosts("x.example"))
    assert isinstance(egress.resolved("x.example", 443, [PUBLIC], own={PUBLIC}), Decision)
    assert egress.resolved("x.example", 443, [PUBLIC, PUBLIC]) == (PUBLIC,)


@pytest.mark.parametrize(
    "text", ["", "a..b", "http://x.example", "x.example/path", "x.example:0", "x.example:65536", "x.example:https",
             "*.*.example", "ex*mple.org", "-x-", "127.1", "[::1", "::1", "user@x.example", "é.example", "x" * 254]
)  # fmt: skip
def test_an_entry_that_is_none_says_what_is_wrong(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST|host|ports"):
        Host.parse(text)


def test_a_list_has_a_bound_and_no_repeats() -> None:
    assert len(parse_hosts("a.example, a.example\nb.example:443")) == 2
    with pytest.raises(ValueError, match="257"):
        parse_hosts(" ".join(f"h{number}.example" for number in range(MOST_ENTRIES + 1)))


@pytest.mark.parametrize(
    "text", ["x.example", "x.example:22", "*.x.example:*", "10.1.0.0/16", "[fd00::]:443", "10.1.2.3:5432"]
)
def test_an_entry_is_written_as_it_was_read(text: str) -> None:
    assert str(Host.parse(text)) == text
    assert Host.parse(str(Host.parse(text))) == Host.parse(text)


@given(st.text(max_size=60))
def test_no_text_breaks_it(text: str) -> None:
    try:
        host = Host.parse(text)
    except ValueError:
        return
    assert Host.parse(str(host)) == host
    Egress((host,)).asked(text.lower(), 443)


async def test_the_first_address_that_answers_is_connected_to() -> None:
    first, second, third = (ip_address(f"192.0.2.{number}") for number in (1, 2, 3))
    tried: list[Address] = []

    async def connect(address: Address) -> str:
        tried.append(address)
        if address == first:
            raise TimeoutError
        if address == third:
            raise ConnectionRefusedError
        return str(address)

    assert await first_reached([first, second, third], connect) == "192.0.2.2"
    assert tried == [first, second]
    with pytest.raises(ConnectionRefusedError):
        await first_reached([first, third], connect)
    with pytest.raises(OSError, match="no address"):
        await first_reached([], connect)
