"""The history and the audit in the database, written together.

One writer a process takes whatever waits, chains it and writes it in one transaction, so that a hundred commands at
once cost one flush. Several processes share one chain: the head moves only from where it was read, and who comes
second reads it again.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from backend.core.audit import EMPTY, Event, Head, Kind, Link, Verifier, extend
from backend.core.errors import StorageError
from backend.core.executions import Status
from backend.core.ledger import Attempt, Ending
from backend.storage.database import Database
from backend.storage.tables import audit_events, audit_head, executions

BATCH = 256  # jobs written in one transaction, at most
TRIES = 20  # times that another process may be faster
PAGE = 5000  # events read at a time

INSERT_EXECUTION = insert(executions)
INSERT_EVENT = insert(audit_events)
CLOSE_EXECUTION = (
    update(executions)
    .where(executions.c.id == bindparam("key"))
    .values(
        status=bindparam("new_status"),
        exit_code=bindparam("new_exit_code"),
        duration_ms=bindparam("new_duration_ms"),
        protection=bindparam("new_protection"),
    )
)
MOVE_HEAD = (
    update(audit_head)
    .where(audit_head.c.id == 1, audit_head.c.seq == bindparam("old_seq"), audit_head.c.hash == bindparam("old_hash"))
    .values(seq=bindparam("new_seq"), hash=bindparam("new_hash"), signature=bindparam("new_signature"))
)


@dataclass(frozen=True, slots=True)
class Stamp:
    """Time, ids and signatures, handed in. `now_ms` is in Unix milliseconds, `utc` ISO 8601."""

    now_ms: Callable[[], int]
    utc: Callable[[], str]
    new_id: Callable[[], str]
    sign: Callable[[bytes], bytes]


@dataclass(slots=True)
class _Job:
    """Rows that belong together, and who waits for them."""

    done: "asyncio.Future[None]"
    events: tuple[Event, ...] = ()
    opened: Mapping[str, Any] | None = None
    closed: Mapping[str, Any] | None = None


@dataclass(slots=True)
class LedgerStore:
    """The ledger of this process. `folder` is the id of the data folder that holds the recordings."""

    database: Database
    stamp: Stamp
    folder: str
    _waiting: list[_Job] = field(default_factory=list)
    _writer: asyncio.Task[None] | None = None
    _head: Head | None = None

    async def prepare(self) -> None:
        """Make the head of a new chain. Raises StorageError."""
        with suppress(IntegrityError):
            await self.database.write(self._make_head)

    def _make_head(self, connection: Connection) -> None:
        if _read_head(connection) is None:
            connection.execute(insert(audit_head).values(id=1, **self._head_row(EMPTY)))

    async def refuse(self, attempt: Attempt) -> None:
        """Write a request that was refused. Raises StorageError."""
        kind = Kind.RATE_LIMITED if attempt.decision.rule == "limits.rate" else Kind.DENIED
        events = (self._event(kind, attempt, {"reason": attempt.decision.reason, **attempt.fields}),)
        await self._write(events, opened=self._row(attempt, Status.DENIED))

    async def open(self, attempt: Attempt) -> None:
        """Write a command that is about to run. Raises StorageError."""
        events = [self._event(Kind.SUBMITTED, attempt, attempt.fields)]
        if not attempt.dry_run:
            events.append(self._event(Kind.STARTED, attempt, {"execution": attempt.id}))
        await self._write(tuple(events), opened=self._row(attempt, Status.RUNNING))

    async def close(self, attempt: Attempt, ending: Ending) -> None:
        """Write how it ended. Raises StorageError."""
        fields = {
            "execution": attempt.id,
            "status": str(ending.status),
            "exit_code": ending.exit_code,
            "duration_ms": ending.duration_ms,
            "protection": ending.protection or None,
            **(ending.figures or {}),
        }
        kind = Kind.LOST if ending.status is Status.LOST else Kind.FINISHED
        events = [self._event(kind, attempt, fields)]
        if ending.stopped_by:
            cancelled = self._event(Kind.CANCELLED, attempt, {"execution": attempt.id, "by": ending.stopped_by})
            events.insert(0, cancelled)
        closed = {
            "key": attempt.id,
            "new_status": str(ending.status),
            "new_exit_code": ending.exit_code,
            "new_duration_ms": ending.duration_ms,
            "new_protection": ending.protection,
        }
        await self._write(tuple(events), closed=closed)

    async def note(self, kind: Kind, actor: str, address: str, fields: Mapping[str, Any]) -> None:
        """Write an event that is not about a command: a login, a rejected request. Raises StorageError."""
        stamp = self.stamp
        await self._write((Event(stamp.new_id(), stamp.utc(), kind, actor, address, fields),))

    def _event(self, kind: Kind, attempt: Attempt, fields: Mapping[str, Any]) -> Event:
        who = attempt.principal
        return Event(self.stamp.new_id(), self.stamp.utc(), kind, who.name, who.address, fields)

    def _row(self, attempt: Attempt, status: Status) -> Mapping[str, Any]:
        who, decision = attempt.principal, attempt.decision
        return {
            "id": attempt.id,
            "principal": who.name,
            "user_id": who.user.id if who.user else None,
            "project_id": attempt.project,
            "command": attempt.command,
            "working_dir": attempt.working_dir,
            "status": str(status),
            "exit_code": None,
            "duration_ms": None,
            "risk": str(decision.risk),
            "rule": decision.rule,
            "deletes": attempt.deletes,
            "dry_run": attempt.dry_run,
            "metadata_only": attempt.metadata_only,
            "protection": "",
            "folder": self.folder,
            "created_ms": self.stamp.now_ms(),
        }

    async def _write(
        self,
        events: tuple[Event, ...],
        *,
        opened: Mapping[str, Any] | None = None,
        closed: Mapping[str, Any] | None = None,
    ) -> None:
        job = _Job(asyncio.get_running_loop().create_future(), events, opened, closed)
        self._waiting.append(job)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._work())
        await job.done

    async def _work(self) -> None:
        """Write until nothing waits; what comes in meanwhile goes into the next transaction together."""
        while self._waiting:
            jobs, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            try:
                await self._commit(jobs)
            except Exception as error:
                for job in jobs:
                    if not job.done.done():
                        job.done.set_exception(_storage_error(error))
            else:
                for job in jobs:
                    if not job.done.done():
                        job.done.set_result(None)

    async def _commit(self, jobs: list[_Job]) -> None:
        for _ in range(TRIES):
            self._head = await self.database.write(lambda connection: self._append(connection, jobs))
            if self._head:
                return
        raise StorageError("The audit is written by too many at once.")

    def _append(self, connection: Connection, jobs: list[_Job]) -> Head | None:
        """Write all jobs in the transaction of `connection`; None when another process has moved the head."""
        head = self._head or _read_head(connection, lock=True)
        if head is None:
            raise StorageError("The audit has no head; the database was not prepared.")
        after, links = extend(head, (event for job in jobs for event in job.events))
        if not self._move(connection, head, after):
            return None
        _insert(connection, jobs, links)
        return after

    def _move(self, connection: Connection, old: Head, new: Head) -> bool:
        values = {
            "old_seq": old.seq,
            "old_hash": old.hash,
            "new_seq": new.seq,
            "new_hash": new.hash,
            "new_signature": self.stamp.sign(new.statement()),
        }
        return connection.execute(MOVE_HEAD, values).rowcount == 1

    def _head_row(self, head: Head) -> dict[str, Any]:
        return {
            "first_seq": head.first_seq,
            "first_previous": head.first_previous,
            "seq": head.seq,
            "hash": head.hash,
            "signature": self.stamp.sign(head.statement()),
        }

    async def events(self) -> AsyncIterator[Link]:
        """All events that are kept, in order."""
        after = -1
        while True:
            query = select(audit_events).where(audit_events.c.seq > after).order_by(audit_events.c.seq).limit(PAGE)
            async with self.database.begin() as connection:
                rows = (await connection.execute(query)).all()
            for seq, body, hash in rows:
                yield Link(seq, body, hash)
            if len(rows) < PAGE:
                return
            after = rows[-1].seq

    async def verify(
        self, signed: Callable[[bytes, bytes], bool], anchor: tuple[int, bytes] | None = None
    ) -> tuple[Head, str]:
        """Go through the whole chain: its head, and what is wrong with it (empty when nothing is).

        `signed(statement, signature)` tells whether a signature is good. Commands may be written meanwhile: what comes
        after the head that was read first is not looked at.
        """
        async with self.database.begin() as connection:
            row = (await connection.execute(select(audit_head))).one_or_none()
        if row is None:
            return EMPTY, "the audit has no head"
        head = Head(row.first_seq, row.first_previous, row.seq, row.hash)
        verifier = Verifier(head)
        async for link in self.events():
            if link.seq > head.seq and await self._has_moved(head):
                break
            if not verifier.take(link):
                break
            if anchor and link.seq == anchor[0] and link.hash != anchor[1]:
                return head, f"event {link.seq} is not the one that was noted: the chain was made anew"
        return head, verifier.finish(lambda statement: signed(statement, row.signature), anchor)

    async def _has_moved(self, head: Head) -> bool:
        """Whether events were written since `head` was read; otherwise what stands behind it was put there."""
        now = await self.database.write(_read_head)
        return now is not None and now.seq > head.seq

    async def prune(self, before_ms: int) -> None:
        """Forget executions that began before a time. Raises StorageError."""
        old = (executions.c.created_ms < before_ms) & (executions.c.status != str(Status.RUNNING))
        async with self.database.begin() as connection:
            await connection.execute(delete(executions).where(old))

    async def prune_audit(self, before: str) -> int:
        """Cut events from before a time (ISO 8601, UTC) off the start of the chain; how many. Raises StorageError."""
        last: Link | None = None
        async for link in self.events():
            if json.loads(link.body)["time"] >= before:
                break
            last = link
        if last is None:
            return 0
        self._head = None
        return await self.database.write(partial(self._cut, last=last))

    def _cut(self, connection: Connection, last: Link) -> int:
        """Let the chain begin behind `last`."""
        head = _read_head(connection, lock=True)
        if head is None or last.seq > head.seq:
            return 0
        shorter = Head(last.seq + 1, last.hash, head.seq, head.hash)
        connection.execute(update(audit_head).values(self._head_row(shorter)))
        connection.execute(delete(audit_events).where(audit_events.c.seq <= last.seq))
        return last.seq - head.first_seq + 1

    async def close_writer(self) -> None:
        """Wait until everything is written."""
        if self._writer:
            await self._writer


def _read_head(connection: Connection, *, lock: bool = False) -> Head | None:
    query = select(audit_head)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return Head(row.first_seq, row.first_previous, row.seq, row.hash) if row else None


def _insert(connection: Connection, jobs: list[_Job], links: list[Link]) -> None:
    connection.execute(INSERT_EVENT, [{"seq": each.seq, "body": each.body, "hash": each.hash} for each in links])
    if opened := [dict(job.opened) for job in jobs if job.opened]:
        connection.execute(INSERT_EXECUTION, opened)
    if closed := [dict(job.closed) for job in jobs if job.closed]:
        connection.execute(CLOSE_EXECUTION, closed)


def _storage_error(error: Exception) -> StorageError:
    return error if isinstance(error, StorageError) else StorageError(f"The audit cannot be written: {error}.")
