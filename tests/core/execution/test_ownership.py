"""Leases as arithmetic: no clock, no storage."""

from backend.core.execution.ownership import HEARTBEAT, LEASE, LEASE_MS, RELEASED, Contact, Holdings, lease_until

NOW = 1_700_000_000_000


def test_a_lease_survives_a_heartbeat_or_two_that_fail() -> None:
    assert lease_until(NOW) == NOW + 15_000
    assert 3 * HEARTBEAT < LEASE


def test_leases_are_judged_after_one_lease_of_contact() -> None:
    contact = Contact()
    assert contact.judged_until(NOW) == RELEASED
    for second in range(0, 15, 5):
        contact.reached(NOW + second * 1000)
        assert contact.judged_until(NOW + second * 1000) == RELEASED
    assert contact.judged_until(NOW + LEASE_MS) == NOW + LEASE_MS


def test_an_outage_begins_the_wait_again() -> None:
    contact = Contact()
    contact.reached(NOW)
    contact.reached(NOW + LEASE_MS)
    assert contact.judged_until(NOW + LEASE_MS) == NOW + LEASE_MS
    contact.missed()
    contact.reached(NOW + LEASE_MS + 1)
    assert contact.judged_until(NOW + LEASE_MS + 5000) == RELEASED


def test_a_server_that_was_asleep_or_whose_clock_jumped_judges_nothing() -> None:
    for jump in (LEASE_MS + 1, -60_000):
        contact = Contact()
        contact.reached(NOW)
        contact.reached(NOW + LEASE_MS)
        assert contact.judged_until(NOW + LEASE_MS + jump) == RELEASED
        contact.reached(NOW + LEASE_MS + jump)
        assert contact.judged_until(NOW + LEASE_MS + jump) == RELEASED


def test_what_could_not_be_extended_is_lost_unless_its_end_is_being_written() -> None:
    holdings = Holdings()
    for name in ("kept", "lost", "ending", "ended"):
        holdings.add(name)
    asked = holdings.ids
    holdings.ending("ending")
    holdings.remove("ended")
    holdings.add("new")
    assert holdings.lost(asked, frozenset({"kept"})) == {"lost"}
    assert holdings.ids == {"kept", "ending", "new"}
