"""The database: SQLite in the data folder, or PostgreSQL, migrated under a lock at startup.

It is used in one way: a function of a connection is passed to `Database.read` or to `Database.write`.
"""

import asyncio
import fcntl
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Executable, Row, Select, create_engine, event, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from backend.core.errors import StorageError
from backend.storage.bare_connection import BareConnection
from backend.storage.modes import restore
from backend.storage.schema import bring_up_to_date
from backend.storage.worker_threads import Then, WorkerThreads

T = TypeVar("T")

BUSY_TIMEOUT = 5000  # milliseconds that SQLite waits for another writer
# Seconds for a transaction, with the time to connect, after which PostgreSQL is considered unavailable. A client waits
# for its answer that long, so it is short.
PATIENCE = 2.5
LONG_PATIENCE = 60.0  # seconds for a transaction that reads or deletes much, for which no client waits
READERS = 4  # threads that read from SQLite; a slow page of the history occupies one
CLOSING = 2.0  # seconds that a transaction may still take when the database is closed
OFTEN = 1_000_000  # instructions of SQLite, some ten milliseconds, between two looks at that time
# `sqlite+aiosqlite` is what SQLAlchemy calls an asynchronous SQLite.
DRIVERS = {"postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg", "sqlite+aiosqlite": "sqlite"}
LOG_SIZE = 8 * 2**20  # bytes that SQLite's log keeps once it was written back; a slow read makes it grow beyond
PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    f"busy_timeout={BUSY_TIMEOUT}",
    f"journal_size_limit={LOG_SIZE}",
)


def database_url(url: str | None, data_dir: Path) -> str:
    """The URL for SQLAlchemy: the given one, whose scheme may be a common one, or that of a file in the data folder."""
    if not url:
        return f"sqlite:///{data_dir.absolute() / 'gatepost.db'}"
    scheme, separator, rest = url.partition("://")
    # What libpq calls sslmode, asyncpg calls ssl.
    return f"{DRIVERS.get(scheme, scheme)}{separator}{rest.replace('sslmode=', 'ssl=')}"


class Transactions(Protocol):
    """Runs functions in transactions of their own."""

    async def run(self, work: Callable[[Connection], T], patience: float | None) -> T: ...

    async def run_short(self, work: Callable[[Connection | BareConnection], T]) -> T: ...

    def call_short(self, work: Callable[[Connection | BareConnection], T], then: Then[T]) -> None: ...

    async def rows(self, query: Select[Any], values: Mapping[str, Any]) -> Sequence[Any]: ...

    async def close(self) -> None: ...


class Database:
    """The transactions of one database. `close` ends its connections and threads."""

    def __init__(self, url: str) -> None:
        self.sqlite = make_url(url).get_backend_name() == "sqlite"
        self._file = make_url(url).database if self.sqlite else None
        self._reads, self._writes = (_sqlite if self.sqlite else _postgresql)(url)

    async def read(self, work: Callable[[Connection], T], patience: float | None = PATIENCE) -> T:
        """Run `work` in a transaction that cannot write. Raises StorageError.

        `work` returns values, not results that are still to be fetched: with SQLite it runs in another thread.
        PostgreSQL has `patience` seconds for all of it.
        """
        with _storage_errors():
            return await self._reads.run(work, patience)

    async def read_short(self, query: Select[Any], **values: object) -> Sequence[Any]:
        """The rows of a query that is made once and asked often: nothing in it depends on `values`. Raises StorageError.

        With SQLite this takes a fraction of the processor time of `read`.
        """
        with _storage_errors():
            return await self._reads.rows(query, values)

    async def write(self, work: Callable[[Connection], T], patience: float | None = PATIENCE) -> T:
        """Run `work` in a transaction that may write. Raises StorageError; IntegrityError is passed on.

        A transaction that was given up, or whose caller was cancelled, may have been committed nevertheless.
        """
        with _storage_errors():
            return await self._writes.run(work, patience)

    async def write_short(self, work: Callable[[Connection | BareConnection], T]) -> T:
        """Run `work` in a transaction in which it only executes statements that change rows.

        Raises StorageError; IntegrityError is passed on. With SQLite this takes a fraction of the processor time of `write`.
        """
        with _storage_errors():
            return await self._writes.run_short(work)

    def call_short(self, work: Callable[[Connection | BareConnection], T], then: Then[T]) -> None:
        """Begin what `write_short` does, and call `then` in the event loop with the result, or with what it would raise."""
        self._writes.call_short(work, partial(_tell, then))

    async def migrate(self) -> None:
        """Bring the tables up to date; only one process at a time. Raises StorageError."""
        try:
            with _storage_errors(), _file_lock(Path(f"{self._file}.lock") if self._file else None):
                await self.write(bring_up_to_date, patience=None)
            await self.write_short(lambda _: None)  # opens its files, for the case that they are moved away
        except StorageError as error:
            raise StorageError(f"{error}{self._hint}") from error

    @property
    def _hint(self) -> str:
        """What to do when a file cannot be used."""
        if not self._file:
            return ""
        needs = "It must be writable, on a disk with free space; restore a damaged one from a backup."
        return f" The database is the file {self._file}. {needs}"

    async def check(self) -> bool:
        """Whether the database answers."""
        try:
            await self.read(first(select(1)))
        except StorageError:
            return False
        return True

    async def close(self) -> None:
        """End all connections, once what uses them has ended."""
        await self._reads.close()
        await self._writes.close()


def rows(query: Executable, **values: object) -> Callable[[Connection], Sequence[Row[Any]]]:
    """For `Database.read`: all rows of a query."""
    return lambda connection: connection.execute(query, values or None).all()


def first(query: Executable, **values: object) -> Callable[[Connection], Row[Any] | None]:
    """For `Database.read`: the first row of a query, None if there is none."""
    return lambda connection: connection.execute(query, values or None).first()


def changes(statement: Executable) -> Callable[[Connection], int]:
    """For `Database.write`: how many rows a statement has changed."""
    return lambda connection: connection.execute(statement).rowcount


class _Threads:
    """Threads with a connection to SQLite each. A transaction is one visit to a thread, not one per statement."""

    def __init__(self, url: str, size: int, pragmas: tuple[str, ...]) -> None:
        self._pragmas = pragmas
        # Two for a thread: a bare connection stays with its thread.
        self._engine = create_engine(url, pool_size=2 * size, pool_use_lifo=True, hide_parameters=True)
        self._bare: dict[int, BareConnection] = {}  # by thread
        self._threads = WorkerThreads(size, "database")
        self._ends = math.inf  # when transactions that still run are interrupted
        event.listen(self._engine, "do_connect", self._open_files)
        event.listen(self._engine, "connect", self._prepare)

    async def run(self, work: Callable[[Connection], T], patience: float | None) -> T:
        """A transaction whose caller is cancelled goes on to its end; SQLite needs no patience."""
        return await self._threads.run(partial(self._transaction, work))

    def _transaction(self, work: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            return work(connection)

    async def run_short(self, work: Callable[[Connection | BareConnection], T]) -> T:
        """The same on a bare connection."""
        return await self._threads.run(partial(self._short_transaction, work))

    def call_short(self, work: Callable[[Connection | BareConnection], T], then: Then[T]) -> None:
        self._threads.call(partial(self._short_transaction, work), then)

    def _short_transaction(self, work: Callable[[Connection | BareConnection], T]) -> T:
        return self._bare_connection().transact(work)

    async def rows(self, query: Select[Any], values: Mapping[str, Any]) -> Sequence[Any]:
        return await self._threads.run(lambda: self._bare_connection().rows(query, values))

    def _bare_connection(self) -> BareConnection:
        """The bare connection of this thread."""
        if (thread := threading.get_ident()) not in self._bare:
            self._bare[thread] = BareConnection(self._engine.raw_connection())
        return self._bare[thread]

    def _open_files(self, *_: Any) -> None:
        """Restore the modes that a connection needs, before it is made."""
        if path := self._engine.url.database:
            restore(Path(path).parent, *(Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")))

    def _prepare(self, connection: Any, _: Any) -> None:
        connection.set_progress_handler(lambda: time.monotonic() > self._ends, OFTEN)
        cursor = connection.cursor()
        for pragma in self._pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    async def close(self) -> None:
        self._ends = time.monotonic() + CLOSING
        await asyncio.to_thread(self._threads.shutdown)
        for each in self._bare.values():
            each.close()
        self._bare.clear()
        self._engine.dispose()


def _sqlite(url: str) -> tuple[Transactions, Transactions]:
    """Those that read and those that write, of which SQLite admits one at a time. A slow one delays no other read."""
    _make_private(make_url(url).database)
    return _Threads(url, READERS, (*PRAGMAS, "query_only=ON")), _Threads(url, 1, PRAGMAS)


def _postgresql(url: str) -> tuple[Transactions, Transactions]:
    """Those of PostgreSQL, whose libraries take a tenth of a start where they are not needed."""
    from backend.storage.postgresql import transactions

    return transactions(url)


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except sqlite3.IntegrityError as error:  # of a short transaction
        raise IntegrityError(None, None, error) from error
    except PoolTimeout as error:
        raise StorageError("The database cannot be reached: all its connections are busy.") from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise StorageError(f"The database failed: {_reason(error)}.") from error
    except OSError as error:
        why = error.strerror or str(error) or "it does not answer in time"
        raise StorageError(f"The database cannot be reached: {why}.") from error


def _tell(then: Then[T], result: T | None, failed: BaseException | None) -> None:
    if failed:
        try:
            with _storage_errors():
                raise failed
        except Exception as error:
            failed = error
    then(result, failed)


def _make_private(path: str | None) -> None:
    """Create the file before SQLite does, so that no other user can read it. Errors are reported at the first use."""
    if path and path != ":memory:":
        with suppress(OSError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _reason(error: SQLAlchemyError | sqlite3.Error) -> str:
    """What went wrong, in one line and without the statement, whose values may be secret."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause).splitlines()[0][:200] if str(cause) else type(cause).__name__


@contextmanager
def _file_lock(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
