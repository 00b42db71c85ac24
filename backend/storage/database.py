"""The database: SQLite in the data folder, or PostgreSQL. One engine a process, migrated under a lock at its start."""

import fcntl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from backend.core.errors import StorageError

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x6761746570  # any number that is ours alone
BUSY_TIMEOUT = 5000  # milliseconds that SQLite waits for another writer
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT}")


def database_url(url: str | None, data_dir: Path) -> str:
    """The URL for SQLAlchemy: as it is given, `postgres://` too, or that of a file in the data folder."""
    if not url:
        return f"sqlite+aiosqlite:///{data_dir.absolute() / 'gatepost.db'}"
    scheme, separator, rest = url.partition("://")
    driver = {"postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
    return f"{driver.get(scheme, scheme)}{separator}{rest}"


class Database:
    """An engine and its transactions. `close` ends its connections and threads."""

    def __init__(self, url: str) -> None:
        self.engine: AsyncEngine = create_async_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        self.sqlite = self.engine.dialect.name == "sqlite"
        if self.sqlite:
            event.listen(self.engine.sync_engine, "connect", _prepare_sqlite)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction. Raises StorageError when the database cannot do it; IntegrityError passes as it is."""
        try:
            async with self.engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise StorageError(f"The database cannot do it: {_reason(error)}.") from error
        except OSError as error:
            raise StorageError(f"The database cannot be reached: {error.strerror or error}.") from error

    async def migrate(self) -> None:
        """Bring the tables up to date; only one process at a time. Raises StorageError."""
        with _file_lock(self._lock_file()):
            async with self.begin() as connection:
                if not self.sqlite:
                    await connection.execute(text(f"select pg_advisory_xact_lock({MIGRATION_LOCK})"))
                await connection.run_sync(_upgrade)

    def _lock_file(self) -> Path | None:
        name = make_url(str(self.engine.url)).database
        return Path(f"{name}.lock") if self.sqlite and name else None

    async def close(self) -> None:
        await self.engine.dispose()


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
