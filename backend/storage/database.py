"""The database: SQLite in the data folder, or PostgreSQL. One engine per process, migrated under a lock at startup."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from backend.core.errors import StorageError

T = TypeVar("T")

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x6761746570  # an arbitrary number that no other application uses
BUSY_TIMEOUT = 5000  # milliseconds that SQLite waits for another writer
# Seconds for a transaction, with the time to connect, after which PostgreSQL is considered unavailable. A client waits
# for its answer that long, so it is short.
PATIENCE = 2.5
LONG_PATIENCE = 60.0  # seconds for a transaction that reads or deletes much, for which no client waits
FAREWELL = 0.3  # seconds for closing a connection that no longer answers
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT}")


def database_url(url: str | None, data_dir: Path) -> str:
    """The URL for SQLAlchemy: the given one, which may be `postgres://`, or that of a file in the data folder."""
    if not url:
        return f"sqlite+aiosqlite:///{data_dir.absolute() / 'gatepost.db'}"
    scheme, separator, rest = url.partition("://")
    driver = {"postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
    # What libpq calls sslmode, asyncpg calls ssl.
    return f"{driver.get(scheme, scheme)}{separator}{rest.replace('sslmode=', 'ssl=')}"


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection whose close does not wait long for a server that does not answer."""

    async def close(self, *, timeout: float | None = None) -> None:
        await super().close(timeout=min(timeout or FAREWELL, FAREWELL))


# The bound of a command is for migrations and for a rollback; `Database.begin` has a shorter one.
POSTGRES: dict[str, Any] = {
    "pool_pre_ping": True,
    "pool_timeout": PATIENCE,
    "connect_args": {"timeout": PATIENCE, "command_timeout": LONG_PATIENCE, "connection_class": _Connection},
}


class Database:
    """An engine and its transactions. `close` ends its connections and threads."""

    def __init__(self, url: str) -> None:
        self.sqlite = make_url(url).get_backend_name() == "sqlite"
        self.engine: AsyncEngine = create_async_engine(url, **({} if self.sqlite else POSTGRES))
        self._writer: Engine | None = None
        if self.sqlite:
            _make_private(make_url(url).database)
            self._writer = create_engine(url.replace("+aiosqlite", ""))
            self._thread = ThreadPoolExecutor(1, "database-writer")
            for engine in (self.engine.sync_engine, self._writer):
                event.listen(engine, "connect", _prepare_sqlite)

    @asynccontextmanager
    async def begin(self, patience: float | None = PATIENCE) -> AsyncIterator[AsyncConnection]:
        """A transaction. Raises StorageError if the database fails; IntegrityError is passed on.

        PostgreSQL has `patience` seconds for all of it. One that was given up may have been committed nevertheless.
        """
        with _storage_errors():
            async with asyncio.timeout(None if self.sqlite else patience), self.engine.begin() as connection:
                yield connection

    async def write(self, work: Callable[[Connection], T], patience: float | None = PATIENCE) -> T:
        """Run `work` in a transaction of its own. Raises StorageError.

        With SQLite the transaction is one call in a thread, which takes half the time of one call per statement.
        """
        if self._writer is None:
            async with self.begin(patience) as connection:
                return await connection.run_sync(work)
        with _storage_errors():
            return await asyncio.get_running_loop().run_in_executor(self._thread, _transaction, self._writer, work)

    async def migrate(self) -> None:
        """Bring the tables up to date; only one process at a time. Raises StorageError."""
        with _file_lock(self._lock_file()):
            async with self.begin(patience=None) as connection:
                if not self.sqlite:
                    await connection.execute(text(f"select pg_advisory_xact_lock({MIGRATION_LOCK})"))
                await connection.run_sync(_upgrade)

    def _lock_file(self) -> Path | None:
        name = make_url(str(self.engine.url)).database
        return Path(f"{name}.lock") if self.sqlite and name else None

    async def check(self) -> bool:
        """Whether the database answers."""
        try:
            async with self.begin() as connection:
                await connection.execute(text("select 1"))
        except StorageError:
            return False
        return True

    async def close(self) -> None:
        """End all connections."""
        await self.engine.dispose()
        if self._writer:
            self._writer.dispose()
            self._thread.shutdown()


def _transaction(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except PoolTimeout as error:
        raise StorageError("The database cannot be reached: all its connections are busy.") from error
    except SQLAlchemyError as error:
        raise StorageError(f"The database failed: {_reason(error)}.") from error
    except OSError as error:
        why = error.strerror or str(error) or "it does not answer in time"
        raise StorageError(f"The database cannot be reached: {why}.") from error


def _make_private(path: str | None) -> None:
    """Create the file before SQLite does, so that no other user can read it. Errors are reported at the first use."""
    if path and path != ":memory:":
        with suppress(OSError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _prepare_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _reason(error: SQLAlchemyError) -> str:
    """What went wrong, in one line and without the statement, whose values may be secret."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause).splitlines()[0][:200] if str(cause) else type(cause).__name__


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def _file_lock(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
