"""The one writer of a process: everything in the queue is chained and written in one transaction.

A hundred concurrent commands cost one flush. A job that cannot be written does not make others fail, and a job whose
execution has already ended writes nothing. The head is signed soon afterwards, once for all that was written meanwhile.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError

from backend.core.audit.chain import Anchor, ChainedEvent, extend
from backend.core.audit.events import Event
from backend.core.dataclasses import dataclass
from backend.core.errors import StorageError
from backend.core.execution.model import Status
from backend.core.execution.prompt import PromptFuture
from backend.storage.audit_chain import SignedHead
from backend.storage.audit_head import STUCK, AuditHead, LedgerContext
from backend.storage.bare_connection import BareConnection
from backend.storage.checkpoint import AnchorFile
from backend.storage.database import Database
from backend.storage.execution_rows import CLOSE_EXECUTION, INSERT_ENDED, INSERT_EXECUTION
from backend.storage.tables import audit_events, executions

T = TypeVar("T")

SIGN_AFTER = 0.1  # seconds from the first event that is not signed
RETRY_AFTER = 1.0  # seconds from a signature that could not be written
BATCH = 256  # jobs written in one transaction, at most

INSERT_EVENT = insert(audit_events)


@dataclass(slots=True, eq=False)
class _Job:
    """Rows that belong together. `done` says whether they were written: not if `closed` found another status."""

    done: PromptFuture[bool]
    events: tuple[Event, ...]
    opened: Mapping[str, Any] | None
    closed: Mapping[str, Any] | None


class _Written(NamedTuple):
    head: SignedHead
    skipped: Sequence[_Job] = ()


class _LockNeededError(Exception):
    """The transaction must be rolled back and done again with the lock of the head: it read nothing, and had to."""


@dataclass(slots=True)
class CommitQueue:
    """Writes jobs in their order. `checkpoint` stores the end of the chain outside of the database."""

    database: Database
    context: LedgerContext
    checkpoint: AnchorFile | None = None
    head: AuditHead = field(init=False)
    _waiting: list[_Job] = field(default_factory=list)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _retrying: asyncio.Task[None] | None = None  # what a transaction could not write
    _due: bool = False  # whether the next transaction signs the head
    _timer: asyncio.TimerHandle | None = None  # until it is due

    def __post_init__(self) -> None:
        self.head = AuditHead(self.context)
        self._idle.set()

    async def prepare(self) -> None:
        """Make the head of a new chain, or sign what a server that died had not signed.

        Raises StorageError, also for a head that was changed.
        """
        with suppress(IntegrityError):
            if (await self.database.write(self.head.make)).mac:
                await self.sign()

    async def sign(self) -> None:
        """Sign the head now. Raises StorageError."""
        await self._commit([], sign=True)

    async def write(
        self,
        events: tuple[Event, ...],
        *,
        opened: Mapping[str, Any] | None = None,
        closed: Mapping[str, Any] | None = None,
    ) -> bool:
        """Write events with the row of a new execution, or with the end of one; see `execution_rows`.

        Returns once all of it is durable; False if the execution did not have the status that `closed` expects: then
        nothing is written. Raises StorageError.
        """
        return await self.put(events, opened, closed)

    def put(
        self,
        events: tuple[Event, ...],
        opened: Mapping[str, Any] | None = None,
        closed: Mapping[str, Any] | None = None,
    ) -> "asyncio.Future[bool]":
        """Queue a job for the writer. It is written even if its caller is cancelled."""
        job = _Job(PromptFuture(), events, opened, closed)
        self._waiting.append(job)
        self._start()
        return job.done

    def _start(self) -> None:
        """Write what waits. Jobs that arrive meanwhile share the next transaction."""
        if (self._waiting or self._due) and self._idle.is_set():
            self._idle.clear()
            jobs, self._waiting, sign = self._waiting[:BATCH], self._waiting[BATCH:], self._due
            self.database.call_short(partial(self._append, jobs=jobs, sign=sign), partial(self._written, jobs, sign))

    def _written(self, jobs: list[_Job], sign: bool, written: _Written | None, failed: BaseException | None) -> None:
        """A transaction has ended."""
        if written:
            self._moved(written.head)
            self._go_on()
            _settle(jobs, written)  # after the next transaction has begun, since those who wait go on at once
            return
        if jobs or isinstance(failed, _LockNeededError):
            self._retrying = asyncio.create_task(self._retry(jobs, sign, failed))
        else:
            self._sign_later()
            self._go_on()

    def _go_on(self) -> None:
        self._idle.set()
        self._start()

    def _sign_next(self) -> None:
        """Sign with the next transaction, which is made for this if nothing waits."""
        self._timer, self._due = None, True
        self._start()

    async def write_locked(self, work: Callable[[Connection], tuple[Sequence[Event], T]]) -> T:
        """Run `work` while no server of this database writes, and append its events. Raises StorageError."""
        head, result = await self.database.write(partial(self._append_locked_work, work=work))
        self._moved(head)
        return result

    def _append_locked_work(
        self, connection: Connection, work: Callable[[Connection], tuple[Sequence[Event], T]]
    ) -> tuple[SignedHead, T]:
        head = self.head.lock(connection)
        events, result = work(connection)
        latest, links = extend(head.latest, events)
        after = self.context.continued(head, latest.end)
        self.head.replace(connection, after)
        insert_events(connection, links)
        return after, result

    def signed(self, end: Anchor) -> None:
        """Record the signed end of the chain outside the database."""
        if self.checkpoint:
            self.checkpoint.note(end)

    def _moved(self, head: SignedHead) -> None:
        """Record the head, and have it signed."""
        if self.head.known and head.end.seq < self.head.known.end.seq:
            return  # a later one was faster
        self.head.known = head
        if head.mac:
            self._sign_after(SIGN_AFTER)
            return
        if self._timer:
            self._timer.cancel()
        self._timer, self._due = None, False
        self.signed(head.end)

    def _sign_after(self, seconds: float) -> None:
        if self._timer is None and not self._due:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._sign_next)

    def _sign_later(self) -> None:
        """What was to sign the head failed."""
        if self._due:
            self._due = False
            self._sign_after(RETRY_AFTER)

    async def _retry(self, jobs: list[_Job], sign: bool, failed: BaseException | None) -> None:
        """What follows a transaction that was rolled back."""
        try:
            if not isinstance(failed, _LockNeededError):
                raise failed or StorageError(STUCK)
            await self._commit_locked(jobs, sign)
        except Exception as error:
            await self._split(jobs, error)
        finally:
            self._go_on()

    async def _split(self, jobs: list[_Job], error: Exception) -> None:
        """One of them cannot be written; the others must not fail with it, unless the database does."""
        self._sign_later()
        if isinstance(error.__cause__, TimeoutError):
            # What waits would wait as long again, and in vain.
            jobs, self._waiting = jobs + self._waiting, []
        if len(jobs) == 1 or _is_down(error):
            _fail(jobs, error)
            return
        for job in jobs:
            await self._commit_alone(job)

    async def _commit_alone(self, job: _Job) -> None:
        try:
            await self._commit([job], sign=False)
        except Exception as error:
            _fail([job], error)

    async def _commit(self, jobs: list[_Job], sign: bool) -> None:
        try:
            written = await self.database.write_short(partial(self._append, jobs=jobs, sign=sign))
        except _LockNeededError:
            await self._commit_locked(jobs, sign)
        else:
            self._moved(written.head)
            _settle(jobs, written)

    async def _commit_locked(self, jobs: list[_Job], sign: bool) -> None:
        written = await self.database.write(partial(self._append_locked, jobs=jobs, sign=sign))
        self._moved(written.head)
        _settle(jobs, written)

    def _append(self, connection: Connection | BareConnection, jobs: list[_Job], sign: bool) -> _Written:
        """Write all jobs in the transaction of `connection`, in as few statements as possible, without reading."""
        known = self.head.known
        if known:
            after, links = self._extend(known, jobs, sign)
            if self.head.move(connection, known, after):
                if not _insert(connection, jobs, links):
                    raise _LockNeededError
                return _Written(after)
        if isinstance(connection, BareConnection):
            raise _LockNeededError
        return self._append_locked(connection, jobs, sign)

    def _append_locked(self, connection: Connection, jobs: list[_Job], sign: bool) -> _Written:
        """Write the jobs that can still be written, after what other servers wrote."""
        head = self.head.lock(connection)
        skipped = _ended_among(connection, jobs)
        rest = [job for job in jobs if job not in skipped]
        after, links = self._extend(head, rest, sign)
        if not (self.head.move(connection, head, after) and _insert(connection, rest, links)):
            raise StorageError(STUCK)
        return _Written(after, skipped)

    def _extend(self, head: SignedHead, jobs: list[_Job], sign: bool) -> tuple[SignedHead, list[ChainedEvent]]:
        latest, links = extend(head.latest, (event for job in jobs for event in job.events))
        return self.context.signed(latest) if sign else self.context.continued(head, latest.end), links

    async def close(self) -> None:
        """Write and sign what is left, and wait for it. Raises nothing: each caller gets its own error."""
        await self._idle.wait()
        if self._timer:
            self._timer.cancel()
            self._sign_next()
            await self._idle.wait()
        if self._timer:  # it could not be signed; the next start does it
            self._timer.cancel()
        if self.checkpoint:
            await self.checkpoint.close()


def insert_events(connection: Connection | BareConnection, links: Sequence[ChainedEvent]) -> None:
    """Write events under their numbers."""
    if rows := [{"seq": each.seq, "body": each.body, "hash": each.hash} for each in links]:
        connection.execute(INSERT_EVENT, rows)


def _insert(connection: Connection | BareConnection, jobs: list[_Job], links: list[ChainedEvent]) -> bool:
    """Write the rows of jobs; False if one closes an execution that has already ended: then the caller rolls back."""
    insert_events(connection, links)
    if opened := [dict(job.opened) for job in jobs if job.opened]:
        connection.execute(INSERT_EXECUTION, opened)
    closed = [dict(job.closed) for job in jobs if job.closed]
    if closed and not _close(connection, closed):
        return False
    # With the end itself, so that no restart loses a notification. A run of a schedule that is refused is an end too.
    refused = [each["id"] for each in opened if each["schedule_id"] and each["status"] == str(Status.DENIED)]
    if ended := [{"execution": id} for id in (*refused, *(each["key"] for each in closed))]:
        connection.execute(INSERT_ENDED, ended)
    return True


def _close(connection: Connection | BareConnection, closed: list[dict[str, Any]]) -> bool:
    if isinstance(connection, Connection) and not (len(closed) == 1 or connection.dialect.supports_sane_multi_rowcount):
        # asyncpg does not report how many rows were changed by a statement that was executed with many values.
        if len(_open_among(connection, closed)) < len(closed):
            return False
        connection.execute(CLOSE_EXECUTION, closed)
        return True
    return connection.execute(CLOSE_EXECUTION, closed).rowcount == len(closed)


def _ended_among(connection: Connection, jobs: list[_Job]) -> list[_Job]:
    """The jobs that close an execution which has already ended, or which another of them closes."""
    still_open = _open_among(connection, [job.closed for job in jobs if job.closed])
    skipped = []
    for job in jobs:
        if job.closed and job.closed["key"] not in still_open:
            skipped.append(job)
        elif job.closed:
            still_open.remove(job.closed["key"])
    return skipped


def _open_among(connection: Connection, closed: Sequence[Mapping[str, Any]]) -> set[str]:
    """The ids of executions that have the status and lease from which they are closed; see CLOSE_EXECUTION.

    Their rows are locked, because a server extends its leases without the lock of the head. SQLite has one writer anyway.
    """
    if not closed:
        return set()
    columns = executions.c.id, executions.c.status, executions.c.lease_until_ms
    these = executions.c.id.in_({each["key"] for each in closed})
    query = select(*columns).where(these).order_by(executions.c.id).with_for_update()
    found = {id: (status, lease or 0) for id, status, lease in connection.execute(query)}
    states = ((each, *found.get(each["key"], ("", 0))) for each in closed)
    return {
        each["key"] for each, status, lease in states if status == each["old_status"] and lease <= each["old_lease"]
    }


def _settle(jobs: list[_Job], written: _Written) -> None:
    for job in jobs:
        if not job.done.done():
            job.done.settle(job not in written.skipped)


def _fail(jobs: list[_Job], error: Exception) -> None:
    for job in jobs:
        if not job.done.done():
            job.done.set_exception(_storage_error(error))
            job.done.exception()  # retrieved: asyncio is not to report one that no caller awaits any more


def _is_down(error: Exception) -> bool:
    """Whether the database failed, rather than refused what was to be written."""
    cause = error.__cause__ or error
    if isinstance(cause, DBAPIError) and cause.connection_invalidated:
        return True
    return isinstance(cause, StorageError | OperationalError | InterfaceError | sqlite3.OperationalError | OSError)


def _storage_error(error: Exception) -> StorageError:
    return error if isinstance(error, StorageError) else StorageError(f"The audit cannot be written: {error}.")
