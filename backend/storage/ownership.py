"""Which server runs an execution, in the database: leases, and executions that wait for an owner."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, bindparam, select, update

from backend.core.audit import execution_events as events
from backend.core.audit.attempts import Attempt, Completion, Record
from backend.core.audit.events import Event
from backend.core.execution.model import Status
from backend.core.execution.ownership import RELEASED, Holdings, lease_until
from backend.core.ports import Queued
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
)


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

    async def claim_queued(self, limit: int) -> Sequence[Queued]:
        """Take over up to `limit` waiting executions, the oldest first. Each is claimed by one server."""
        if await self.queue.database.read(first(select(table.c.id).where(QUEUED).limit(1))) is None:
            return []  # the usual case costs no lock
        claimed = await self.queue.write_locked(partial(self._claim, limit=limit))
        for each in claimed:
            self.holdings.add(each.record.id)
        return claimed

    def _claim(self, connection: Connection, limit: int) -> tuple[list[Event], list[Queued]]:
        """Claim in a transaction that holds the lock of the audit: no other server claims or cancels meanwhile."""
        context = self.queue.context
        query = select(table.c.id, table.c.job).where(QUEUED).order_by(table.c.id).limit(limit)
        jobs = dict(connection.execute(query).all())
        if not jobs:
            return [], []
        until = lease_until(context.now_ms())
        new = {"new_owner": self.owner, "new_folder": self.folder, "until": until}
        connection.execute(CLAIM, [{"key": id, **new} for id in jobs])
        rows = connection.execute(select(*COLUMNS).where(table.c.id.in_(jobs)).order_by(table.c.id))
        claimed = [Queued(record := record_of(row), jobs[record.id]) for row in rows]
        return [context.event(events.claimed(each.record.id), each.record.principal, "") for each in claimed], claimed

    async def cancel_queued(self, execution: str, completion: Completion) -> bool:
        """End an execution that still waits; False when it does not wait (any more)."""
        query = select(table.c.principal).where(table.c.id == execution, QUEUED)
        found = await self.queue.database.read(first(query))
        if found is None:
            return False
        closed = closing(execution, Status.QUEUED, completion)
        return await self.queue.write(self._end(execution, found.principal, completion), closed=closed)

    def _end(self, execution: str, principal: str, completion: Completion) -> tuple[Event, ...]:
        drafts = events.closed(execution, completion)
        return tuple(self.queue.context.event(draft, principal, "") for draft in drafts)


def _renew(connection: Connection, values: dict[str, object]) -> frozenset[str]:
    return frozenset(connection.execute(RENEW, values).scalars())
