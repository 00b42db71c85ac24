"""Addresses behind proxies, and which pages may connect."""

import pytest

from backend.core.client_address import client_address, origin_allowed


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
    assert origin_allowed(origin, host, ["https://listed.test"], loopback=False) is allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:8000", True),
        ("http://127.0.0.1:8000", True),
        ("http://[::1]:8000", True),
        ("http://rebound.test:8000", False),
    ],
)
def test_on_this_machine_a_foreign_name_is_a_rebinding_attack(origin: str, allowed: bool) -> None:
    assert origin_allowed(origin, origin.removeprefix("http://"), [], loopback=True) is allowed


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
