"""The execution log and the ownership of one server, over rows and events in memory."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import field

from backend.core.audit import execution_events as events
from backend.core.audit.attempts import Attempt, Completion, Record
from backend.core.audit.execution_events import Draft
from backend.core.audit.suppression import RefusalSuppressor, SuppressedRefusals
from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.model import Status
from backend.core.execution.ownership import RELEASED, Holdings, lease_until
from backend.core.ports import ActorLike, QueuedExecution
from backend.storage.memory.audit_log import MemoryAuditLog
from backend.storage.memory.executions import MemoryExecutions, Row
from backend.storage.refusal_filter import ITSELF, RefusalFilter


@dataclass(slots=True)
class MemoryExecutionLog:
    """The log of the server `owner`, whose recordings are in the data folder `folder`; see `ExecutionLog`."""

    executions: MemoryExecutions
    audit: MemoryAuditLog
    now_ms: Callable[[], int]
    owner: str
    folder: str
    holdings: Holdings = field(default_factory=Holdings)
    floods: RefusalSuppressor = field(default_factory=RefusalSuppressor)
    _unwritten: dict[str, tuple[Attempt, Completion]] = field(default_factory=dict)
    _refusals: RefusalFilter = field(init=False)

    def __post_init__(self) -> None:
        self._refusals = RefusalFilter(self.floods, self.now_ms, self._report_flood)

    async def refuse(self, attempt: Attempt) -> None:
        """Write a refused request; of a flood, only the beginning."""
        if self._refusals.admits(attempt):
            self.executions.add(Row(Record(**attempt.columns(Status.DENIED, self.now_ms(), self.folder, None))))
            self._append(attempt.principal, events.refused(attempt))

    def _report_flood(self, flood: SuppressedRefusals) -> None:
        self.audit.append(events.suppressed(flood), ITSELF, flood.key[1])

    async def open(self, attempt: Attempt) -> None:
        """Write a command that is about to run here."""
        now = self.now_ms()
        record = Record(**attempt.columns(Status.RUNNING, now, self.folder, self.owner))
        self.executions.add(Row(record, lease_until(now)))
        self._append(attempt.principal, *events.opened(attempt))
        self.holdings.add(attempt.id)

    async def step(
        self, execution: str, actor: ActorLike, argvs: tuple[tuple[str, ...], ...], decision: Decision
    ) -> None:
        """Write a later step that is about to run with words other than those judged first."""
        self.executions.check()
        self._append(actor, events.stepped(execution, argvs, decision))

    async def close(self, attempt: Attempt, completion: Completion) -> bool:
        """Write the end of an execution. False if it was no longer recorded as running: then nothing is written."""
        self.holdings.ending(attempt.id)
        try:
            return self._write_end(attempt, completion)
        except StorageError:
            self._unwritten[attempt.id] = attempt, completion
            raise

    def _write_end(self, attempt: Attempt, completion: Completion) -> bool:
        row = self.executions.rows.get(attempt.id)
        self.holdings.remove(attempt.id)
        self._unwritten.pop(attempt.id, None)
        if row is None or row.status is not Status.RUNNING:
            return False
        row.end(completion)
        self._append(attempt.principal, *events.closed(attempt.id, completion, self.folder))
        return True

    async def retry_unwritten(self) -> int:
        """Try again to write the completions that could not be written; returns how many now are. Raises nothing."""
        if self.executions.outage:
            return 0
        waiting = list(self._unwritten.values())
        for attempt, completion in waiting:
            self._write_end(attempt, completion)
        return len(waiting)

    def close_floods(self) -> None:
        """Report the floods that were counted."""
        self._refusals.close()

    def _append(self, actor: ActorLike, *drafts: Draft) -> None:
        for draft in drafts:
            self.audit.append(draft, actor.name, actor.address)


@dataclass(frozen=True, slots=True)
class MemoryOwnership:
    """The ownership of the server that writes `log`; see `Ownership`."""

    log: MemoryExecutionLog

    @property
    def owner(self) -> str:
        return self.log.owner

    async def renew(self) -> frozenset[str]:
        """Extend the leases of all executions that run here; returns the ids of those that this server has lost."""
        held, until = self.log.holdings.ids, lease_until(self.log.now_ms())
        running = [row for row in self._running() if row.record.id in held and row.record.owner == self.owner]
        for row in running:
            row.lease_until_ms = until
        return self.log.holdings.lost(held, frozenset(row.record.id for row in running))

    async def expired(self, before_ms: int) -> Sequence[Record]:
        """Running executions whose lease ended at `before_ms` or earlier; the oldest first."""
        return [row.record for row in self._running() if _is_expired(row, before_ms)]

    async def close_expired(self, record: Record, before_ms: int, completion: Completion) -> bool:
        """Record the end of an execution that `expired` returned; False when it is not expired (any more)."""
        row = self.log.executions.rows.get(record.id)
        if row is None or row.status is not Status.RUNNING or not _is_expired(row, before_ms):
            return False
        self._end(row, completion)
        return True

    async def requeue(self, record: Record, before_ms: int) -> bool:
        """Have a server take up an execution that `expired` returned; False when it is not expired (any more)."""
        row = self.log.executions.rows.get(record.id)
        return row is not None and _is_expired(row, before_ms) and self._queue_again(row)

    async def hand_over(self, execution: str) -> bool:
        """Have another server take up an execution of this one."""
        self.log.holdings.remove(execution)
        row = self.log.executions.rows.get(execution)
        return row is not None and row.record.owner == self.owner and self._queue_again(row)

    def _queue_again(self, row: Row) -> bool:
        if row.status is not Status.RUNNING:
            return False
        row.record = replace(row.record, status=Status.QUEUED, owner=None)
        row.lease_until_ms = None
        return True

    async def release_dead(self, owners: Collection[str]) -> None:
        """End the leases of owners whose processes have ended."""
        for row in self._running():
            if row.record.owner in owners:
                row.lease_until_ms = RELEASED

    async def enqueue(self, attempt: Attempt, job: str) -> None:
        """Record an execution that waits for an owner."""
        record = Record(**attempt.columns(Status.QUEUED, self.log.now_ms(), self.log.folder, None))
        self.log.executions.add(Row(record, job=job))
        self.log.audit.append(events.submitted(attempt), attempt.principal.name, attempt.principal.address)

    async def queued(self, targets: Collection[str], limit: int) -> Sequence[QueuedExecution]:
        """Up to `limit` executions of these targets that wait, the oldest first."""
        waiting = self.log.executions.with_status(Status.QUEUED)
        return [QueuedExecution(row.record, row.job or "") for row in waiting if row.record.target in targets][:limit]

    async def waiting(self, execution: str) -> QueuedExecution | None:
        """An execution that waits."""
        row = self.log.executions.rows.get(execution)
        return QueuedExecution(row.record, row.job or "") if row and row.status is Status.QUEUED else None

    async def claim(self, execution: str) -> bool:
        """Take over an execution that waits; False when it does not wait (any more)."""
        row = self.log.executions.rows.get(execution)
        if row is None or row.status is not Status.QUEUED:
            return False
        row.job = None
        row.record = replace(row.record, status=Status.RUNNING, owner=self.owner, folder=self.log.folder)
        row.lease_until_ms = lease_until(self.log.now_ms())
        self.log.audit.append(events.claimed(execution), row.record.principal, "")
        self.log.holdings.add(execution)
        return True

    async def cancel_queued(self, execution: str, completion: Completion) -> bool:
        """End an execution that still waits; False when it does not wait (any more)."""
        row = self.log.executions.rows.get(execution)
        if row is None or row.status is not Status.QUEUED:
            return False
        self._end(row, completion)
        return True

    def _end(self, row: Row, completion: Completion) -> None:
        row.end(completion)
        for draft in events.closed(row.record.id, completion, self.log.folder):
            self.log.audit.append(draft, row.record.principal, "")

    def _running(self) -> list[Row]:
        return self.log.executions.with_status(Status.RUNNING)


def _is_expired(row: Row, before_ms: int) -> bool:
    return row.lease_until_ms is not None and row.lease_until_ms <= before_ms
