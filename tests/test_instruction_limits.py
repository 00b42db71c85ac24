"""The instruction counts of the bench are held to limits."""

from bench.instructions import Account, over, refusal

BEFORE = Account("CPython 3.11.7", 1000.0, {"echo": 100.0, "poll": 50.0})


def test_what_grows_over_six_per_cent_is_named_with_the_way_to_accept_it() -> None:
    now = Account("CPython 3.11.7", 1000.0, {"echo": 106.1, "poll": 50.0, "new": 7.0})
    [grown] = over(now, BEFORE)
    assert grown == "echo: 106.1 instead of 100.0, +6.1%"
    assert grown in refusal([grown])
    assert "python -m bench.instructions --accept" in refusal([grown])


def test_what_grows_less_or_shrinks_is_no_reason_to_fail() -> None:
    assert over(Account("CPython 3.11.7", 1000.0, {"echo": 105.9, "poll": 1.0}), BEFORE) == []


def test_another_python_or_one_built_otherwise_does_not_compare() -> None:
    assert Account("CPython 3.11.7", 1009.0, {}).compares(BEFORE)
    assert not Account("CPython 3.12.1", 1000.0, {}).compares(BEFORE)
    assert not Account("CPython 3.11.7", 900.0, {}).compares(BEFORE)
