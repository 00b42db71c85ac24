"""Schedules and their runs in the database, shared by all servers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Update,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError

from backend.core.dataclasses import dataclass
from backend.core.ids import as_id
from backend.core.schedules.model import ACTIVE, Ended, Policy, ReadyRun, Run, RunStatus, Schedule, What, When
from backend.core.schedules.ports import RunPage
from backend.core.schedules.rules import Due
from backend.storage.database import LONG_PATIENCE, Database, changes
from backend.storage.execution_rows import UNFINISHED, storable
from backend.storage.tables import executions, schedule_runs, schedules

# Built once, since a server at rest asks for nothing else.
WORK = select(
    or_(
        exists().where(schedules.c.next_due_ms <= bindparam("now")),
        exists().where(
            schedule_runs.c.status.in_([str(RunStatus.WAITING), str(RunStatus.STARTING)]),
            schedule_runs.c.start_ms <= bindparam("now"),
        ),
        exists().where(schedule_runs.c.status == str(RunStatus.RUNNING)),
    )
)
UNENDED = tuple(map(str, (RunStatus.WAITING, *ACTIVE)))


@dataclass(frozen=True, slots=True)
class SqlSchedules:
    """The schedules in the database; see `Schedules`. Every method raises StorageError."""

    database: Database

    async def add(self, schedule: Schedule, most: int) -> bool:
        """False if its owner has `most` schedules already."""
        return await self.database.write(partial(_add, schedule=schedule, most=most))

    async def get(self, id: str) -> Schedule | None:
        """A schedule, None if there is none."""
        found = await self.database.read(partial(_schedules, condition=schedules.c.id == as_id(id)))
        return found[0] if found else None

    async def of(self, owner_id: str | None) -> Sequence[Schedule]:
        """Those of an account, or all; the oldest first."""
        condition = true() if owner_id is None else schedules.c.owner_id == as_id(owner_id)
        return await self.database.read(partial(_schedules, condition=condition))

    async def replace(self, old: Schedule, new: Schedule) -> bool:
        """Change a schedule. False if it is due at another time by now, or does not exist (any more)."""
        return await self.database.write(changes(_unmoved(old).values({**_columns(new), "id": schedules.c.id}))) == 1

    async def delete(self, id: str) -> bool:
        """Delete a schedule with its runs; False if there is none."""
        return await self.database.write(changes(delete(schedules).where(schedules.c.id == as_id(id)))) == 1

    async def has_work(self, now_ms: int) -> bool:
        """Whether a schedule is due, a run may start, or one is on record as running."""
        return await self.database.read(lambda one: bool(one.execute(WORK, {"now": now_ms}).scalar()))

    async def due(self, now_ms: int, limit: int) -> Sequence[tuple[Schedule, int]]:
        """The schedules whose next due time has come, the longest due first, with how many runs of each wait."""
        return await self.database.read(partial(_due, now_ms=now_ms, limit=limit))

    async def advance(self, schedule: Schedule, due: Due) -> bool:
        """Store the runs of due times and the next due time. False if another server was first, or it has changed."""
        return await self.database.write(partial(_advance, schedule=schedule, due=due))

    async def add_run(self, run: Run) -> bool:
        """False if the schedule does not exist, or the run does."""
        try:
            return await self.database.write(changes(insert(schedule_runs).values(_run_columns(run)))) == 1
        except IntegrityError:
            return False

    async def ready(self, now_ms: int, limit: int) -> Sequence[ReadyRun]:
        """Runs that may start, the oldest first, and those that a dead server was submitting."""
        return await self.database.read(partial(_ready, now_ms=now_ms, limit=limit))

    async def ended(self, limit: int) -> Sequence[Ended]:
        """Runs on record as running whose executions have ended, or are no longer stored."""
        return await self.database.read(partial(_ended, limit=limit))

    async def claim(self, old: Run, new: Run) -> bool:
        """Replace a run that may start by `new`. False if it has changed, or another run of its schedule is active."""
        return await self.database.write(partial(_claim, old=old, new=new))

    async def settle(self, old: Run, new: Run, retry: Run | None = None) -> bool:
        """Replace a run by `new`, and add its retry. False if it has changed."""
        return await self.database.write(partial(_settle, old=old, new=new, retry=retry))

    async def runs(self, page: RunPage) -> Sequence[Run]:
        """The runs of a schedule, newest first."""
        query = select(schedule_runs).where(schedule_runs.c.schedule_id == as_id(page.schedule_id))
        if page.before_ms is not None:
            query = query.where(schedule_runs.c.due_ms < page.before_ms)
        newest = query.order_by(schedule_runs.c.due_ms.desc(), schedule_runs.c.attempt.desc()).limit(page.limit)
        return await self.database.read(lambda one: [_run(row._mapping) for row in one.execute(newest)])

    async def prune(self, before_ms: int) -> int:
        """Delete ended runs that were due before a time; returns how many."""
        old = (schedule_runs.c.due_ms < before_ms) & schedule_runs.c.status.not_in(UNENDED)
        return await self.database.write(changes(delete(schedule_runs).where(old)), LONG_PATIENCE)


def _add(connection: Connection, schedule: Schedule, most: int) -> bool:
    mine = select(func.count()).where(schedules.c.owner_id == schedule.owner_id)
    if connection.execute(mine).scalar_one() >= most:
        return False
    connection.execute(insert(schedules).values(_columns(schedule)))
    return True


def _schedules(connection: Connection, condition: ColumnElement[bool]) -> list[Schedule]:
    query = select(schedules).where(condition).order_by(schedules.c.id)
    return [_schedule(row) for row in connection.execute(query)]


def _due(connection: Connection, now_ms: int, limit: int) -> list[tuple[Schedule, int]]:
    waiting = (
        select(func.count())
        .where(schedule_runs.c.schedule_id == schedules.c.id, schedule_runs.c.status == str(RunStatus.WAITING))
        .scalar_subquery()
    )
    query = select(schedules, waiting.label("waiting")).where(schedules.c.next_due_ms <= now_ms)
    found = connection.execute(query.order_by(schedules.c.next_due_ms).limit(limit))
    return [(_schedule(row), row.waiting) for row in found]


def _advance(connection: Connection, schedule: Schedule, due: Due) -> bool:
    if connection.execute(_unmoved(schedule).values(next_due_ms=due.next_due_ms)).rowcount != 1:
        return False
    # A clock that was set back makes times due again whose runs exist.
    times = [run.due_ms for run in due.runs]
    its = select(schedule_runs.c.due_ms).where(schedule_runs.c.schedule_id == schedule.id)
    known = set(connection.execute(its.where(schedule_runs.c.due_ms.in_(times))).scalars())
    if new := [_run_columns(run) for run in due.runs if run.due_ms not in known]:
        connection.execute(insert(schedule_runs), new)
    return True


def _unmoved(schedule: Schedule) -> Update:
    """A change of a schedule that is still due at the same time."""
    next_due = schedules.c.next_due_ms
    same = next_due.is_(None) if schedule.next_due_ms is None else next_due == schedule.next_due_ms
    return update(schedules).where(schedules.c.id == as_id(schedule.id), same)


def _ready(connection: Connection, now_ms: int, limit: int) -> list[ReadyRun]:
    runs, other = schedule_runs, schedule_runs.alias()
    busy = exists().where(
        other.c.schedule_id == runs.c.schedule_id,
        other.c.status.in_(ACTIVE),
        or_(other.c.due_ms != runs.c.due_ms, other.c.attempt != runs.c.attempt),
    )
    query = (
        select(schedules, runs, busy.label("busy"))
        .join(schedules)
        .where(runs.c.status.in_((RunStatus.WAITING, RunStatus.STARTING)), runs.c.start_ms <= now_ms)
        .where(~and_(schedules.c.overlap == Policy.QUEUE, busy))
        .order_by(runs.c.start_ms, runs.c.schedule_id, runs.c.due_ms, runs.c.attempt)
        .limit(limit)
    )
    return [ReadyRun(_schedule(row), _run(row._mapping), bool(row.busy)) for row in connection.execute(query)]


def _ended(connection: Connection, limit: int) -> list[Ended]:
    status = func.coalesce(executions.c.status, str(RunStatus.LOST)).label("ended_with")
    query = (
        select(schedules, schedule_runs, status)
        .join(schedules)
        .outerjoin(executions, executions.c.id == schedule_runs.c.execution)
        .where(schedule_runs.c.status == str(RunStatus.RUNNING), status.not_in(UNFINISHED))
        .order_by(schedule_runs.c.start_ms)
        .limit(limit)
    )
    return [Ended(_schedule(row), _run(row._mapping), RunStatus(row.ended_with)) for row in connection.execute(query)]


def _claim(connection: Connection, old: Run, new: Run) -> bool:
    # This locks the schedule, so that of two runs of it that are claimed at once the second one sees the first.
    connection.execute(update(schedules).where(schedules.c.id == old.schedule_id).values(id=schedules.c.id))
    others = (schedule_runs.c.schedule_id == old.schedule_id) & schedule_runs.c.status.in_(ACTIVE) & ~_has_key(old)
    if connection.execute(select(schedule_runs.c.due_ms).where(others).limit(1)).first():
        return False
    return _settle(connection, old, new, None)


def _settle(connection: Connection, old: Run, new: Run, retry: Run | None) -> bool:
    unchanged = (schedule_runs.c.status == str(old.status)) & (schedule_runs.c.start_ms == old.start_ms)
    its = update(schedule_runs).where(_has_key(old), unchanged).values(_run_columns(new))
    if connection.execute(its).rowcount != 1:
        return False
    if retry:
        connection.execute(insert(schedule_runs).values(_run_columns(retry)))
    return True


def _has_key(run: Run) -> ColumnElement[bool]:
    columns = schedule_runs.c
    return and_(columns.schedule_id == run.schedule_id, columns.due_ms == run.due_ms, columns.attempt == run.attempt)


def _columns(schedule: Schedule) -> dict[str, Any]:
    own = {name: getattr(schedule, name) for name in ("id", "owner_id", "created_ms", "next_due_ms")}
    what = {name: storable(value) if isinstance(value, str) else value for name, value in asdict(schedule.what).items()}
    return {**own, "name": storable(schedule.name), **what, **_texts(asdict(schedule.when))}


def _run_columns(run: Run) -> dict[str, Any]:
    return _texts(asdict(run))


def _texts(columns: dict[str, Any]) -> dict[str, Any]:
    """The columns with words of enumerations as plain texts."""
    return {name: str(value) if isinstance(value, str) else value for name, value in columns.items()}


def _schedule(row: Row[*tuple[Any, ...]]) -> Schedule:
    values = row._mapping
    when = {name: values[schedules.c[name]] for name in When.__slots__}
    return Schedule(
        id=values[schedules.c.id],
        owner_id=values[schedules.c.owner_id],
        name=values[schedules.c.name],
        what=What(**{name: values[schedules.c[name]] for name in What.__slots__}),
        when=When(**{**when, "missed": Policy(when["missed"]), "overlap": Policy(when["overlap"])}),
        created_ms=values[schedules.c.created_ms],
        next_due_ms=values[schedules.c.next_due_ms],
    )


def _run(values: Mapping[Any, Any]) -> Run:
    found = {name: values[schedule_runs.c[name]] for name in Run.__slots__}
    return Run(**{**found, "status": RunStatus(found["status"])})
