"""Rates and slots."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.identity import Principal, Role, User
from backend.core.limits import Rate, Slots

ANN = User("1", "ann", Role.OPERATOR, "agent", False, 0, 0)


@pytest.mark.parametrize(
    ("text", "rate", "words"),
    [
        ("10/5 minutes", Rate(10, 300), "10 in 5 minutes"),
        ("120/minute", Rate(120, 60), "120 in a minute"),
        (" 1 / 2hours ", Rate(1, 7200), "1 in 2 hours"),
        ("3/90 seconds", Rate(3, 90), "3 in 90 seconds"),
    ],
)
def test_a_rate_is_read_and_said(text: str, rate: Rate, words: str) -> None:
    assert Rate.parse(text) == rate
    assert str(rate) == words


@pytest.mark.parametrize("text", ["", "10", "0/minute", "10/0 minutes", "ten/minute", "10/fortnight", "-1/minute"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        Rate.parse(text)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcde")), max_size=80))
def test_slots_never_give_more_than_there_are(steps: list[tuple[bool, str]]) -> None:
    """`a` to `c` are visitors, who leave one of the four slots to the others."""
    slots, held = Slots(2, 4, reserved=1), Counter[str]()
    people = {name: Principal(name, "", user=None if name in "abc" else ANN) for name in "abcde"}
    for take, name in steps:
        if take:
            visitors = sum(count for each, count in held.items() if each in "abc")
            full = held[name] >= 2 or held.total() >= 4 or (name in "abc" and visitors >= 3)
            refusal = slots.acquire(people[name])
            assert (refusal is not None) == full
            held[name] += refusal is None
        elif held[name]:
            slots.release(people[name])
            held[name] -= 1
    assert slots.taken == +held
