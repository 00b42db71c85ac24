"""The database itself: migrations, and what happens when it is not there."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Select, bindparam, func, insert, inspect, literal_column, select, text, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError

from backend.core.errors import StorageError
from backend.core.execution.model import Status
from backend.core.ports import Filter
from backend.storage.bare_connection import BareConnection
from backend.storage.database import LOG_SIZE, LONG_PATIENCE, Database, changes, database_url, rows
from backend.storage.execution_history import page_query
from backend.storage.postgresql import POOL
from backend.storage.schema import LATEST, MIGRATIONS
from backend.storage.tables import api_tokens, executions, metadata, users
from tests.storage.conftest import empty_database
from tests.unprivileged import unprivileged

MANY_ROWS = text(
    "with recursive n(i) as (select 1 union all select i + 1 from n where i < 99999) select i, users.id from n left join users"
)
RENAME = update(users).where(users.c.id == bindparam("key")).values(name=bindparam("new_name"), password_hash=None)
NOWHERE: Select[Any] = (
    select(literal_column("id")).select_from(text("nowhere")).where(literal_column("id") == bindparam("v"))
)
SLEEP = text("select pg_sleep(:seconds)")
ROOT = Path(__file__).parent.parent.parent
MIGRATE = """
import asyncio, sys
from backend.storage.database import Database

async def main():
    database = Database(sys.argv[1])
    await database.migrate()
    await database.close()

asyncio.run(main())
"""
ANN = {
    "id": "ann",
    "name": "ann",
    "role": "viewer",
    "profile": "agent",
    "disabled": False,
    "created_ms": 2**41,
    "valid_from_ms": 0,
}


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty database."""
    async with empty_database(request, tmp_path) as url:
        yield url


async def tables(database: Database) -> set[str]:
    return set(await database.read(lambda each: inspect(each).get_table_names()))


async def test_migrating_twice_changes_nothing(database: Database) -> None:
    before = await tables(database)
    await database.migrate()
    assert await tables(database) == before == {*metadata.tables, "alembic_version"}


async def test_processes_that_start_at_once_migrate_once(empty_url: str) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", MIGRATE, empty_url], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [(process.communicate(timeout=60)[1], process.returncode) for process in started] == [("", 0)] * 3
    database = Database(empty_url)
    assert await tables(database) == {*metadata.tables, "alembic_version"}
    await database.close()


def upgrade(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


async def test_the_migrations_make_the_tables_of_the_code(empty_url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        upgrade(connection, "head")
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, metadata))

    database = Database(empty_url)
    assert await database.write(differences, patience=None) == []
    await database.close()


def described(connection: Connection) -> dict[str, object]:
    """All that is in a database, without the order of columns."""

    def by_name(found: Sequence[Any]) -> list[str]:
        return sorted(str(sorted(each.items(), key=str)) for each in found)

    look = inspect(connection)
    rows_of = connection.execute(text("select version_num from alembic_version")).all()
    found: dict[str, object] = {"version": [tuple(row) for row in rows_of]}
    for table in look.get_table_names():
        columns = [{**column, "type": repr(column["type"])} for column in look.get_columns(table)]
        found[table] = by_name(columns), look.get_pk_constraint(table), by_name(look.get_indexes(table))
        found[f"{table}, its references"] = (
            by_name(look.get_foreign_keys(table)),
            by_name(look.get_unique_constraints(table)),
        )
    return found | {view: look.get_view_definition(view) for view in look.get_view_names()}


@pytest.fixture(params=["sqlite", "postgresql"])
async def two(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[Database]]:
    """Two empty databases of a kind."""
    async with AsyncExitStack() as urls:
        folders = [tmp_path_factory.mktemp("database") for _ in range(2)]
        found = [Database(await urls.enter_async_context(empty_database(request, folder))) for folder in folders]
        yield found
        for database in found:
            await database.close()


async def test_a_new_database_is_what_the_migrations_make(two: list[Database]) -> None:
    new, old = two
    await new.migrate()
    await old.write(lambda connection: upgrade(connection, "0001"), patience=None)
    await old.migrate()
    expected = await old.read(described, LONG_PATIENCE)
    assert expected["version"] == [(LATEST,)]
    assert await new.read(described, LONG_PATIENCE) == expected


OLD_ROW = """insert into executions (id, principal, project_id, command, working_dir, status, risk, rule, deletes, dry_run,
    metadata_only, protection, folder, created_ms) values (:id, 'user:ann', :project, 'ls', '.', 'succeeded', 'safe',
    'allow.ls', false, false, false, 'L2', 'f', 1)"""


async def test_old_executions_get_their_target(empty_url: str) -> None:
    def upgrade_with_rows(connection: Connection) -> None:
        upgrade(connection, "0004")
        connection.execute(text(OLD_ROW), [{"id": "1", "project": None}, {"id": "2", "project": "01P"}])
        upgrade(connection, "head")

    database = Database(empty_url)
    await database.write(upgrade_with_rows, patience=None)
    found = await database.read(rows(text("select id, target from executions order by id")))
    assert [tuple(row) for row in found] == [("1", "local"), ("2", "project:01P")]
    await database.close()


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (Filter(user_id="u"), "user_id_id"),
        (Filter(user_id="u", status=Status.LOST), "user_id_status_id"),
        (Filter(target="local", status=Status.LOST, before="x"), "target_status_id"),
        (Filter(status=Status.LOST), "status_id"),
        (Filter(schedule="s"), "schedule_id_id"),
    ],
)
async def test_a_page_is_found_by_an_index(tmp_path: Path, wanted: Filter, index: str) -> None:
    """A status may be rare: what is not on the page must not be read, nor sorted."""
    database = Database(database_url(None, tmp_path))
    await database.migrate()
    query = page_query(wanted).compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    plan = [str(row.detail) for row in await database.read(rows(text(f"EXPLAIN QUERY PLAN {query}")))]
    await database.close()
    assert len(plan) == 1
    assert f"USING INDEX ix_executions_{index} (" in plan[0]


EXECUTION = {"principal": "user:ann", "user_id": "ann", "project_id": "p", "command": "rm x", "working_dir": ".",
             "status": "failed", "exit_code": 1, "duration_ms": 7, "risk": "moderate", "rule": "allow.rm", "deletes": True,
             "dry_run": False, "metadata_only": False, "folder": "f", "created_ms": 1_795_854_245_123}  # fmt: skip
DOCUMENTED = [
    "select command, success, created_at from agent_command_logs where user_id = 'ann' order by created_at desc limit 10",
    "select user_id, command, stderr, created_at from agent_command_logs where success = false order by created_at desc",
    "select user_id, command, risk_level, created_at from agent_command_logs"
    " where risk_level in ('high', 'moderate') order by created_at desc",
]


async def test_the_documented_sql_works(database: Database) -> None:
    def documented(connection: Connection) -> None:
        connection.execute(insert(executions).values(EXECUTION | {"id": "1"}))
        good = {"id": "2", "user_id": "bob", "status": "succeeded", "exit_code": 0, "risk": "safe"}
        connection.execute(insert(executions).values(EXECUTION | good))
        for query in DOCUMENTED:
            [row] = connection.execute(text(query)).mappings()
            assert (row["command"], str(row["created_at"])[:23]) == ("rm x", "2026-11-28 08:24:05.123")
        logs = connection.execute(text("select * from agent_command_logs order by id")).mappings().all()
        assert list(logs[0]) == [
            "id", "user_id", "project_id", "command", "working_dir", "success", "exit_code", "stdout", "stderr",
            "duration_ms", "risk_level", "dry_run", "created_at",
        ]  # fmt: skip
        assert [bool(row["success"]) for row in logs] == [False, True]
        since = "datetime('now', '-1 day')" if database.sqlite else "now() - interval '1 day'"
        old = text(f"select count(*) from agent_command_logs where created_at < {since}")
        connection.execute(insert(executions).values(EXECUTION | {"id": "3", "created_ms": 1}))
        assert connection.execute(old).scalar_one() >= 1

    await database.write(documented)


async def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    def twice(connection: Connection) -> None:
        connection.execute(insert(users).values(ANN))
        connection.execute(insert(users).values(ANN))

    with pytest.raises(IntegrityError):
        await database.write(twice)
    assert await database.read(rows(select(func.count()).select_from(users))) == [(0,)]


async def test_a_short_transaction_that_fails_leaves_nothing_and_the_next_one_is_written(database: Database) -> None:
    names = [{**ANN, "id": name, "name": name} for name in ("ann", "bob", "eve")]

    def add(connection: Connection | BareConnection, rows: list[dict[str, Any]]) -> int:
        connection.execute(insert(users), rows[0])
        return connection.execute(RENAME, [{"key": row["id"], "new_name": row["id"] * 2} for row in rows]).rowcount

    with pytest.raises(IntegrityError, match=r"(?i)unique") as caught:
        await database.write_short(lambda connection: [add(connection, names[:1]), add(connection, names[:1])])
    assert "2199023255552" not in str(caught.value), "an error that is logged contains no values"
    with pytest.raises(StorageError):
        await database.write_short(lambda connection: connection.execute(text("insert into nowhere values (:v)"), ANN))
    assert await database.write_short(lambda connection: add(connection, names[1:2])) == 1
    found = await database.read(rows(select(users.c.id, users.c.name)))
    assert [tuple(row) for row in found] == [("bob", "bobbob")]


@pytest.mark.parametrize("new_url", ["sqlite"], indirect=True)
async def test_a_short_transaction_reports_the_rows_of_all_its_values(database: Database) -> None:
    def add(connection: Connection | BareConnection) -> int:
        connection.execute(insert(users), [{**ANN, "id": name, "name": name} for name in ("ann", "bob")])
        return connection.execute(RENAME, [{"key": key, "new_name": key * 2} for key in ("ann", "eve", "bob")]).rowcount

    assert await database.write_short(add) == 2


async def test_a_short_read_returns_the_values_and_the_names_of_any_other(database: Database) -> None:
    hashed = select(*users.c, (users.c.id == "ann").label("is_ann")).where(users.c.id == bindparam("key"))
    assert await database.read_short(hashed, key="ann") == []
    await database.write_short(lambda connection: connection.execute(insert(users), ANN | {"disabled": True}).rowcount)
    (found,), (expected,) = await database.read_short(hashed, key="ann"), await database.read(rows(hashed, key="ann"))
    assert found._asdict() == expected._asdict()
    assert (found.disabled is True, found.is_ann is True) == (True, True)
    with pytest.raises(StorageError) as caught:
        await database.read_short(NOWHERE, v="canary")
    assert "canary" not in str(caught.value)


async def test_foreign_keys_are_kept(database: Database) -> None:
    row = {"id": "t", "user_id": "nobody", "name": "t", "secret_hash": b"", "scopes": "read", "created_ms": 0}
    with pytest.raises(IntegrityError) as caught:
        await database.write(changes(insert(api_tokens).values({**row, "secret_hash": b"canary"})))
    assert "canary" not in str(caught.value), "an error that is logged contains no values"


async def test_an_error_is_one_line_and_tells_no_values(database: Database) -> None:
    with pytest.raises(StorageError) as raised:
        await database.read(rows(text("select :value from nowhere"), value="canary"))
    assert "canary" not in str(raised.value)
    assert "\n" not in str(raised.value)


async def refused(url: str) -> None:
    """Migrating is a StorageError, and no thread stays."""
    before = threading.enumerate()  # those that other tests of this process have left
    database = Database(url)
    with pytest.raises(StorageError):
        await database.migrate()
    await database.close()
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert not [thread for thread in left if thread.name.startswith("database")]


async def test_a_file_that_cannot_be_opened_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "gatepost.db").mkdir()
    await refused(database_url(None, tmp_path))


async def test_a_file_that_is_no_database_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "gatepost.db").write_text("this is no database" * 100)
    await refused(database_url(None, tmp_path))


@pytest.mark.parametrize("place", ["postgres://nobody@127.0.0.1:1/none", "postgresql://u@/none?host=/nowhere"])
async def test_postgresql_that_is_down_is_a_storage_error(place: str, tmp_path: Path) -> None:
    await refused(database_url(place, tmp_path))


async def test_postgresql_that_does_not_answer_is_a_storage_error_that_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        database = Database(database_url(f"postgres://u@127.0.0.1:{port}/d?sslmode=disable", tmp_path))
        with pytest.raises(StorageError, match="does not answer in time"):
            await database.migrate()
        await database.close()


@pytest.mark.parametrize("new_url", ["postgresql"], indirect=True)
async def test_a_transaction_that_takes_too_long_is_given_up(database: Database) -> None:
    begun = time.monotonic()
    with pytest.raises(StorageError, match="does not answer in time"):
        await database.read(rows(SLEEP, seconds=60), patience=0.2)
    assert time.monotonic() - begun < 30
    assert await database.check()


@pytest.mark.parametrize("new_url", ["postgresql"], indirect=True)
async def test_what_waits_for_a_connection_is_not_given_up_while_others_end(database: Database) -> None:
    await asyncio.gather(*(database.read(rows(SLEEP, seconds=0.4), patience=2.5) for _ in range(8 * POOL)))


@pytest.mark.parametrize("new_url", ["postgresql"], indirect=True)
async def test_what_waits_for_a_connection_is_given_up_with_those_that_get_no_answer(database: Database) -> None:
    begun = time.monotonic()
    waiting = [database.read(rows(SLEEP, seconds=60), patience=5.0) for _ in range(4 * POOL)]
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(error, StorageError) for error in errors)
    assert time.monotonic() - begun < 4 * 5.0, "not one after another"
    assert await database.check()


async def test_a_read_cannot_write(database: Database) -> None:
    with pytest.raises(StorageError, match=r"read-?only"):
        await database.read(changes(insert(users).values(ANN)))
    assert await database.write(changes(insert(users).values(ANN))) == 1


async def test_a_slow_read_delays_neither_reads_nor_writes(in_file: Database) -> None:
    begun, done = threading.Event(), threading.Event()

    def slow(connection: Connection) -> int:
        begun.set()
        assert done.wait(10)
        return int(connection.execute(select(func.count()).select_from(users)).scalar_one())

    reading = asyncio.ensure_future(in_file.read(slow))
    assert await asyncio.to_thread(begun.wait, 10)
    assert await in_file.check()
    assert await in_file.write(changes(insert(users).values(ANN))) == 1
    assert not reading.done()
    done.set()
    assert await reading == 1


async def test_a_write_whose_caller_goes_away_is_finished(in_file: Database) -> None:
    begun, done = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        connection.execute(insert(users).values(ANN))
        begun.set()
        assert done.wait(10)

    writing = asyncio.ensure_future(in_file.write(slow))
    assert await asyncio.to_thread(begun.wait, 10)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    done.set()
    other = {**ANN, "id": "bob", "name": "bob"}
    assert await in_file.write(changes(insert(users).values(other))) == 1  # it waits for the one before
    assert await in_file.read(rows(select(users.c.id).order_by(users.c.id))) == [("ann",), ("bob",)]


async def test_close_waits_for_what_runs_and_interrupts_what_takes_too_long(
    in_file: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.storage.database.CLOSING", 0.2)
    endless = text("with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n")
    begun = threading.Event()

    def short(connection: Connection) -> int:
        begun.set()
        return connection.execute(insert(users).values(ANN)).rowcount

    reading, writing = asyncio.ensure_future(in_file.read(rows(endless))), asyncio.ensure_future(in_file.write(short))
    assert await asyncio.to_thread(begun.wait, 10)
    async with asyncio.timeout(60):
        await in_file.close()
    assert await writing == 1
    with pytest.raises(StorageError, match="interrupted"):
        await reading


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("postgres://a:b@c/d", "postgresql+asyncpg://a:b@c/d"),
        ("postgresql://a:b@c/d", "postgresql+asyncpg://a:b@c/d"),
        ("postgresql+asyncpg://c/d", "postgresql+asyncpg://c/d"),
        ("postgres://a:b@c/d?sslmode=require", "postgresql+asyncpg://a:b@c/d?ssl=require"),
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
        ("sqlite+aiosqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
        ("", "sqlite:////data/gatepost.db"),
        (None, "sqlite:////data/gatepost.db"),
    ],
)
def test_the_url(given: str | None, url: str) -> None:
    assert database_url(given, Path("/data")) == url


async def test_the_log_of_sqlite_shrinks_after_a_slow_read(tmp_path: Path) -> None:
    file = tmp_path / "gatepost.db"
    database = Database(f"sqlite:///{file}")
    await database.migrate()
    log = Path(f"{file}-wal")
    reading, done = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        rows = connection.execute(MANY_ROWS)
        rows.fetchone()
        reading.set()
        done.wait(30)
        rows.close()

    read = asyncio.create_task(database.read(slow))
    await asyncio.to_thread(reading.wait, 30)
    for number in range(12):
        name = str(number)
        await database.write(changes(insert(users).values(ANN | {"id": name, "name": name, "profile": "x" * 2**20})))
    assert log.stat().st_size > LOG_SIZE
    done.set()
    await read
    for number in range(20, 40):
        await database.write(changes(insert(users).values(ANN | {"id": str(number), "name": str(number)})))
    assert log.stat().st_size <= LOG_SIZE
    await database.close()


async def test_files_of_the_database_that_were_closed_are_opened_again() -> None:
    with unprivileged() as folder:
        file = folder / "data" / "gatepost.db"
        file.parent.mkdir()
        database = Database(f"sqlite:///{file}")
        await database.migrate()
        for path in (*file.parent.iterdir(), file.parent):
            path.chmod(0)
        assert await database.check()
        await database.close()
