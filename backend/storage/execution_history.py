"""Reads the history: pages, figures, single records. `backend.storage.execution_log` writes it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Executable, Select, bindparam, func, select

from backend.core.audit.attempts import Record
from backend.core.dataclasses import dataclass
from backend.core.identity import VISITORS
from backend.core.ids import first_id, time_of
from backend.core.ports import Filter, Stats
from backend.storage.database import Database, first, rows
from backend.storage.execution_figures import COUNTED, stats_of
from backend.storage.execution_rows import COLUMNS, UNFINISHED, record_of
from backend.storage.tables import executions as table

ASKED = 500  # executions that one statement asks for
MOST = 1000  # records that `since` returns

ONE = select(*COLUMNS).where(table.c.id == bindparam("id"))


@dataclass(frozen=True, slots=True)
class SqlExecutionHistory:
    """The history in the database. Every method raises StorageError."""

    database: Database

    async def get(self, execution: str) -> Record | None:
        """One record."""
        found = await self.database.read_short(ONE, id=execution)
        return record_of(found[0]) if found else None

    async def page(self, wanted: Filter) -> Sequence[Record]:
        """Records, newest first. Ids sort by time, so an index finds each page without reading what is not on it."""
        return await self.database.read(partial(_records, query=page_query(wanted)))

    async def newest_ms(self) -> int | None:
        """The time of the newest attempt, None without any."""
        row = await self.database.read(first(select(func.max(table.c.id))))
        return time_of(row[0]) if row and row[0] else None

    async def owners(self, executions: Sequence[str]) -> Mapping[str, str]:
        """The account of each execution that has a record, VISITORS for one without an account."""
        found = dict[str, str]()
        for begin in range(0, len(executions), ASKED):
            query = select(table.c.id, table.c.user_id).where(table.c.id.in_(executions[begin : begin + ASKED]))
            found |= {row.id: row.user_id or VISITORS for row in await self.database.read(rows(query))}
        return found

    async def unfinished(self) -> frozenset[str]:
        """The executions that are queued or run, whether or not a server still writes their recordings."""
        found = await self.database.read(rows(select(table.c.id).where(table.c.status.in_(UNFINISHED))))
        return frozenset(row.id for row in found)

    async def stats(self, user_id: str, since_ms: int) -> Stats:
        """Figures over a user's commands since a time."""
        return await self.database.read(partial(stats_of, user_id=user_id, since_ms=since_ms))

    async def since(self, user_id: str, since_ms: int) -> Sequence[Record]:
        """A user's records that count since a time, newest first, at most MOST."""
        query = (
            select(*COLUMNS)
            .where(table.c.user_id == user_id, table.c.id >= first_id(since_ms), COUNTED)
            .order_by(table.c.id.desc())
            .limit(MOST)
        )
        return await self.database.read(partial(_records, query=query))


def page_query(wanted: Filter) -> Select[Any]:
    """The query of a page."""
    query = select(*COLUMNS).order_by(table.c.id.desc()).limit(wanted.limit)
    if wanted.user_id is not None:
        query = query.where(table.c.user_id == wanted.user_id)
    if wanted.target is not None:
        query = query.where(table.c.target == wanted.target)
    if wanted.schedule is not None:
        query = query.where(table.c.schedule_id == wanted.schedule)
    if wanted.status is not None:
        query = query.where(table.c.status == str(wanted.status))
    if wanted.before is not None:
        query = query.where(table.c.id < wanted.before)
    return query


def _records(connection: Connection, query: Executable) -> list[Record]:
    """The records of a query, made where it runs: with SQLite in its thread, so that a long page stops no loop."""
    return list(map(record_of, connection.execute(query)))
