"""Chunks in order, whatever order they arrive in; and when a runner is given up."""

from hypothesis import given
from hypothesis import strategies as st

from backend.core.django.runs import Chunk, ChunkOrder, Gap, Patience
from backend.core.execution.model import StopReason
from backend.core.ids import as_uuid, of_uuid
from tests.ids import numbered_id


@given(st.permutations(range(1, 9)), st.integers(1, 4))
def test_any_order_becomes_the_right_one(numbers: list[int], at_once: int) -> None:
    order, seen = ChunkOrder(), list[int]()
    for start in range(0, len(numbers), at_once):
        order.add(Chunk(number, False, "") for number in numbers[start : start + at_once])
        seen += [chunk.number for chunk in order.ready()]
    assert seen == sorted(numbers)
    assert order.skip() is None


def test_a_gap_is_passed_once_and_filled_late() -> None:
    order = ChunkOrder()
    order.add([Chunk(4, False, "4"), Chunk(9, False, "9")])
    assert list(order.ready()) == []
    assert order.skip() == Gap(1, 3)
    assert [chunk.number for chunk in order.ready()] == [4]
    order.add([Chunk(2, False, "2"), Chunk(2, False, "again"), Chunk(4, False, "again")])
    [late] = order.ready()
    assert (late.text, order.is_late(late)) == ("2", True)
    assert order.skip() == Gap(5, 8)
    assert str(Gap(5, 5)) == "[Output is missing here: chunk 5 has not arrived.]"


def test_a_number_far_away_costs_nothing() -> None:
    order = ChunkOrder()
    order.add([Chunk(10_000_000, False, "")])
    assert order.skip() == Gap(1, 9_999_999)
    assert len(order.skipped) < 2000


def test_a_runner_is_given_up_once_it_is_silent_or_does_not_obey() -> None:
    patience = Patience()
    cancelled, timed_out = StopReason.CANCELLED, StopReason.TIMED_OUT
    assert not patience.is_given_up(cancelled, 29, 0)
    assert patience.is_given_up(cancelled, 31, 0)
    assert patience.is_given_up(cancelled, 31, 31)
    assert not patience.is_given_up(timed_out, 31, 60)  # it may come back
    assert patience.is_given_up(timed_out, 31, 91)
    assert patience.is_given_up(timed_out, 31, 1)


def test_an_id_has_the_form_of_a_uuid() -> None:
    id = numbered_id(1_700_000_000_000, 12345)
    assert of_uuid(as_uuid(id)) == id
    assert len(as_uuid(id)) == 36
    for text in ("", "x" * 36, as_uuid(id)[:-1], "--" * 18, "../../etc/passwd"):
        assert of_uuid(text) == ""
