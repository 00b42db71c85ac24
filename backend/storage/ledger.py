"""The history and the audit in the database, written together.

One writer a process takes whatever waits, chains it and writes it in one transaction, so that a hundred commands at
once cost one flush. Several processes share one chain: the head moves only from where it was read, and who comes
second locks it and reads it again. A head that this server's key did not sign is never built on; when another process
changed the key, and this data folder has the new one, it is taken.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError

from backend.core.audit.attempts import Attempt, Completion
from backend.core.audit.chain import EMPTY, Anchor, Head, Link, Succession, Trust, extend
from backend.core.audit.events import Event, Kind
from backend.core.audit.suppression import RefusalSuppressor, SuppressedRefusals
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.model import Actor, Status
from backend.core.times import iso
from backend.storage.audit_chain import Chain, SignedHead, read_head
from backend.storage.checkpoint import AnchorFile
from backend.storage.database import Database
from backend.storage.keys import AuditKeys, SigningKey
from backend.storage.tables import audit_events, audit_head, executions

BATCH = 256  # jobs written in one transaction, at most
STUCK = "The head of the audit does not move, though nobody else moved it."
ITSELF = "gatepost"  # the actor of what the service does by itself

# Refusals that come before the rate is counted, or because of it: whoever repeats them fills the disk.
UNBOUNDED = frozenset({"limits.rate", "role.forbidden", "server.stopping", "storage.unavailable"})

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
        cpu_ms=bindparam("new_cpu_ms"),
        peak_memory_bytes=bindparam("new_peak_memory"),
        read_bytes=bindparam("new_read_bytes"),
        written_bytes=bindparam("new_written_bytes"),
    )
)
MOVE_HEAD = (
    update(audit_head)
    .where(audit_head.c.id == 1, audit_head.c.seq == bindparam("old_seq"), audit_head.c.hash == bindparam("old_hash"))
    .where(audit_head.c.first_seq == bindparam("old_first"))  # another process may have cut the beginning off
    .values(seq=bindparam("new_seq"), hash=bindparam("new_hash"), signature=bindparam("new_signature"))
)
# Takes the lock of SQLite's one writer, which it would not give to a transaction that has begun by reading.
TOUCH_HEAD = update(audit_head).where(audit_head.c.id == 1).values(id=1)


@dataclass(frozen=True, slots=True)
class Stamp:
    """Time, ids and keys, handed in: `now_ms` in Unix milliseconds, `utc` as ISO 8601, `check` as `Trust` has it."""

    now_ms: Callable[[], int]
    utc: Callable[[], str]
    new_id: Callable[[], str]
    keys: AuditKeys
    check: Callable[[bytes, bytes, bytes], bool]

    def sign(self, head: Head) -> bytes:
        """The signature of a head."""
        return self.keys.current.sign(head.statement())


@dataclass(slots=True)
class _Job:
    """Rows that belong together, and who waits for them. With `once` they are written for what still runs only."""

    done: "asyncio.Future[None]"
    events: tuple[Event, ...] = ()
    opened: Mapping[str, Any] | None = None
    closed: Mapping[str, Any] | None = None
    once: bool = False


@dataclass(slots=True)
class LedgerStore:
    """The ledger of this process. `folder` is the id of the data folder that holds the recordings.

    `anchor` notes the end of the chain outside of the database; `floods` bounds what repeats without end.
    """

    database: Database
    stamp: Stamp
    folder: str
    anchor: AnchorFile | None = None
    floods: RefusalSuppressor = field(default_factory=RefusalSuppressor)
    _waiting: list[_Job] = field(default_factory=list)
    _writer: asyncio.Task[None] | None = None
    _head: Head | None = None
    _timer: asyncio.TimerHandle | None = None

    async def prepare(self) -> None:
        """Make the head of a new chain, and see whether the noted end of an older one is there still.

        When it is not, the audit says so from here on. Raises StorageError, also for a head that was changed.
        """
        with suppress(IntegrityError):
            await self.database.write(self._make_head)
        await asyncio.to_thread(self.stamp.keys.publish)  # not before: a key that did not sign the audit is not its key
        noted = await self.anchor.read() if self.anchor else None
        if noted and (lost := await self._lost(noted)):
            await self.record(Kind.CHAIN_BROKEN, ITSELF, "", {"noted": str(noted), "reason": lost})

    def _make_head(self, connection: Connection) -> None:
        found = read_head(connection)
        if found is None:
            connection.execute(insert(audit_head).values(id=1, **self._head_row(EMPTY)))
        else:
            self._trusted(found)

    async def _lost(self, noted: Anchor) -> str:
        """Why a noted place is not in the chain any more; empty when it is, or was pruned."""
        chain = Chain(self.database)
        found = await chain.head()
        if found is None or found.head.seq < noted.seq:
            return f"The audit ends before event {noted.seq}, which was there."
        if noted.seq < found.head.first_seq:
            return ""
        link = await chain.find(noted.seq)
        return "" if link and link.hash == noted.hash else f"Event {noted.seq} is not the one that was noted."

    async def refuse(self, attempt: Attempt) -> None:
        """Write a request that was refused; of a flood only the beginning. Raises StorageError."""
        rule = attempt.decision.rule
        if rule in UNBOUNDED and not self._admits(rule, attempt.principal.address):
            return
        kind = Kind.RATE_LIMITED if rule == "limits.rate" else Kind.DENIED
        events = (self._event(kind, attempt, {"reason": attempt.decision.reason, **attempt.fields}),)
        await self._write(events, opened=self._row(attempt, Status.DENIED))

    async def open(self, attempt: Attempt) -> None:
        """Write a command that is about to run. Raises StorageError."""
        events = [self._event(Kind.SUBMITTED, attempt, attempt.fields)]
        if not attempt.dry_run:
            events.append(self._event(Kind.STARTED, attempt, {"execution": attempt.id}))
        await self._write(tuple(events), opened=self._row(attempt, Status.RUNNING))

    async def step(self, execution: str, actor: Actor, argvs: tuple[tuple[str, ...], ...], decision: Decision) -> None:
        """Write a later step that is about to run with other words than were judged first. Raises StorageError."""
        argv = [list(each) for each in argvs]
        fields = {"execution": execution, "argv": argv, "rule": decision.rule, "risk": str(decision.risk)}
        stamp = self.stamp
        await self._write((Event(stamp.new_id(), stamp.utc(), Kind.STARTED, actor.name, actor.address, fields),))

    async def close(self, attempt: Attempt, ending: Completion, *, once: bool = False) -> bool:
        """Write how it ended; with `once` only if nobody has. Raises StorageError."""
        fields = {
            "execution": attempt.id,
            "status": str(ending.status),
            "exit_code": ending.exit_code,
            "duration_ms": ending.duration_ms,
            "protection": ending.usage.protection or None,
            "layers": list(ending.usage.layers) or None,
            "cpu_ms": ending.usage.cpu_ms,
            "peak_memory_bytes": ending.usage.peak_memory,
            "recording": ending.recording.as_json() if ending.recording else None,
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
            "new_protection": ending.usage.protection,
            "new_cpu_ms": ending.usage.cpu_ms,
            "new_peak_memory": ending.usage.peak_memory,
            "new_read_bytes": ending.usage.read_bytes,
            "new_written_bytes": ending.usage.written_bytes,
        }
        await self._write(tuple(events), closed=closed, once=once)
        return True

    async def record(self, kind: Kind, actor: str, address: str, fields: Mapping[str, Any]) -> None:
        """Write an event that is not about a command: a login, a rejected request. Raises StorageError."""
        stamp = self.stamp
        await self._write((Event(stamp.new_id(), stamp.utc(), kind, actor, address, fields),))

    def _event(self, kind: Kind, attempt: Attempt, fields: Mapping[str, Any]) -> Event:
        who = attempt.principal
        return Event(self.stamp.new_id(), self.stamp.utc(), kind, who.name, who.address, fields)

    def _admits(self, rule: str, address: str) -> bool:
        """Whether a refusal is to be written. What is not will be counted, at the latest when the writer closes."""
        now = self.stamp.now_ms()
        self._tell(self.floods.expire(now))
        if self.floods.admit((rule, address), now):
            return True
        self._watch_floods()
        return False

    def _watch_floods(self) -> None:
        """Look at the floods after a while, though nobody may come any more who makes us."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.floods.window / 1000, self._tell_ended)

    def _tell_ended(self) -> None:
        self._timer = None
        self._tell(self.floods.expire(self.stamp.now_ms()))
        if self.floods.has_unreported:
            self._watch_floods()

    def _tell(self, floods: list[SuppressedRefusals]) -> list["asyncio.Future[None]"]:
        """Write how many refusals of a flood were not written."""
        return [self._put((self._flood_event(flood),)).done for flood in floods]

    def _flood_event(self, flood: SuppressedRefusals) -> Event:
        rule, address = flood.key
        kind = Kind.RATE_LIMITED if rule == "limits.rate" else Kind.DENIED
        fields = {"rule": rule, "suppressed": flood.suppressed, "since": iso(flood.began_ms)}
        return Event(self.stamp.new_id(), self.stamp.utc(), kind, ITSELF, address, fields)

    def _row(self, attempt: Attempt, status: Status) -> Mapping[str, Any]:
        who, decision = attempt.principal, attempt.decision
        return {
            "id": attempt.id,
            "principal": who.name,
            "user_id": who.user.id if who.user else None,
            "project_id": attempt.project,
            "command": _storable(attempt.command),
            "working_dir": _storable(attempt.working_dir),
            "status": str(status),
            "exit_code": None,
            "duration_ms": None,
            "risk": str(decision.risk),
            "rule": decision.rule,
            "deletes": attempt.deletes,
            "dry_run": attempt.dry_run,
            "metadata_only": attempt.metadata_only,
            "protection": "",
            "cpu_ms": None,
            "peak_memory_bytes": None,
            "read_bytes": None,
            "written_bytes": None,
            "folder": self.folder,
            "created_ms": self.stamp.now_ms(),
        }

    async def _write(
        self,
        events: tuple[Event, ...],
        *,
        opened: Mapping[str, Any] | None = None,
        closed: Mapping[str, Any] | None = None,
        once: bool = False,
    ) -> None:
        await self._put(events, opened, closed, once).done

    def _put(
        self,
        events: tuple[Event, ...],
        opened: Mapping[str, Any] | None = None,
        closed: Mapping[str, Any] | None = None,
        once: bool = False,
    ) -> _Job:
        """Let the writer write it next. What a caller who goes away has put there is written all the same."""
        job = _Job(asyncio.get_running_loop().create_future(), events, opened, closed, once)
        job.done.add_done_callback(_look_at)
        self._waiting.append(job)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._work())
        return job

    async def _work(self) -> None:
        """Write until nothing waits; what comes in meanwhile goes into the next transaction together."""
        while self._waiting:
            jobs, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            try:
                await self._commit(jobs)
            except Exception as error:
                if len(jobs) > 1 and not _is_down(error):
                    # One of them cannot be written; the others must not fall with it.
                    for job in jobs:
                        await self._commit_alone(job)
                else:
                    _fail(jobs, error)

    async def _commit_alone(self, job: _Job) -> None:
        try:
            await self._commit([job])
        except Exception as error:
            _fail([job], error)

    async def _commit(self, jobs: list[_Job]) -> None:
        self._head = await self.database.write(partial(self._append, jobs=jobs))
        if self.anchor:
            self.anchor.note(self._head.end, self._lost)
        for job in jobs:
            if not job.done.done():
                job.done.set_result(None)

    def _append(self, connection: Connection, jobs: list[_Job]) -> Head:
        """Write all jobs in the transaction of `connection`; returns the new head."""
        if self._head and not any(job.once for job in jobs):
            after, links = _extend(self._head, jobs)
            if self._move(connection, self._head, after):
                _insert(connection, jobs, links)
                return after
        head = self._locked_head(connection)
        jobs = _without_ended(connection, jobs)
        after, links = _extend(head, jobs)
        if not self._move(connection, head, after):
            raise StorageError(STUCK)
        _insert(connection, jobs, links)
        return after

    def _locked_head(self, connection: Connection) -> Head:
        """The head as another process left it, which cannot move until the end of the transaction."""
        if self.database.sqlite:
            connection.execute(TOUCH_HEAD)
        found = read_head(connection, lock=True)
        if found is None:
            raise StorageError("The audit has no head; the database was not prepared.")
        head = self._trusted(found)
        self._check_last(connection, head)
        return head

    def _check_last(self, connection: Connection, head: Head) -> None:
        """Refuse a chain without the event that was the last here, which another process may have built on unknowing."""
        known = self._head.end if self._head else EMPTY.end
        if head.first_seq <= known.seq:
            found = connection.execute(select(audit_events.c.hash).where(audit_events.c.seq == known.seq)).scalar()
            if found != known.hash:
                raise StorageError(f"The audit has lost an event: event {known.seq} is not the one that was there.")

    def _trusted(self, found: SignedHead) -> Head:
        """The head, when this server's key signed it (its signatures are the same each time) and it did not go back."""
        statement, signature = found.head.statement(), found.signature
        if self.stamp.sign(found.head) != signature and not self.stamp.keys.follow(statement, signature):
            raise StorageError("The head of the audit is not signed with this server's key.")
        if self._head and found.head.seq < self._head.seq:
            raise StorageError(f"The audit has lost its end: event {self._head.seq} was there.")
        return found.head

    def _move(self, connection: Connection, old: Head, new: Head) -> bool:
        values = {
            "old_first": old.first_seq,
            "old_seq": old.seq,
            "old_hash": old.hash,
            "new_seq": new.seq,
            "new_hash": new.hash,
            "new_signature": self.stamp.sign(new),
        }
        return connection.execute(MOVE_HEAD, values).rowcount == 1

    def _head_row(self, head: Head) -> dict[str, Any]:
        return {
            "first_seq": head.first_seq,
            "first_previous": head.first_previous,
            "seq": head.seq,
            "hash": head.hash,
            "signature": self.stamp.sign(head),
        }

    async def rotate_key(self, successor: SigningKey, actor: str) -> None:
        """Let another key sign from here on, on record and with the word of the one before. Raises StorageError."""
        head = await self.database.write(partial(self._hand_over, successor=successor, actor=actor))
        if self.anchor:
            self.anchor.note(head.end, self._lost)

    def _hand_over(self, connection: Connection, successor: SigningKey, actor: str) -> Head:
        head, stamp = self._locked_head(connection), self.stamp
        key = stamp.keys.current
        change = Succession(head.end, key.public, successor.public)
        fields = change.fields(key.sign(change.statement()))
        after, links = extend(head, [Event(stamp.new_id(), stamp.utc(), Kind.KEY_ROTATED, actor, "", fields)])
        _set_head(connection, {**self._head_row(after), "signature": successor.sign(after.statement())})
        _insert(connection, [], links)
        return after

    async def prune(self, before_ms: int) -> int:
        """Forget executions that began before a time; how many. Raises StorageError."""
        old = (executions.c.created_ms < before_ms) & (executions.c.status != str(Status.RUNNING))
        async with self.database.begin() as connection:
            gone = (await connection.execute(delete(executions).where(old))).rowcount
        if gone:
            await self.record(Kind.PRUNED, ITSELF, "", {"executions": gone, "before_ms": before_ms})
        return gone

    async def prune_audit(self, before: str) -> int:
        """Cut events from before a time (ISO 8601, UTC) off the start of the chain; how many. Raises StorageError.

        The whole chain is verified before: nobody gets an event cut off by giving it an older time, and what was changed
        is not lost with what is old.
        """
        async for link in Chain(self.database).links():
            if _time(link, before) >= before:
                return 0
            break
        last = await self._last_before(before)
        return await self.database.write(partial(self._cut, last=last, before=before)) if last else 0

    async def _last_before(self, before: str) -> Link | None:
        """The last of the old events at the start of a chain that is good."""
        chain, old = Chain(self.database), list[Link]()

        def see(page: Sequence[Link]) -> None:
            if not old or old[-1].seq + 1 == page[0].seq:
                old.extend(list(takewhile(lambda link: _time(link, before) < before, page))[-1:])

        found = await chain.head()
        if found is None:
            raise StorageError("The audit has no head.")
        noted = (self._head.end,) if self._head else ()
        verdict = await chain.walk(found, Trust(self.stamp.keys.current.public, self.stamp.check), noted, see)
        if verdict.problem and await chain.was_pruned(found.head):
            return None  # another process does the same
        if verdict.problem:
            raise StorageError(f"Old events are kept, for the audit is not as it was written: {verdict.problem}.")
        return old[-1] if old else None

    def _cut(self, connection: Connection, last: Link, before: str) -> int:
        """Let the chain begin behind `last`, and end with the event that says so."""
        head = self._locked_head(connection)
        if not head.first_seq <= last.seq <= head.seq:
            return 0
        gone = last.seq - head.first_seq + 1
        fields = {"first": head.first_seq, "last": last.seq, "last_hash": last.hash.hex(), "before": before}
        event = Event(self.stamp.new_id(), self.stamp.utc(), Kind.PRUNED, ITSELF, "", fields)
        after, links = extend(Head(last.seq + 1, last.hash, head.seq, head.hash), [event])
        _set_head(connection, self._head_row(after))
        connection.execute(delete(audit_events).where(audit_events.c.seq <= last.seq))
        _insert(connection, [], links)
        return gone

    async def close_writer(self) -> None:
        """Write what is left, and wait for it. Raises nothing: who waits for a row is told."""
        if self._timer:
            self._timer.cancel()
        await asyncio.gather(*self._tell(self.floods.drain()), return_exceptions=True)
        if self._writer:
            await self._writer
        if self.anchor:
            await self.anchor.close()


def _time(link: Link, otherwise: str) -> str:
    return str(link.content.get("time", otherwise))


def _look_at(done: "asyncio.Future[None]") -> None:
    """Take an error that nobody waits for any more, so that asyncio does not complain of it."""
    if not done.cancelled():
        done.exception()


def _fail(jobs: list[_Job], error: Exception) -> None:
    for job in jobs:
        if not job.done.done():
            job.done.set_exception(_storage_error(error))


def _is_down(error: Exception) -> bool:
    """Whether the database fails, and not what was to be written."""
    cause = error.__cause__ or error
    if isinstance(cause, DBAPIError) and cause.connection_invalidated:
        return True
    return isinstance(cause, StorageError | OperationalError | InterfaceError | OSError)


def _storable(text: str) -> str:
    """The text without what PostgreSQL refuses: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _without_ended(connection: Connection, jobs: list[_Job]) -> list[_Job]:
    """The jobs, without endings of what has ended already or ends twice among them."""
    kept, ending = [], set()
    for job in jobs:
        key = job.closed["key"] if job.closed else ""
        if job.once and (key in ending or not _is_running(connection, key)):
            continue
        ending.add(key)
        kept.append(job)
    return kept


def _is_running(connection: Connection, key: str) -> bool:
    query = select(executions.c.id).where(executions.c.id == key, executions.c.status == str(Status.RUNNING))
    return connection.execute(query).first() is not None


def _extend(head: Head, jobs: list[_Job]) -> tuple[Head, list[Link]]:
    return extend(head, (event for job in jobs for event in job.events))


def _insert(connection: Connection, jobs: list[_Job], links: list[Link]) -> None:
    if events := [{"seq": each.seq, "body": each.body, "hash": each.hash} for each in links]:
        connection.execute(INSERT_EVENT, events)
    if opened := [dict(job.opened) for job in jobs if job.opened]:
        connection.execute(INSERT_EXECUTION, opened)
    if closed := [dict(job.closed) for job in jobs if job.closed]:
        connection.execute(CLOSE_EXECUTION, closed)


def _set_head(connection: Connection, row: Mapping[str, Any]) -> None:
    if connection.execute(update(audit_head).values(row)).rowcount != 1:
        raise StorageError(STUCK)


def _storage_error(error: Exception) -> StorageError:
    return error if isinstance(error, StorageError) else StorageError(f"The audit cannot be written: {error}.")
