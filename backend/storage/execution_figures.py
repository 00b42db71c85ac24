"""Figures over the executions of an account: sums of whole hours that are over, and the rows of the rest."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, delete, false, func, insert, literal, select, update
from sqlalchemy.exc import IntegrityError

from backend.core.audit.anomalies import MISTAKES, UNCOUNTED_RULES
from backend.core.dataclasses import dataclass
from backend.core.decisions import Risk
from backend.core.execution.model import Status
from backend.core.ids import first_id, time_of
from backend.core.ports import Stats
from backend.core.times import HOUR_MS
from backend.storage.database import LONG_PATIENCE, Database
from backend.storage.execution_rows import UNFINISHED
from backend.storage.tables import execution_hours as hours
from backend.storage.tables import executions as table
from backend.storage.tables import summarised_hours

LAG = 2  # hours until one is summed up: for servers whose clocks are late
NEVER = 1 << 30  # an hour
AT_ONCE = 24  # hours summed up in one transaction, at most

# What `anomalies.is_counted` says of a record.
COUNTED = (
    (table.c.dry_run == false())
    & ~table.c.rule.startswith(MISTAKES, autoescape=True)
    & table.c.rule.not_in(sorted(UNCOUNTED_RULES))
)
SUCCEEDED = table.c.status == str(Status.SUCCEEDED)
DANGEROUS = table.c.risk.in_([str(Risk.HIGH), str(Risk.BLOCKED)])


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


SUMS = (
    func.count(),
    _count(SUCCEEDED),
    _count(~SUCCEEDED & table.c.status.not_in(UNFINISHED)),
    _count(DANGEROUS),
    func.count(table.c.duration_ms),
    func.coalesce(func.sum(table.c.duration_ms), 0),
)
FIGURES = (hours.c.total, hours.c.successful, hours.c.failed, hours.c.high_risk, hours.c.measured, hours.c.duration_ms)
OF_HOURS = tuple(func.coalesce(func.sum(each), 0) for each in FIGURES)


def stats_of(connection: Connection, user_id: str, since_ms: int) -> Stats:
    """Figures over a user's commands since a time."""
    first, until = -(-max(since_ms, 0) // HOUR_MS), _until(connection)
    if until <= first:
        return _stats([_sum_rows(connection, user_id, since_ms, None)])
    query = select(*OF_HOURS).where(hours.c.user_id == user_id, hours.c.hour >= first, hours.c.hour < until)
    whole = tuple(connection.execute(query).one())
    begun = _sum_rows(connection, user_id, since_ms, first * HOUR_MS)
    return _stats([begun, whole, _sum_rows(connection, user_id, until * HOUR_MS, None)])


def forget_hours(connection: Connection, before_ms: int) -> None:
    """Delete the figures of executions that are deleted, by whole hours."""
    connection.execute(delete(hours).where(hours.c.hour < before_ms // HOUR_MS))


@dataclass(frozen=True, slots=True)
class HourlyFigures:
    """Sums up hours once nothing of them can change any more."""

    database: Database

    async def summarise(self, now_ms: int) -> None:
        """Sum up all hours that are over; several servers may do so at once. Raises StorageError."""
        while await self.database.write(partial(_summarise_some, now_ms=now_ms), LONG_PATIENCE):
            pass


def _summarise_some(connection: Connection, now_ms: int) -> bool:
    """Sum up the next hours; whether there may be more."""
    until = _until(connection)
    begin, end = _next_hours(connection, until, now_ms)
    if end <= until or not _move(connection, until, end):
        return False
    for hour in range(begin, end):
        within = and_(table.c.id >= first_id(hour * HOUR_MS), table.c.id < first_id((hour + 1) * HOUR_MS))
        sums = select(table.c.user_id, literal(hour), *SUMS).where(within, COUNTED, table.c.user_id.is_not(None))
        connection.execute(
            insert(hours).from_select(
                ["user_id", "hour", *(each.name for each in FIGURES)], sums.group_by(table.c.user_id)
            )
        )
    return True


def _next_hours(connection: Connection, until: int, now_ms: int) -> tuple[int, int]:
    """From the first hour with an execution to the last one, at most AT_ONCE, in which nothing is unfinished."""
    end = min(now_ms // HOUR_MS - LAG, _first_hour(connection, table.c.status.in_(UNFINISHED)))
    begin = min(_first_hour(connection, table.c.id >= first_id(until * HOUR_MS)), end)
    return begin, min(begin + AT_ONCE, end)


def _first_hour(connection: Connection, which: ColumnElement[bool]) -> int:
    first = connection.execute(select(func.min(table.c.id)).where(which)).scalar()
    return time_of(first) // HOUR_MS if first else NEVER


def _until(connection: Connection) -> int:
    return connection.execute(select(summarised_hours.c.until)).scalar() or 0


def _move(connection: Connection, old: int, new: int) -> bool:
    """Whether no other server was faster."""
    if old:
        moving = update(summarised_hours).where(summarised_hours.c.until == old).values(until=new)
        return connection.execute(moving).rowcount == 1
    try:
        with connection.begin_nested():
            connection.execute(insert(summarised_hours).values(id=1, until=new))
    except IntegrityError:
        return False
    return True


def _sum_rows(connection: Connection, user_id: str, from_ms: int, before_ms: int | None) -> Sequence[Any]:
    """The sums of a stretch of time, which one index finds."""
    query = select(*SUMS).where(table.c.user_id == user_id, table.c.id >= first_id(from_ms), COUNTED)
    if before_ms is not None:
        query = query.where(table.c.id < first_id(before_ms))
    return tuple(connection.execute(query).one())


def _stats(parts: Sequence[Sequence[Any]]) -> Stats:
    total, successful, failed, high_risk, measured, duration = (int(sum(each)) for each in zip(*parts, strict=True))
    return Stats(total, successful, failed, high_risk, duration / measured if measured else 0.0)
