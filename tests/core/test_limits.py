"""Rates and slots."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.limits import Rate, Slots


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


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=80))
def test_slots_never_give_more_than_there_are(steps: list[tuple[bool, str]]) -> None:
    slots, held = Slots(2, 4), Counter[str]()
    for take, who in steps:
        if take:
            full = held[who] >= 2 or held.total() >= 4
            refusal = slots.acquire(who)
            assert (refusal is not None) == full
            held[who] += refusal is None
        elif held[who]:
            slots.release(who)
            held[who] -= 1
    assert slots.taken == +held
