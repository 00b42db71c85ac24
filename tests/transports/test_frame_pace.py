"""The pace of frames: haste waits, a flood ends, and nobody pays for others."""

from itertools import repeat

from hypothesis import given
from hypothesis import strategies as st

from backend.transports.frame_pace import BURST, LONGEST_WAIT, RATE, SHARED_RATE, FramePace, shared_pace


def waits(pace: FramePace, idles: list[float]) -> list[float | None]:
    """What frames wait for that come after these pauses, each processed after its wait."""
    found, now = [], 100.0
    for idle in idles:
        now += idle
        wait = pace.wait(now, idle)
        found.append(wait)
        now += wait or 0.0
    return found


def test_a_few_frames_at_once_do_not_wait() -> None:
    assert set(waits(FramePace(shared_pace()), [0.0] * BURST)) == {0.0}


def test_frames_at_the_rate_never_wait() -> None:
    assert set(waits(FramePace(shared_pace()), [1.001 / RATE] * 1000)) == {0.0}


def test_five_thousand_pasted_lines_are_slowed_down_and_not_cut() -> None:
    found = waits(FramePace(shared_pace()), [0.0] * 5000)
    assert None not in found
    assert 24 < sum(filter(None, found)) < 26


def test_a_flood_is_cut() -> None:
    found = waits(FramePace(shared_pace()), [0.0] * 10_000)
    assert LONGEST_WAIT - 0.1 < sum(filter(None, found[: found.index(None)])) < LONGEST_WAIT


def test_a_rest_is_forgiven() -> None:
    batch = [15.0, *[0.0] * 3000]
    assert None not in waits(FramePace(shared_pace()), batch * 10)


@given(st.integers(2, 200))
def test_any_number_of_floods_together_has_the_shared_rate(many: int) -> None:
    shared, now = shared_pace(), 100.0
    paces = [FramePace(shared) for _ in repeat(None, many)]
    for pace in paces * BURST:
        assert pace.wait(now, 0.0) == 0
    last = max(pace.wait(now, 0.0) or 0.0 for pace in paces * 3)
    assert last >= (3 * many - 2) / SHARED_RATE - 1e-6
    assert FramePace(shared).wait(now, 0.0) == 0, "one that is not in haste does not wait for them"
