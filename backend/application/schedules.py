"""The use cases of schedules: every front is a translation of them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from backend.application import owned
from backend.application.owned import Users, is_owner
from backend.application.submission import CommandSpec
from backend.core.audit.events import Kind
from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision
from backend.core.execution.gateway import check_role
from backend.core.execution.targets import TargetRef
from backend.core.identity import Principal, acting_as
from backend.core.policy.admit import Plan
from backend.core.ports import AuditLog
from backend.core.schedules.cron import Cron, CronError
from backend.core.schedules.model import LONGEST_SCHEDULE_NAME, Policy, Run, Schedule, What, When
from backend.core.schedules.ports import RunPage, Schedules

UNKNOWN = "schedule.unknown"
TRIES = 5  # of a change, while the schedule moves on to its next due time
OF_OWNER = frozenset({"name", *What.__slots__, *When.__slots__})  # what only its owner may change


class Judge(Protocol):
    """Judges a command without running it."""

    async def explain(self, who: Principal, spec: CommandSpec) -> Plan | Decision: ...


@dataclass(frozen=True, slots=True)
class ScheduleLimits:
    """How many schedules an account may have, and the shortest interval in seconds."""

    most: int
    shortest: int


@dataclass(frozen=True, slots=True)
class ScheduleService:
    """What clients do with schedules. `start` starts what waits of one; `audit` masks secrets."""

    store: Schedules
    judge: Judge
    users: Users
    start: Callable[[str], Awaitable[None]]
    audit: AuditLog
    bounds: ScheduleLimits
    now_ms: Callable[[], int]
    new_id: Callable[[], str]

    async def add(
        self, who: Principal, owner: Principal, name: str, what: What, when: When, *, paused: bool = False
    ) -> Schedule | Decision:
        """Add a schedule of an account; `who` asks for it. Raises StorageError."""
        assert owner.user
        if refusal := _name_refusal(name) or await self._refusal(owner, what, when):
            return refusal
        now = self.now_ms()
        next_due = None if paused else Cron.parse(when.cron, when.zone).next_after(now)
        schedule = Schedule(self.new_id(), owner.user.id, name, what, when, now, next_due)
        if not await self.store.add(schedule, self.bounds.most):
            return Decision.deny(
                "schedule.too_many",
                f"An account can have {self.bounds.most} schedules.",
                "Delete one that is no longer needed.",
            )
        await self._record(Kind.SCHEDULE_CREATED, who, schedule)
        return schedule

    async def get(self, who: Principal, id: str) -> Schedule | Decision:
        """A schedule that exists for the caller: its own, or any for an administrator. Raises StorageError."""
        return await owned.find(who, self.store, id, UNKNOWN)

    async def visible_to(self, who: Principal) -> Sequence[Schedule]:
        """The schedules that exist for the caller, the oldest first. Raises StorageError."""
        return await owned.visible_to(who, self.store)

    async def change(self, who: Principal, id: str, changes: Mapping[str, Any]) -> Schedule | Decision:
        """Change fields of `Schedule`, `What` and `When` by their names. Raises StorageError."""
        for _ in range(TRIES):
            found = await self.get(who, id)
            if isinstance(found, Decision):
                return found
            new = await self._changed(who, found, changes)
            if isinstance(new, Decision):
                return new
            if await self.store.replace(found, new):
                await self._record(Kind.SCHEDULE_CHANGED, who, new)
                return new
        return owned.unknown(UNKNOWN, id)

    async def _changed(self, who: Principal, old: Schedule, changes: Mapping[str, Any]) -> Schedule | Decision:
        if refusal := _name_refusal(changes.get("name", old.name)):
            return refusal
        if OF_OWNER & changes.keys() and not is_owner(who, old) and who.user:
            return Decision.deny("role.forbidden", "Only its owner can change what a schedule runs, and when.")
        what = replace(old.what, **{name: changes[name] for name in What.__slots__ if name in changes})
        when = replace(old.when, **{name: changes[name] for name in When.__slots__ if name in changes})
        paused = changes.get("paused", old.paused)
        resumed = old.paused and not paused
        changed = (what, when) != (old.what, old.when)
        if (changed or resumed) and (refusal := await self._refused(who, old, what, when)):
            return refusal
        new = replace(old, name=changes.get("name", old.name), what=what, when=when)
        if paused:
            return replace(new, next_due_ms=None)
        if resumed or when != old.when:
            return replace(new, next_due_ms=Cron.parse(when.cron, when.zone).next_after(self.now_ms()))
        return new

    async def _refused(self, who: Principal, schedule: Schedule, what: What, when: When) -> Decision | None:
        """Why the owner of a schedule cannot have it changed so."""
        if is_owner(who, schedule):
            return await self._refusal(who, what, when)
        owner = await self.users.user(schedule.owner_id)
        return await self._refusal(acting_as(owner), what, when) if owner else owned.unknown(UNKNOWN, schedule.id)

    async def delete(self, who: Principal, id: str) -> Schedule | Decision:
        """Delete a schedule with its runs; its executions stay in the history. Raises StorageError."""
        found = await self.get(who, id)
        if isinstance(found, Decision):
            return found
        if not await self.store.delete(id):
            return owned.unknown(UNKNOWN, id)
        await self._record(Kind.SCHEDULE_DELETED, who, found)
        return found

    async def run_now(self, who: Principal, id: str) -> Run | Decision:
        """Request a run. It acts as the owner, and follows the policy for overlapping runs. Raises StorageError."""
        found = await self.get(who, id)
        if isinstance(found, Decision):
            return found
        run = Run(id, self.now_ms(), start_ms=self.now_ms(), manual=True)
        while not await self.store.add_run(run):  # one is due in the same millisecond, or the schedule is gone
            if await self.store.get(id) is None:
                return owned.unknown(UNKNOWN, id)
            run = replace(run, due_ms=run.due_ms + 1)
        await self._record(Kind.SCHEDULE_RUN, who, found)
        await self.start(id)
        latest = await self.store.runs(RunPage(id, run.due_ms + 1, 1))
        return latest[0] if latest else run

    async def runs(self, who: Principal, page: RunPage) -> Sequence[Run] | Decision:
        """The runs of a schedule, newest first. Raises StorageError."""
        found = await self.get(who, page.schedule_id)
        return found if isinstance(found, Decision) else await self.store.runs(page)

    async def _refusal(self, owner: Principal, what: What, when: When) -> Decision | None:
        """Why an account cannot have such a schedule."""
        timing = await asyncio.to_thread(self._timing_refusal, when)
        if refusal := timing or check_role(owner):
            return refusal
        spec = CommandSpec(what.command, TargetRef.parse(what.target), cwd=what.working_dir, timeout=what.timeout)
        verdict = await self.judge.explain(owner, spec)
        return verdict if isinstance(verdict, Decision) and not verdict.allowed else None

    def _timing_refusal(self, when: When) -> Decision | None:
        try:
            shortest = Cron.parse(when.cron, when.zone).shortest_interval(self.now_ms()) // 1000
        except CronError as error:
            hint = "For example `30 2 * * *` in Europe/Berlin: every night at half past two."
            return Decision.deny("schedule.cron", f"The schedule cannot be used: {error}.", hint)
        if shortest < self.bounds.shortest:
            reason = f"It is due again after {shortest} s; the shortest interval is {self.bounds.shortest} s."
            return Decision.deny("schedule.interval", reason, "Choose fewer minutes or hours.")
        if when.missed is Policy.QUEUE and when.overlap is not Policy.QUEUE:
            reason = "Missed runs can wait in a queue only where overlapping runs do."
            return Decision.deny("schedule.policy", reason, "Set overlap to queue too, or missed to run_once.")
        return None

    async def _record(self, kind: Kind, who: Principal, schedule: Schedule) -> None:
        fields = {
            "schedule": schedule.id,
            "owner": schedule.owner_id,
            "name": schedule.name,
            "paused": schedule.paused,
            **asdict(schedule.what),
            **asdict(schedule.when),
        }
        await self.audit.record(kind, who.name, who.address, fields)


def _name_refusal(name: str) -> Decision | None:
    if 0 < len(name) <= LONGEST_SCHEDULE_NAME and name.isprintable():
        return None
    reason = f"The name of a schedule has 1 to {LONGEST_SCHEDULE_NAME} printable characters."
    return Decision.deny("schedule.name", reason, "Choose another one.")
