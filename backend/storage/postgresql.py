"""PostgreSQL: its connections, and who uses one next. Imported only where the database is one."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import field
from functools import partial
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import Connection, Select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from backend.core.dataclasses import dataclass
from backend.core.errors import StorageError
from backend.storage.bare_connection import BareConnection
from backend.storage.database import CLOSING, LONG_PATIENCE, PATIENCE, Transactions
from backend.storage.worker_threads import Then

T = TypeVar("T")

FAREWELL = 0.3  # seconds for closing a connection that no longer answers
POOL = 15  # connections to PostgreSQL
CLOSED = "The database was closed."


class BoundedConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that does not wait for a server that does not answer, when it is closed or given up."""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """As usual; but a transaction that is cancelled is rolled back by the end of its connection.

        The statement would wait for the answer to the one that was cancelled, as SQLAlchemy's ping of a connection does.
        """
        task = asyncio.current_task()
        if query.startswith("ROLLBACK") and task and task.cancelling():
            self.terminate()
            raise asyncio.CancelledError
        status: str = await super().execute(query, *args, timeout=timeout)
        return status

    async def close(self, *, timeout: float | None = None) -> None:
        await super().close(timeout=min(timeout or FAREWELL, FAREWELL))


# The bound of a command is for migrations and for a rollback; a transaction has a shorter one.
POSTGRES: dict[str, Any] = {
    "hide_parameters": True,  # an error that is logged would contain them
    "pool_size": POOL,
    "max_overflow": 0,
    "pool_pre_ping": True,
    "pool_timeout": PATIENCE,
    "connect_args": {"timeout": PATIENCE, "command_timeout": LONG_PATIENCE, "connection_class": BoundedConnection},
}


@dataclass(slots=True)
class _Turns:
    """Who uses a connection to PostgreSQL next. To wait for one is no sign that the database fails.

    One that waited while others were given up and none ended is given up too: it would wait as long, and in vain.
    """

    free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(POOL))
    gave_up: float = -math.inf
    ended: float = -math.inf
    closed: bool = False
    over: bool = False  # what still waits after `close` would open connections that nothing closes

    @asynccontextmanager
    async def take(self, patience: float | None) -> AsyncIterator[None]:
        """A turn, for `patience` seconds. Raises TimeoutError, or StorageError after `close`."""
        if self.closed:
            raise StorageError(CLOSED)
        now = asyncio.get_running_loop().time
        begun = now()
        async with self.free:
            if self.over:
                raise StorageError(CLOSED)
            if self.gave_up > begun > self.ended:
                raise TimeoutError
            try:
                async with asyncio.timeout(patience):
                    yield
                self.ended = now()
            except TimeoutError:
                self.gave_up = now()
                raise

    async def close(self) -> None:
        """Give no more turns, and wait a moment for those that were given."""
        if not self.closed:
            self.closed = True
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSING):
                    for _ in range(POOL):
                        await self.free.acquire()
            self.over = True


@dataclass(frozen=True, slots=True)
class _Connections:
    """Connections to PostgreSQL."""

    engine: AsyncEngine
    turns: _Turns
    running: set[asyncio.Task[Any]] = field(default_factory=set)

    async def run(self, work: Callable[[Connection], T], patience: float | None) -> T:
        async with self.turns.take(patience), self.engine.begin() as connection:
            return await connection.run_sync(work)

    async def run_short(self, work: Callable[[Connection | BareConnection], T]) -> T:
        return await self.run(work, PATIENCE)

    def call_short(self, work: Callable[[Connection | BareConnection], T], then: Then[T]) -> None:
        running = asyncio.create_task(self.run_short(work))
        self.running.add(running)
        running.add_done_callback(self.running.discard)
        running.add_done_callback(partial(_tell, then))

    async def rows(self, query: Select[Any], values: Mapping[str, Any]) -> Sequence[Any]:
        return await self.run(lambda connection: connection.execute(query, values or None).all(), PATIENCE)

    async def close(self) -> None:
        await self.turns.close()
        await self.engine.dispose()


def _tell(then: Then[T], done: "asyncio.Task[T]") -> None:
    failed = asyncio.CancelledError() if done.cancelled() else done.exception()
    then(None if failed else done.result(), failed)


def transactions(url: str) -> tuple[Transactions, Transactions]:
    """Those that read and those that write. They share their connections."""
    engine, turns = create_async_engine(url, **POSTGRES), _Turns()
    return _Connections(engine.execution_options(postgresql_readonly=True), turns), _Connections(engine, turns)
