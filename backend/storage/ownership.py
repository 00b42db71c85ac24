"""Which server runs an execution, in the database: leases, and executions that wait for an owner."""

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, select, update

from backend.core.audit import execution_events as events
from backend.core.audit.attempts import Attempt, Completion, Record
from backend.core.audit.events import Event
from backend.core.dataclasses import dataclass
from backend.core.execution.model import Status
from backend.core.execution.ownership import RELEASED, Holdings, lease_until
from backend.core.ports import QueuedExecution
from backend.storage.commit_queue import CommitQueue
from backend.storage.database import changes, first, rows
from backend.storage.execution_rows import COLUMNS, closing, new_row, record_of
from backend.storage.tables import executions as table

RUNNING = table.c.status == str(Status.RUNNING)
QUEUED = table.c.status == str(Status.QUEUED)

RENEW = (
    update(table)
    .where(table.c.id.in_(bindparam("ids", expanding=True)), table.c.owner == bindparam("of"), RUNNING)
    .values(lease_until_ms=bindparam("until"))
    .returning(table.c.id)
)
CLAIM = (
    update(table)
    .where(table.c.id == bindparam("key"), QUEUED)
    .values(
        status=str(Status.RUNNING),
        owner=bindparam("new_owner"),
        folder=bindparam("new_folder"),
        lease_until_ms=bindparam("until"),
        job=None,  # its command line is not masked
    )
    .returning(table.c.principal)
)
WAITING = select(*COLUMNS, table.c.job).where(QUEUED)
WAITS = WAITING.where(table.c.id == bindparam("key"))
WAIT_FOR = WAITING.where(table.c.target == bindparam("of")).order_by(table.c.id).limit(bindparam("limit"))


@dataclass(frozen=True, slots=True)
class SqlOwnership:
    """The executions of this server process, whose id is `owner`. Every method raises StorageError.

    `folder` is the id of its data folder; the execution log adds to `holdings` and removes from it.
    """

    queue: CommitQueue
    owner: str
    folder: str
    holdings: Holdings

    async def renew(self) -> frozenset[str]:
        """Extend the leases of all executions that run here; returns the ids of those that this server has lost."""
        held = self.holdings.ids
        if not held:
            return frozenset()
        until = lease_until(self.queue.context.now_ms())
        values = {"ids": sorted(held), "of": self.owner, "until": until}
        extended = await self.queue.database.write(partial(_renew, values=values))
        return self.holdings.lost(held, extended)

    async def expired(self, before_ms: int) -> Sequence[Record]:
        """Running executions of any owner whose lease ended at `before_ms` or earlier; the oldest first."""
        query = select(*COLUMNS).where(RUNNING, table.c.lease_until_ms <= before_ms).order_by(table.c.id)
        return list(map(record_of, await self.queue.database.read(rows(query))))

    async def close_expired(self, record: Record, before_ms: int, completion: Completion) -> bool:
        """Record the end of an execution that `expired` returned; False when it is not expired (any more)."""
        closed = closing(record.id, Status.RUNNING, completion, before_ms)
        return await self.queue.write(self._end(record.id, record.principal, completion), closed=closed)

    async def requeue(self, record: Record, before_ms: int) -> bool:
        """Have a server take up an execution that `expired` returned; False when it is not expired (any more)."""
        return await self._queue_again(record.id, table.c.lease_until_ms <= before_ms)

    async def hand_over(self, execution: str) -> bool:
        """Have another server take up an execution of this one."""
        self.holdings.remove(execution)
        return await self._queue_again(execution, table.c.owner == self.owner)

    async def _queue_again(self, execution: str, where: ColumnElement[bool]) -> bool:
        waits = update(table).where(table.c.id == execution, RUNNING, where)
        values = {"status": str(Status.QUEUED), "owner": None, "lease_until_ms": None}
        return bool(await self.queue.database.write(changes(waits.values(**values))))

    async def release_dead(self, owners: Collection[str]) -> None:
        """End the leases of owners whose processes have ended."""
        ended = update(table).where(table.c.owner.in_(sorted(owners)), RUNNING).values(lease_until_ms=RELEASED)
        await self.queue.database.write(changes(ended))

    async def enqueue(self, attempt: Attempt, job: str) -> None:
        """Record an execution that waits for an owner. Returns once it is durable."""
        context, who = self.queue.context, attempt.principal
        columns = attempt.columns(Status.QUEUED, context.now_ms(), self.folder, None)
        event = context.event(events.submitted(attempt), who.name, who.address)
        await self.queue.write((event,), opened=new_row(columns, job=job))

    async def queued(self, targets: Collection[str], limit: int) -> Sequence[QueuedExecution]:
        """Up to `limit` executions of these targets that wait, the oldest first."""
        if len(targets) == 1:  # a runner asks for those of its project, and often
            values = {"of": next(iter(targets)), "limit": limit}
            return _waiting(await self.queue.database.read_short(WAIT_FOR, **values))
        return await self.queue.database.read(partial(_queued, targets=sorted(targets), limit=limit))

    async def waiting(self, execution: str) -> QueuedExecution | None:
        """An execution that waits."""
        found = _waiting(await self.queue.database.read_short(WAITS, key=execution))
        return found[0] if found else None

    async def claim(self, execution: str) -> bool:
        """Take over an execution that waits; False when it does not wait (any more)."""
        claimed = await self.queue.write_locked(partial(self._claim, execution=execution))
        if claimed:
            self.holdings.add(execution)
        return claimed

    def _claim(self, connection: Connection, execution: str) -> tuple[list[Event], bool]:
        """Claim in a transaction that holds the lock of the audit: no other server claims or cancels meanwhile."""
        context = self.queue.context
        until = lease_until(context.now_ms())
        new = {"key": execution, "new_owner": self.owner, "new_folder": self.folder, "until": until}
        principal = connection.execute(CLAIM, new).scalar()
        if principal is None:
            return [], False
        return [context.event(events.claimed(execution), principal, "")], True

    async def cancel_queued(self, execution: str, completion: Completion) -> bool:
        """End an execution that still waits; False when it does not wait (any more)."""
        query = select(table.c.principal).where(table.c.id == execution, QUEUED)
        found = await self.queue.database.read(first(query))
        if found is None:
            return False
        closed = closing(execution, Status.QUEUED, completion)
        return await self.queue.write(self._end(execution, found.principal, completion), closed=closed)

    def _end(self, execution: str, principal: str, completion: Completion) -> tuple[Event, ...]:
        drafts = events.closed(execution, completion, self.folder)
        return tuple(self.queue.context.event(draft, principal, "") for draft in drafts)


def _renew(connection: Connection, values: dict[str, object]) -> frozenset[str]:
    return frozenset(connection.execute(RENEW, values).scalars())


def _queued(connection: Connection, targets: list[str], limit: int) -> list[QueuedExecution]:
    query = WAITING.where(table.c.target.in_(targets)).order_by(table.c.id).limit(limit)
    return _waiting(connection.execute(query))


def _waiting(found: Iterable[Any]) -> list[QueuedExecution]:
    return [QueuedExecution(record_of(row), row.job or "") for row in found]
