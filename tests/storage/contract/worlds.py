"""The stores of one service in memory, in SQLite, and in PostgreSQL: what a contract is tested on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import text

from backend.accounts.signatures import Signer, new_signing_key, verify_signature
from backend.core.audit.suppression import RefusalSuppressor
from backend.core.errors import StorageError
from backend.core.ports import AuditLog, ExecutionHistory, ExecutionLog, Ownership
from backend.core.times import iso
from backend.storage.audit_chain import Chain
from backend.storage.audit_head import LedgerContext
from backend.storage.commit_queue import CommitQueue
from backend.storage.database import Database, changes
from backend.storage.execution_figures import HourlyFigures
from backend.storage.execution_history import SqlExecutionHistory
from backend.storage.execution_log import SqlExecutionLog
from backend.storage.idempotency_keys import SqlIdempotencyKeys
from backend.storage.identities import SqlIdentities
from backend.storage.memory.audit_log import MemoryAuditLog
from backend.storage.memory.execution_log import MemoryExecutionLog, MemoryOwnership
from backend.storage.memory.executions import MemoryExecutions
from backend.storage.memory.idempotency_keys import MemoryIdempotencyKeys
from backend.storage.memory.identities import MemoryIdentities
from backend.storage.memory.projects import MemoryProjects
from backend.storage.memory.runners import MemoryRunners
from backend.storage.memory.schedules import MemorySchedules
from backend.storage.projects import SqlProjects
from backend.storage.runners import SqlRunners
from backend.storage.schedules import SqlSchedules
from tests.storage.writing import FOLDER, keys_of, ledger_with, new_id

FEW = 3  # refusals of a kind that are written before they count as a flood


@dataclass(frozen=True, slots=True)
class Server:
    """What one server process of a service writes through."""

    audit: AuditLog
    executions: SqlExecutionLog | MemoryExecutionLog
    ownership: Ownership

    @property
    def log(self) -> ExecutionLog:
        return self.executions


class World(Protocol):
    """A service with its stores; servers of it may come and go."""

    @property
    def history(self) -> ExecutionHistory: ...

    @property
    def keys(self) -> SqlIdempotencyKeys | MemoryIdempotencyKeys: ...

    @property
    def identities(self) -> SqlIdentities | MemoryIdentities: ...

    @property
    def projects(self) -> SqlProjects | MemoryProjects: ...

    @property
    def schedules(self) -> SqlSchedules | MemorySchedules: ...

    @property
    def runners(self) -> SqlRunners | MemoryRunners: ...

    async def server(self, owner: str, folder: str = FOLDER) -> Server: ...

    async def summarise(self, now_ms: int) -> None:
        """Sum up the hours that are over."""
        ...

    async def events(self) -> list[dict[str, Any]]:
        """What the audit has, as it is exported."""
        ...

    def outage(self) -> Any:
        """A context manager: meanwhile no execution can be written."""
        ...


@dataclass
class MemoryWorld:
    """All of it in memory."""

    clock: Callable[[], int]
    new_id: Callable[[], str]

    def __post_init__(self) -> None:
        self.audit = MemoryAuditLog(lambda: iso(self.clock()), new_id)
        self.history = MemoryExecutions()
        self.keys = MemoryIdempotencyKeys(self.history, self.clock)
        self.identities = MemoryIdentities(self.clock, self.new_id)
        self.projects = MemoryProjects(self.identities, self.clock, self.new_id)
        self.schedules = MemorySchedules(self.history)
        self.runners = MemoryRunners(self.projects, self.clock, self.new_id)

    async def server(self, owner: str, folder: str = FOLDER) -> Server:
        log = MemoryExecutionLog(
            self.history, self.audit, self.clock, owner, folder, floods=RefusalSuppressor(most=FEW)
        )
        return Server(self.audit, log, MemoryOwnership(log))

    async def summarise(self, now_ms: int) -> None:
        """Its figures are always made from all records."""

    async def events(self) -> list[dict[str, Any]]:
        fields = [dict(event.fields) | {"kind": event.kind, "actor": event.actor} for event in self.audit.events]
        return [{name: value for name, value in each.items() if value is not None} for each in fields]

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.history.outage = StorageError("The database cannot be reached.")
        yield
        self.history.outage = None


@dataclass
class SqlWorld:
    """A migrated database, with connections of its own for each server."""

    url: str
    clock: Callable[[], int]
    new_id: Callable[[], str]
    signer: Signer = field(default_factory=lambda: Signer(new_signing_key()))

    def __post_init__(self) -> None:
        self.database = Database(self.url)
        self.opened = [self.database]
        self.queues: list[CommitQueue] = []
        self.history = SqlExecutionHistory(self.database)
        self.keys = SqlIdempotencyKeys(self.database, self.clock)
        self.identities = SqlIdentities(self.database, self.clock, self.new_id)
        self.projects = SqlProjects(self.database, self.clock, self.new_id)
        self.schedules = SqlSchedules(self.database)
        self.runners = SqlRunners(self.database, self.clock, self.new_id)

    async def server(self, owner: str, folder: str = FOLDER) -> Server:
        self.opened.append(Database(self.url))
        keys, utc = keys_of(self.signer), lambda: iso(self.clock())
        context = LedgerContext(self.clock, utc, new_id, keys, verify_signature)
        made = ledger_with(self.opened[-1], context, folder, owner, floods=RefusalSuppressor(most=FEW))
        self.queues.append(made.queue)
        await made.audit.prepare()
        return Server(made.audit, made.executions, made.ownership)

    async def summarise(self, now_ms: int) -> None:
        await asyncio.gather(*(HourlyFigures(each).summarise(now_ms) for each in self.opened))

    async def events(self) -> list[dict[str, Any]]:
        return [link.content async for link in Chain(self.database).links()]

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        await self._rename("executions", "elsewhere")
        yield
        await self._rename("elsewhere", "executions")

    async def _rename(self, old: str, new: str) -> None:
        await self.database.write(changes(text(f"alter table {old} rename to {new}")))

    async def close(self) -> None:
        for queue in self.queues:  # a signature would be due after its database
            await queue.close()
        for database in self.opened:
            await database.close()
