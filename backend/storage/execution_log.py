"""Executions in the database, written together with their events of the audit."""

import asyncio
from dataclasses import field
from functools import partial

from sqlalchemy import delete

from backend.core.audit import execution_events as events
from backend.core.audit.attempts import Attempt, Completion
from backend.core.audit.events import Event, Kind
from backend.core.audit.execution_events import Draft
from backend.core.audit.suppression import RefusalSuppressor, SuppressedRefusals
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.model import Status
from backend.core.execution.ownership import Holdings, lease_until
from backend.core.ports import ActorLike
from backend.storage.commit_queue import CommitQueue
from backend.storage.database import LONG_PATIENCE, changes
from backend.storage.execution_figures import forget_hours
from backend.storage.execution_rows import UNFINISHED, closing, new_row
from backend.storage.refusal_filter import ITSELF, RefusalFilter
from backend.storage.tables import executions


@dataclass(slots=True)
class SqlExecutionLog:
    """The log of this server process, whose id is `owner`. `folder` is the id of its data folder.

    Every method returns once what it writes is durable, and raises StorageError.
    """

    queue: CommitQueue
    owner: str
    folder: str
    holdings: Holdings = field(default_factory=Holdings)
    floods: RefusalSuppressor = field(default_factory=RefusalSuppressor)
    _unwritten: dict[str, tuple[Attempt, Completion]] = field(default_factory=dict)
    _refusals: RefusalFilter = field(init=False)

    def __post_init__(self) -> None:
        self._refusals = RefusalFilter(self.floods, self.queue.context.now_ms, self._report_flood)

    async def refuse(self, attempt: Attempt) -> None:
        """Write a refused request; of a flood, only the beginning."""
        if self._refusals.admits(attempt):
            row = new_row(attempt.columns(Status.DENIED, self.queue.context.now_ms(), self.folder, None))
            await self.queue.write(self._events(attempt.principal, events.refused(attempt)), opened=row)

    def _report_flood(self, flood: SuppressedRefusals) -> None:
        self.queue.put((self.queue.context.event(events.suppressed(flood), ITSELF, flood.key[1]),))

    async def open(self, attempt: Attempt) -> None:
        """Write a command that is about to run here."""
        now = self.queue.context.now_ms()
        columns = attempt.columns(Status.RUNNING, now, self.folder, self.owner)
        row = new_row(columns, lease_until_ms=lease_until(now))
        await self.queue.write(self._events(attempt.principal, *events.opened(attempt)), opened=row)
        self.holdings.add(attempt.id)

    async def step(
        self, execution: str, actor: ActorLike, argvs: tuple[tuple[str, ...], ...], decision: Decision
    ) -> None:
        """Write a later step that is about to run with words other than those judged first."""
        await self.queue.write(self._events(actor, events.stepped(execution, argvs, decision)))

    async def close(self, attempt: Attempt, completion: Completion) -> bool:
        """Write the end of an execution. False if it was no longer recorded as running: then nothing is written.

        A completion that cannot be written is remembered for `retry_unwritten`.
        """
        self.holdings.ending(attempt.id)
        try:
            return await self._write_end(attempt, completion)
        except StorageError:
            self._unwritten[attempt.id] = attempt, completion
            raise

    async def _write_end(self, attempt: Attempt, completion: Completion) -> bool:
        written = await self.queue.write(
            self._events(attempt.principal, *events.closed(attempt.id, completion, self.folder)),
            closed=closing(attempt.id, Status.RUNNING, completion),
        )
        self.holdings.remove(attempt.id)
        self._unwritten.pop(attempt.id, None)
        return written

    async def retry_unwritten(self) -> int:
        """Try again to write the completions that could not be written; returns how many now are. Raises nothing."""
        waiting = list(self._unwritten.values())
        ends = (self._write_end(attempt, completion) for attempt, completion in waiting)
        results = await asyncio.gather(*ends, return_exceptions=True)
        return sum(not isinstance(result, StorageError) for result in results)

    async def prune(self, before_ms: int) -> int:
        """Delete ended executions that began before a time; returns how many."""
        old = (executions.c.created_ms < before_ms) & executions.c.status.not_in(UNFINISHED)
        await self.queue.database.write(partial(forget_hours, before_ms=before_ms))
        gone = await self.queue.database.write(changes(delete(executions).where(old)), LONG_PATIENCE)
        if gone:
            draft = Draft(Kind.PRUNED, {"executions": gone, "before_ms": before_ms})
            await self.queue.write((self.queue.context.event(draft, ITSELF, ""),))
        return gone

    def close_floods(self) -> None:
        """Queue the floods that were counted; the queue writes them before it is closed."""
        self._refusals.close()

    def _events(self, actor: ActorLike, *drafts: Draft) -> tuple[Event, ...]:
        return tuple(self.queue.context.event(draft, actor.name, actor.address) for draft in drafts)
