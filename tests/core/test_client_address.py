"""Addresses behind proxies, and which pages may connect."""

import pytest

from backend.core.client_address import any_name, client_address, is_loopback, names_of_machine, origin_allowed


@pytest.mark.parametrize(
    ("forwarded", "hops", "address"),
    [
        ([], 0, "peer"),
        (["1.1.1.1"], 0, "peer"),
        (["6.6.6.6, 1.1.1.1"], 1, "1.1.1.1"),
        (["6.6.6.6", "1.1.1.1"], 1, "1.1.1.1"),
        (["6.6.6.6, 1.1.1.1, 2.2.2.2"], 2, "1.1.1.1"),
        (["1.1.1.1"], 2, "peer"),
        ([" , "], 1, "peer"),
    ],
)
def test_the_address_is_counted_from_the_right(forwarded: list[str], hops: int, address: str) -> None:
    assert client_address("peer", forwarded, hops) == address


def test_what_a_client_claims_changes_nothing() -> None:
    spoofed = {client_address("peer", [f"10.0.{n // 256}.{n % 256}, 1.2.3.4"], 1) for n in range(1000)}
    assert spoofed == {"1.2.3.4"}


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "good.test", True),
        ("https://good.test", "good.test", True),
        ("http://good.test:8000", "good.test:8000", True),
        ("https://GOOD.test", "good.test", True),
        ("https://good.test", "good.test:443", True),
        ("http://good.test", "good.test:80", True),
        ("https://listed.test", "good.test", True),
        ("https://listed.test/", "good.test", True),
        ("null", "good.test", False),
        ("", "good.test", False),
        ("https://evil.test", "good.test", False),
        ("https://good.test.evil", "good.test", False),
        ("https://evilgood.test", "good.test", False),
        ("https://good.test:8443", "good.test", False),
        ("https://good.test", "good.test:8443", False),
        ("http://listed.test", "good.test", False),
        ("file://good.test", "good.test", False),
        ("https://good.test:x", "good.test", False),
        ("https://good.test:99999", "good.test", False),
        ("https://[::1", "good.test", False),
        ("https://good.test", "", False),
    ],
)
def test_pages_of_the_same_host_or_listed_may_connect(origin: str | None, host: str, allowed: bool) -> None:
    assert origin_allowed(origin, host, ["https://listed.test"], any_name) is allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:8000", True),
        ("http://127.0.0.1:8000", True),
        ("http://127.0.0.2:8000", True),
        ("http://192.168.1.5", True),
        ("http://[::1]:8000", True),
        ("http://[fe80::1]:8000", True),
        ("http://app.localhost:8000", True),
        ("http://laptop.local:8000", True),
        ("http://LAPTOP.local:8000", True),
        ("http://rebound.test:8000", False),
        ("http://127.0.0.1.rebound.test:8000", False),
        ("http://localhost.rebound.test:8000", False),
        ("http://evil-laptop.local:8000", False),
    ],
)
def test_a_name_that_is_not_of_the_machine_is_a_rebinding_attack(origin: str, allowed: bool) -> None:
    own = names_of_machine({"laptop.local"})
    assert origin_allowed(origin, origin.removeprefix("http://"), [], own) is allowed
    assert origin_allowed(origin, origin.removeprefix("http://"), [origin], own), "a listed origin passes in any case"


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("/run/socket", False),
        (None, False),
    ],
)
def test_loopback_addresses_are_those_of_this_machine_alone(address: str | None, loopback: bool) -> None:
    assert is_loopback(address) is loopback


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::1", "::1"),
        ("10.0.0.1", "10.0.0.1"),
        ("no address", "no address"),
    ],
)
def test_a_customer_of_ipv6_is_one_address(peer: str, address: str) -> None:
    assert client_address(peer, [], 0) == address
