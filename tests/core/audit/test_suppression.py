"""Floods: the beginning of each minute is let through, the rest is counted once."""

from backend.core.audit.suppression import RefusalSuppressor, SuppressedRefusals

ANN, BOB = ("limits.rate", "10.0.0.1"), ("limits.rate", "10.0.0.2")


def test_so_many_are_let_through_in_a_window_and_the_rest_is_counted() -> None:
    floods = RefusalSuppressor(most=3, window=1000)
    assert [floods.admit(ANN, 100) for _ in range(5)] == [True] * 3 + [False] * 2
    assert floods.admit(BOB, 100)
    assert floods.has_unreported
    assert floods.expire(1099) == []
    assert floods.expire(1100) == [SuppressedRefusals(ANN, 100, 2)]
    assert floods.expire(9999) == []
    assert not floods.has_unreported
    assert floods.admit(ANN, 1100)


def test_a_window_that_goes_on_stays_when_an_older_one_ends() -> None:
    floods = RefusalSuppressor(most=0, window=1000)
    floods.admit(ANN, 0)
    floods.admit(BOB, 500)
    assert floods.expire(1000) == [SuppressedRefusals(ANN, 0, 1)]
    floods.admit(ANN, 1200)
    assert floods.expire(1500) == [SuppressedRefusals(BOB, 500, 1)]
    assert floods.drain() == [SuppressedRefusals(ANN, 1200, 1)]


def test_a_clock_that_is_set_back_ends_the_windows() -> None:
    floods = RefusalSuppressor(most=1, window=1000)
    floods.admit(ANN, 5000)
    assert not floods.admit(ANN, 5000)
    assert floods.expire(10) == [SuppressedRefusals(ANN, 5000, 1)]
    assert floods.admit(ANN, 10)


def test_addresses_that_left_take_no_memory() -> None:
    floods = RefusalSuppressor(window=1000)
    for number in range(1000):
        floods.admit(("limits.rate", str(number)), 0)
    assert floods.expire(1000) == []
    assert floods._windows == {}
