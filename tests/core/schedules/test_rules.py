"""What becomes of due times: missed, overlapping, late, failed."""

from dataclasses import replace
from typing import Any

import pytest

from backend.core.schedules import rules
from backend.core.schedules.model import Policy, ReadyRun, Run, RunStatus, Schedule, What, When
from backend.core.schedules.rules import backoff_ms, due_runs, retry, skipped_reason, upcoming

HOUR = 3_600_000
START = 1_799_996_400_000  # a full hour
HOURLY = Schedule("S", "U", "hourly", What("echo hi"), When("0 * * * *"), 0, START)
LATE = START + 3 * HOUR + 30 * 60_000


def with_policies(missed: Policy = Policy.RUN_ONCE, overlap: Policy = Policy.SKIP, **fields: Any) -> Schedule:
    return replace(HOURLY, when=replace(HOURLY.when, missed=missed, overlap=overlap, **fields))


def outcome(schedule: Schedule, now: int, waiting: int = 0) -> list[tuple[int, str]]:
    """The hours of the runs of a schedule that is due, with their states."""
    return [((run.due_ms - START) // HOUR, str(run.status)) for run in due_runs(schedule, now, 0.5, waiting).runs]


def test_one_that_is_on_time_waits() -> None:
    due = due_runs(HOURLY, START + 900, 0.5)
    assert due.runs == (Run("S", START, start_ms=START + 900),)
    assert due.next_due_ms == START + HOUR


@pytest.mark.parametrize(
    ("missed", "runs"),
    [
        (Policy.SKIP, [(0, "skipped"), (1, "skipped"), (2, "skipped"), (3, "skipped")]),
        (Policy.RUN_ONCE, [(0, "skipped"), (1, "skipped"), (2, "skipped"), (3, "waiting")]),
        (Policy.QUEUE, [(0, "waiting"), (1, "waiting"), (2, "waiting"), (3, "waiting")]),
    ],
)
def test_missed_times(missed: Policy, runs: list[tuple[int, str]]) -> None:
    assert outcome(with_policies(missed), LATE) == runs
    assert due_runs(with_policies(missed), LATE, 0).next_due_ms == START + 4 * HOUR


def test_a_time_that_is_kept_makes_up_for_those_before_it() -> None:
    assert outcome(HOURLY, START + 2 * HOUR + 5) == [(0, "skipped"), (1, "skipped"), (2, "waiting")]


def test_years_of_missed_times_are_not_counted_one_by_one() -> None:
    queued = outcome(with_policies(Policy.QUEUE, Policy.QUEUE), START + 20_000 * HOUR + HOUR // 2)
    assert [state for _, state in queued].count("waiting") == rules.MOST_WAITING
    assert len(queued) == rules.MOST_WAITING + 1


def test_a_full_queue_takes_no_more() -> None:
    assert outcome(HOURLY, START + 1, rules.MOST_WAITING - 1) == [(0, "waiting")]
    assert outcome(HOURLY, START + 1, rules.MOST_WAITING) == [(0, "skipped")]


def test_jitter_delays_the_start_and_not_the_due_time() -> None:
    (run,) = due_runs(with_policies(jitter=60), START + 1000, 0.25).runs
    assert (run.due_ms, run.start_ms) == (START, START + 16_000)


@pytest.mark.parametrize(
    ("overlap", "busy", "later", "skipped"),
    [
        (Policy.SKIP, False, True, ""),
        (Policy.SKIP, True, False, rules.OVERLAPPED),
        (Policy.RUN_ONCE, True, False, ""),
        (Policy.RUN_ONCE, True, True, rules.REPLACED),
        (Policy.RUN_ONCE, False, True, ""),
        (Policy.QUEUE, True, True, ""),
    ],
)
def test_overlapping_runs(overlap: Policy, busy: bool, later: bool, skipped: str) -> None:
    assert skipped_reason(ReadyRun(with_policies(overlap=overlap), Run("S", START), busy), later) == skipped


def test_a_paused_schedule_starts_nothing_but_what_is_requested() -> None:
    paused = replace(HOURLY, next_due_ms=None)
    assert skipped_reason(ReadyRun(paused, Run("S", START), False), False) == rules.PAUSED
    assert skipped_reason(ReadyRun(paused, Run("S", START, manual=True), False), False) == ""


def test_one_that_may_have_started_is_not_skipped() -> None:
    starting = Run("S", START, status=RunStatus.STARTING)
    assert skipped_reason(ReadyRun(replace(HOURLY, next_due_ms=None), starting, True), True) == ""


def test_backoff_doubles_up_to_a_day() -> None:
    assert [backoff_ms(60, attempt, 0) for attempt in range(3)] == [60_000, 120_000, 240_000]
    assert backoff_ms(60, 0, 1) == 66_000
    assert backoff_ms(3600, 10, 0) == 86_400_000


@pytest.mark.parametrize("status", RunStatus)
def test_what_failed_is_tried_again(status: RunStatus) -> None:
    again = retry(with_policies(retries=2), Run("S", START, 1, status=status, execution="E"), START, 0)
    failed = status in {"failed", "timed_out", "lost"}
    assert again == (Run("S", START, 2, START + 120_000) if failed else None)
    assert retry(with_policies(retries=2), Run("S", START, 2, status=status), START, 0) is None


def test_what_a_limit_refused_is_tried_again() -> None:
    refused = Run("S", START, status=RunStatus.DENIED)
    assert retry(with_policies(retries=1), refused, START, 0, limited=True) == Run("S", START, 1, START + 60_000)


def test_the_next_times() -> None:
    assert upcoming(HOURLY, START - 1) == tuple(START + hour * HOUR for hour in range(5))
    assert upcoming(HOURLY, START + 1)[0] == START + HOUR
    assert upcoming(replace(HOURLY, next_due_ms=None), START) == ()
