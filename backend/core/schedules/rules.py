"""The rules of schedules: functions of times and random numbers, which are passed in."""

from collections.abc import Sequence
from itertools import islice

from backend.core.dataclasses import dataclass, replace
from backend.core.schedules.cron import Cron
from backend.core.schedules.model import Policy, ReadyRun, Run, RunStatus, Schedule

ON_TIME = 60_000  # milliseconds after which a due time counts as missed: no server was there
MOST_WAITING = 100  # runs that a schedule may have waiting
CLAIM = 30_000  # milliseconds after which a run whose server died while submitting it is taken over
LONGEST_BACKOFF = 86_400  # seconds
RETRIED = frozenset({RunStatus.FAILED, RunStatus.TIMED_OUT, RunStatus.LOST})
MISSED = "No server was running when it was due."
OVERLAPPED = "Another run of the schedule was still going on."
REPLACED = "A later run of the schedule makes up for it."
FULL = f"{MOST_WAITING} runs of the schedule were waiting already."
PAUSED = "The schedule was paused."


@dataclass(frozen=True, slots=True)
class Due:
    """What becomes of the due times that have come: runs that wait or are skipped, and the next due time."""

    runs: tuple[Run, ...]
    next_due_ms: int | None


def due_runs(schedule: Schedule, now_ms: int, random: float, waiting: int = 0) -> Due:
    """The runs of a schedule that is due and has `waiting` ones already: one for each of its due times, MOST_WAITING at most."""
    assert schedule.next_due_ms is not None
    cron = Cron.parse(schedule.when.cron, schedule.when.zone)
    later = (due for due in islice(cron.after(schedule.next_due_ms), MOST_WAITING) if due <= now_ms)
    times = [schedule.next_due_ms, *later]
    missed = [due for due in times if due < now_ms - ON_TIME]
    runs = [_waiting(schedule, due, now_ms, random) for due in times if due not in missed]
    runs = [*_missed(schedule, missed, now_ms, covered=bool(runs)), *runs]
    room = MOST_WAITING - waiting
    full = [_skipped(schedule, run.due_ms, FULL) for run in runs[max(room, 0) :]]
    return Due((*runs[: max(room, 0)], *full), cron.next_after(now_ms))


def _missed(schedule: Schedule, times: Sequence[int], now_ms: int, *, covered: bool) -> tuple[Run, ...]:
    """The runs of missed times; `covered` when another one follows at once."""
    match schedule.when.missed:
        case Policy.QUEUE:
            return tuple(Run(schedule.id, due, start_ms=now_ms) for due in times)
        case Policy.RUN_ONCE if times and not covered:
            skipped = (_skipped(schedule, due, REPLACED) for due in times[:-1])
            return (*skipped, Run(schedule.id, times[-1], start_ms=now_ms))
        case _:
            return tuple(_skipped(schedule, due, MISSED) for due in times)


def _waiting(schedule: Schedule, due: int, now_ms: int, random: float) -> Run:
    return Run(schedule.id, due, start_ms=max(now_ms, due) + int(schedule.when.jitter * 1000 * random))


def _skipped(schedule: Schedule, due: int, reason: str) -> Run:
    return Run(schedule.id, due, start_ms=due, status=RunStatus.SKIPPED, reason=reason)


def skipped_reason(ready: ReadyRun, later: bool) -> str:
    """Why a run must not start; empty if it may, now or when the active one has ended. `later`: there is a later one."""
    if ready.run.status is RunStatus.STARTING:
        return ""
    if ready.schedule.paused and not ready.run.manual:
        return PAUSED
    match ready.schedule.when.overlap:
        case Policy.SKIP if ready.busy:
            return OVERLAPPED
        case Policy.RUN_ONCE if ready.busy and later:
            return REPLACED
        case _:
            return ""


def retry(schedule: Schedule, run: Run, now_ms: int, random: float, *, limited: bool = False) -> Run | None:
    """The run that tries again what has failed, or was refused by a limit; None if it is not tried again."""
    if not (run.status in RETRIED or limited) or run.attempt >= schedule.when.retries:
        return None
    start = now_ms + backoff_ms(schedule.when.retry_delay, run.attempt, random)
    return Run(run.schedule_id, run.due_ms, run.attempt + 1, start, manual=run.manual)


def backoff_ms(delay: int, attempt: int, random: float) -> int:
    """Milliseconds until the next attempt: twice as long each time, and up to a tenth more, so that not all come at once."""
    return int(min(delay * 2**attempt, LONGEST_BACKOFF) * 1000 * (1 + random / 10))


def upcoming(schedule: Schedule, now_ms: int, count: int = 5) -> tuple[int, ...]:
    """The next due times; none while it is paused."""
    if schedule.next_due_ms is None:
        return ()
    cron = Cron.parse(schedule.when.cron, schedule.when.zone)
    return tuple(islice(cron.after(max(now_ms, schedule.next_due_ms - 1)), count))


def claimed(run: Run, now_ms: int) -> Run:
    """A run that this server submits now."""
    return replace(run, status=RunStatus.STARTING, start_ms=now_ms + CLAIM)
