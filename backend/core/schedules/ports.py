"""What schedules need of storage. Every method raises StorageError."""

from collections.abc import Sequence
from typing import Protocol

from backend.core.dataclasses import dataclass
from backend.core.schedules.model import Ended, ReadyRun, Run, Schedule
from backend.core.schedules.rules import Due


@dataclass(frozen=True, slots=True)
class RunPage:
    """Which runs of a schedule: due before a time, newest first, `limit` at most."""

    schedule_id: str
    before_ms: int | None = None
    limit: int = 50


class Schedules(Protocol):
    """The schedules and their runs, shared by all servers. Of several servers that change the same, one does."""

    async def add(self, schedule: Schedule, most: int) -> bool:
        """False if its owner has `most` schedules already."""
        ...

    async def get(self, id: str) -> Schedule | None: ...

    async def of(self, owner_id: str | None) -> Sequence[Schedule]:
        """Those of an account, or all; the oldest first."""
        ...

    async def replace(self, old: Schedule, new: Schedule) -> bool:
        """Change a schedule. False if it is due at another time by now, or does not exist (any more)."""
        ...

    async def delete(self, id: str) -> bool:
        """Delete a schedule with its runs; False if there is none."""
        ...

    async def has_work(self, now_ms: int) -> bool:
        """Whether a schedule is due, a run may start, or one is on record as running. Asked every second."""
        ...

    async def due(self, now_ms: int, limit: int) -> Sequence[tuple[Schedule, int]]:
        """The schedules whose next due time has come, the longest due first, with how many runs of each wait."""
        ...

    async def advance(self, schedule: Schedule, due: Due) -> bool:
        """Store the runs of due times and the next due time. False if another server was first, or it has changed."""
        ...

    async def add_run(self, run: Run) -> bool:
        """False if the schedule does not exist, or the run does."""
        ...

    async def ready(self, now_ms: int, limit: int) -> Sequence[ReadyRun]:
        """Runs that may start, the oldest first, and those that a dead server was submitting.

        Those that wait in the queue of a schedule are left out while a run of it is active.
        """
        ...

    async def ended(self, limit: int) -> Sequence[Ended]:
        """Runs on record as running whose executions have ended, or are no longer stored."""
        ...

    async def claim(self, old: Run, new: Run) -> bool:
        """Replace a run that may start by `new`. False if it has changed, or another run of its schedule is active."""
        ...

    async def settle(self, old: Run, new: Run, retry: Run | None = None) -> bool:
        """Replace a run by `new`, and add its retry. False if it has changed."""
        ...

    async def runs(self, page: RunPage) -> Sequence[Run]: ...

    async def prune(self, before_ms: int) -> int:
        """Delete ended runs that were due before a time; returns how many."""
        ...
