"""Schedules and their runs in memory, shared by all servers of a process."""

from collections.abc import Sequence
from dataclasses import field

from backend.core.dataclasses import dataclass, replace
from backend.core.schedules.model import Ended, Policy, ReadyRun, Run, RunStatus, Schedule
from backend.core.schedules.ports import RunPage
from backend.core.schedules.rules import Due
from backend.storage.memory.executions import MemoryExecutions

MAY_START = frozenset({RunStatus.WAITING, RunStatus.STARTING})


@dataclass(slots=True)
class MemorySchedules:
    """The schedules of a service; see `Schedules`."""

    executions: MemoryExecutions
    schedules: dict[str, Schedule] = field(default_factory=dict)
    all_runs: dict[tuple[str, int, int], Run] = field(default_factory=dict)

    async def add(self, schedule: Schedule, most: int) -> bool:
        """False if its owner has `most` schedules already."""
        if len(await self.of(schedule.owner_id)) >= most:
            return False
        self.schedules[schedule.id] = schedule
        return True

    async def get(self, id: str) -> Schedule | None:
        """A schedule, None if there is none."""
        return self.schedules.get(id)

    async def of(self, owner_id: str | None) -> Sequence[Schedule]:
        """Those of an account, or all; the oldest first."""
        return [each for _, each in sorted(self.schedules.items()) if owner_id in (None, each.owner_id)]

    async def replace(self, old: Schedule, new: Schedule) -> bool:
        """Change a schedule. False if it is due at another time by now, or does not exist (any more)."""
        now = self.schedules.get(old.id)
        if now is None or now.next_due_ms != old.next_due_ms:
            return False
        self.schedules[new.id] = new
        return True

    async def delete(self, id: str) -> bool:
        """Delete a schedule with its runs; False if there is none."""
        self.all_runs = {key: run for key, run in self.all_runs.items() if run.schedule_id != id}
        return self.schedules.pop(id, None) is not None

    async def has_work(self, now_ms: int) -> bool:
        """Whether a schedule is due, a run may start, or one is on record as running."""
        runs = self.all_runs.values()
        started = any(run.status is RunStatus.RUNNING for run in runs)
        return started or bool(await self.due(now_ms, 1)) or any(_may_start(run, now_ms) for run in runs)

    async def due(self, now_ms: int, limit: int) -> Sequence[tuple[Schedule, int]]:
        """The schedules whose next due time has come, the longest due first, with how many runs of each wait."""
        found = [(each.next_due_ms, each) for each in self.schedules.values() if each.next_due_ms is not None]
        due = sorted((when, each.id, each) for when, each in found if when <= now_ms)
        return [(each, self._waiting(each.id)) for _, _, each in due][:limit]

    async def advance(self, schedule: Schedule, due: Due) -> bool:
        """Store the runs of due times and the next due time. False if another server was first, or it has changed."""
        now = self.schedules.get(schedule.id)
        if now is None or now.next_due_ms != schedule.next_due_ms:
            return False
        self.schedules[schedule.id] = replace(now, next_due_ms=due.next_due_ms)
        self.all_runs = {run.key: run for run in due.runs} | self.all_runs
        return True

    async def add_run(self, run: Run) -> bool:
        """False if the schedule does not exist, or the run does."""
        if run.schedule_id not in self.schedules or run.key in self.all_runs:
            return False
        self.all_runs[run.key] = run
        return True

    async def ready(self, now_ms: int, limit: int) -> Sequence[ReadyRun]:
        """Runs that may start, the oldest first, and those that a dead server was submitting."""
        runs = [run for run in self.all_runs.values() if run.status in MAY_START and run.start_ms <= now_ms]
        found = [
            ReadyRun(self.schedules[run.schedule_id], run, self._busy(run))
            for run in sorted(runs, key=lambda run: (run.start_ms, run.key))
        ]
        return [each for each in found if not (each.busy and each.schedule.when.overlap is Policy.QUEUE)][:limit]

    async def ended(self, limit: int) -> Sequence[Ended]:
        """Runs on record as running whose executions have ended, or are no longer stored."""
        running = sorted(
            (run for run in self.all_runs.values() if run.status is RunStatus.RUNNING), key=lambda run: run.start_ms
        )
        found = [(run, self._status(run)) for run in running]
        return [Ended(self.schedules[run.schedule_id], run, status) for run, status in found if status][:limit]

    def _status(self, run: Run) -> RunStatus | None:
        """How the execution of a run has ended; None if it has not."""
        row = self.executions.rows.get(run.execution or "")
        if row is None:
            return RunStatus.LOST
        return RunStatus.of(row.status) if row.status.is_final else None

    async def claim(self, old: Run, new: Run) -> bool:
        """Replace a run that may start by `new`. False if it has changed, or another run of its schedule is active."""
        return not self._busy(old) and self._replaced(old, new)

    async def settle(self, old: Run, new: Run, retry: Run | None = None) -> bool:
        """Replace a run by `new`, and add its retry. False if it has changed."""
        return self._replaced(old, new, retry)

    def _replaced(self, old: Run, new: Run, retry: Run | None = None) -> bool:
        now = self.all_runs.get(old.key)
        if now is None or (now.status, now.start_ms) != (old.status, old.start_ms):
            return False
        self.all_runs |= {run.key: run for run in (new, retry) if run}
        return True

    async def runs(self, page: RunPage) -> Sequence[Run]:
        """The runs of a schedule, newest first."""
        found = [run for _, run in sorted(self.all_runs.items(), reverse=True) if run.schedule_id == page.schedule_id]
        return [run for run in found if page.before_ms is None or run.due_ms < page.before_ms][: page.limit]

    async def prune(self, before_ms: int) -> int:
        """Delete ended runs that were due before a time; returns how many."""
        old = [key for key, run in self.all_runs.items() if run.due_ms < before_ms and run.status.is_final]
        for key in old:
            del self.all_runs[key]
        return len(old)

    def _busy(self, run: Run) -> bool:
        others = (each for each in self.all_runs.values() if each.schedule_id == run.schedule_id)
        return any(each.status.is_active and each.key != run.key for each in others)

    def _waiting(self, schedule: str) -> int:
        own = (run for run in self.all_runs.values() if run.schedule_id == schedule)
        return sum(run.status is RunStatus.WAITING for run in own)


def _may_start(run: Run, now_ms: int) -> bool:
    return run.status in MAY_START and run.start_ms <= now_ms
