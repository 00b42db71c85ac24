"""What may be recorded and what is deleted: nobody loses recordings because another one records much."""

from collections.abc import Iterable

import pytest

from backend.core.identity import VISITORS, Principal, Role, User
from backend.core.ids import time_of
from backend.core.recording.retention import RecordingShares, Retention, Stored, of_a_day, to_delete
from backend.core.times import DAY_MS
from tests.ids import numbered_id

NOW = 1_800_000_000_000
ANN = Principal("user:ann", "10.0.0.1", user=User("ann", "ann", Role.OPERATOR, "agent", False, 0, 0))
VISITOR = Principal("visitor:1", "10.0.0.2")


def stored(*them: tuple[str, int, float]) -> list[Stored]:
    """Recordings: their owner, bytes, and age in days."""
    return [
        Stored(numbered_id(NOW - int(days * DAY_MS), number), owner, size)
        for number, (owner, size, days) in enumerate(them)
    ]


def deleted(
    known: list[Stored], size: int, days: float = 30, now: int | None = NOW, written: Iterable[int] = ()
) -> list[int]:
    """The indexes of those that are deleted."""
    names = [each.execution for each in known]
    are_written = {names[index] for index in written}
    gone = to_delete(known, Retention(int(days * DAY_MS), size), now, are_written.__contains__)
    return [names.index(each) for each in gone]


def test_an_id_has_its_time() -> None:
    for time in (0, 1, NOW, 2**48 - 1):
        assert time_of(numbered_id(time, 2**80 - 1)) == time


def test_what_is_too_old_by_its_id_goes_unless_it_is_written_or_the_time_is_unknown() -> None:
    known = stored(("ann", 1, 31), ("bob", 1, 29), ("ann", 1, 40), ("bob", 1, 50))
    assert sorted(deleted(known, 100, written=[3])) == [0, 2]
    assert deleted(known, 100, now=None) == []


def test_over_the_size_the_oldest_of_the_largest_owner_go() -> None:
    known = stored(("ann", 10, 9), ("bob", 10, 8), ("ann", 60, 2), ("ann", 50, 1), ("bob", 10, 0))
    assert deleted(known, 140) == []
    assert deleted(known, 139) == [0]
    assert deleted(known, 129) == [0, 2]
    assert deleted(known, 69) == [0, 2, 3]
    assert deleted(known, 70, written=[2]) == [0, 3, 1]
    assert sorted(deleted(known, 0, now=None)) == [0, 1, 2, 3, 4]


def test_with_one_owner_the_newest_are_kept() -> None:
    known = stored(*(("ann", 10, days) for days in (5, 4, 3, 2, 1)))
    assert deleted(known, 20) == [0, 1, 2]


@pytest.mark.parametrize(("who", "owner"), [(ANN, "ann"), (VISITOR, VISITORS)])
def test_a_share_is_used_up_by_what_its_owner_wrote_within_a_day(who: Principal, owner: str) -> None:
    shares = RecordingShares(100)
    shares.measured(of_a_day(stored((owner, 90, 2), (owner, 40, 0.5), ("bob", 500, 0)), NOW), shares.begin())
    assert shares.refusal(who) is None
    assert shares.add(owner, 60)
    refusal = shares.refusal(who)
    assert refusal
    assert refusal.rule == "limits.recordings"
    assert not shares.add(owner, 1)
    assert (
        shares.refusal(Principal("user:eve", "", user=User("eve", "eve", Role.OPERATOR, "agent", False, 0, 0))) is None
    )


def test_what_is_written_during_a_measurement_counts_on() -> None:
    shares = RecordingShares(100)
    shares.add("ann", 50)
    before = shares.begin()
    shares.add("ann", 30)
    shares.measured(of_a_day(stored(("ann", 50, 0)), NOW), before)
    assert shares.changed
    assert shares.add("ann", 20)
    assert not shares.add("ann", 1)
