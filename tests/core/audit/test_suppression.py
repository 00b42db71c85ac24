"""Floods: the beginning of each minute is let through, the rest is counted once."""

from backend.core.audit.suppression import Flood, Floods

ANN, BOB = ("limits.rate", "10.0.0.1"), ("limits.rate", "10.0.0.2")


def test_so_many_are_let_through_in_a_window_and_the_rest_is_counted() -> None:
    floods = Floods(most=3, window=1000)
    assert [floods.admit(ANN, 100) for _ in range(5)] == [True] * 3 + [False] * 2
    assert floods.admit(BOB, 100)
    assert floods.counting
    assert floods.over(1099) == []
    assert floods.over(1100) == [Flood(ANN, 100, 2)]
    assert floods.over(9999) == []
    assert not floods.counting
    assert floods.admit(ANN, 1100)


def test_a_window_that_goes_on_stays_when_an_older_one_ends() -> None:
    floods = Floods(most=0, window=1000)
    floods.admit(ANN, 0)
    floods.admit(BOB, 500)
    assert floods.over(1000) == [Flood(ANN, 0, 1)]
    floods.admit(ANN, 1200)
    assert floods.over(1500) == [Flood(BOB, 500, 1)]
    assert floods.end() == [Flood(ANN, 1200, 1)]


def test_a_clock_that_is_set_back_ends_the_windows() -> None:
    floods = Floods(most=1, window=1000)
    floods.admit(ANN, 5000)
    assert not floods.admit(ANN, 5000)
    assert floods.over(10) == [Flood(ANN, 5000, 1)]
    assert floods.admit(ANN, 10)


def test_addresses_that_left_take_no_memory() -> None:
    floods = Floods(window=1000)
    for number in range(1000):
        floods.admit(("limits.rate", str(number)), 0)
    assert floods.over(1000) == []
    assert floods._windows == {}
