"""Starts what schedules have due, on any of the servers, and records what became of it."""

import hashlib
from collections.abc import Callable

from backend.application.executions import ExecutionService
from backend.application.owned import Users
from backend.application.submission import CommandSpec, Existing, IdempotencyKey
from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused, Waiting
from backend.core.execution.targets import TargetRef
from backend.core.identity import acting_as
from backend.core.schedules.cron import CronError
from backend.core.schedules.model import ReadyRun, Run, RunStatus, Schedule
from backend.core.schedules.ports import Schedules
from backend.core.schedules.rules import claimed, due_runs, retry, skipped_reason

BATCH = 256  # rows that are read at once
# A run that is refused by one of these is submitted again when its claim has ended, by any server.
UNDECIDED = frozenset({"storage.unavailable", "server.stopping", "idempotency.waiting"})
DISABLED = "The account of its owner is disabled."


@dataclass(frozen=True, slots=True)
class ScheduleRunner:
    """Runs schedules on this server. `random` returns numbers from 0 to 1; `unavailable` says why nothing can run now.

    `on_error` is called for a schedule whose expression or zone cannot be used any more, which is paused.
    """

    store: Schedules
    service: ExecutionService
    users: Users
    unavailable: Callable[[], Decision | None]
    now_ms: Callable[[], int]
    random: Callable[[], float]
    on_error: Callable[[Schedule, CronError], None]

    async def run_once(self) -> None:
        """Record what has ended, store what is due, and start what may start. Raises StorageError."""
        if not await self.store.has_work(self.now_ms()):
            return
        await self._settle_ended()
        await self._store_due()
        await self.start_ready()

    async def _store_due(self) -> None:
        now = self.now_ms()
        for schedule, waiting in await self.store.due(now, BATCH):
            try:
                due = due_runs(schedule, now, self.random(), waiting)
            except CronError as error:
                self.on_error(schedule, error)
                await self.store.replace(schedule, replace(schedule, next_due_ms=None))
            else:
                await self.store.advance(schedule, due)

    async def start_ready(self, schedule_id: str = "") -> None:
        """Start the runs that may start, of one schedule or of all. Raises StorageError."""
        if self.unavailable():
            return
        ready = [each for each in await self.store.ready(self.now_ms(), BATCH) if schedule_id in ("", each.schedule.id)]
        for each in ready:
            later = any(
                other.run.schedule_id == each.run.schedule_id and other.run.key > each.run.key for other in ready
            )
            if reason := skipped_reason(each, later):
                await self.store.settle(each.run, replace(each.run, status=RunStatus.SKIPPED, reason=reason))
            elif not each.busy:
                await self._start(each)

    async def _start(self, ready: ReadyRun) -> None:
        run = claimed(ready.run, self.now_ms())
        if not await self.store.claim(ready.run, run):
            return
        owner = await self.users.user(ready.schedule.owner_id)
        if owner is None:
            await self._refuse(
                ready.schedule, run, Refused(Decision.deny("schedule.owner", "Its owner does not exist."))
            )
            return
        answer = await self.service.submit(acting_as(owner), _spec(ready.schedule), _once(run))
        match answer:
            case Execution(id=id) | Waiting(id=id) | Existing(id=id):
                await self.store.settle(run, replace(run, status=RunStatus.RUNNING, execution=id))
            case Refused(decision) if decision.rule in UNDECIDED:
                pass
            case Refused():
                await self._refuse(ready.schedule, run, answer, DISABLED if owner.disabled else "")

    async def _refuse(self, schedule: Schedule, run: Run, refused: Refused, reason: str = "") -> None:
        decision = refused.decision
        text = f"{reason or decision.reason} [{decision.rule}]"
        new = replace(run, status=RunStatus.DENIED, execution=refused.execution or None, reason=text)
        again = retry(schedule, new, self.now_ms(), self.random(), limited=bool(decision.retry_after))
        await self.store.settle(run, new, again)

    async def _settle_ended(self) -> None:
        for ended in await self.store.ended(BATCH):
            new = replace(ended.run, status=ended.status)
            await self.store.settle(ended.run, new, retry(ended.schedule, new, self.now_ms(), self.random()))


def _spec(schedule: Schedule) -> CommandSpec:
    what = schedule.what
    return CommandSpec(
        what.command,
        TargetRef.parse(what.target),
        cwd=what.working_dir,
        timeout=what.timeout,
        detached=True,
        schedule=schedule.id,
    )


def _once(run: Run) -> IdempotencyKey:
    """The key of a run: a server that takes it over finds the execution that it has started."""
    return IdempotencyKey(run.name, hashlib.sha256(run.name.encode()).digest())
