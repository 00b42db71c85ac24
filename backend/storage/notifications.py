"""Notifications and their deliveries in the database, shared by all servers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, exists, func, insert, or_, select, true, update

from backend.core.dataclasses import dataclass
from backend.core.ids import as_id
from backend.core.notifications.model import Delivery, DeliveryStatus, EventType, Notification
from backend.storage.database import LONG_PATIENCE, Database, changes
from backend.storage.execution_rows import storable
from backend.storage.tables import deliveries, ended_executions, notifications

# Built once, since a server at rest asks for nothing else.
WORK = select(
    or_(
        select(ended_executions.c.execution).exists(),
        exists().where(
            deliveries.c.status == str(DeliveryStatus.PENDING),
            deliveries.c.next_ms <= bindparam("now"),
        ),
    )
)


@dataclass(frozen=True, slots=True)
class SqlNotifications:
    """The notifications in the database; see `Notifications`. Every method raises StorageError."""

    database: Database

    async def add(self, notification: Notification, most: int) -> bool:
        """False if its owner has `most` already."""
        return await self.database.write(partial(_add, notification=notification, most=most))

    async def get(self, id: str) -> Notification | None:
        """A notification, None if there is none."""
        found = await self._where(notifications.c.id == as_id(id))
        return found[0] if found else None

    async def of(self, owner_id: str | None) -> Sequence[Notification]:
        """Those of an account, or all; the oldest first."""
        return await self._where(true() if owner_id is None else notifications.c.owner_id == as_id(owner_id))

    async def delete(self, id: str) -> bool:
        """Delete a notification with its deliveries; False if there is none."""
        return await self.database.write(changes(delete(notifications).where(notifications.c.id == as_id(id)))) == 1

    async def has_work(self, now_ms: int) -> bool:
        """Whether an execution has ended, or a delivery may be sent."""
        return await self.database.read(lambda one: bool(one.execute(WORK, {"now": now_ms}).scalar()))

    async def ended(self, limit: int) -> Sequence[str]:
        """Executions that have ended and were not looked at, the oldest first."""
        query = select(ended_executions.c.execution).order_by(ended_executions.c.execution).limit(limit)
        return await self.database.read(lambda one: one.execute(query).scalars().all())

    async def about(self, user_id: str | None, subjects: Sequence[str]) -> Sequence[Notification]:
        """The notifications about these subjects, and about all executions of an account."""
        columns = notifications.c
        mine = (columns.subject == "executions") & (columns.owner_id == as_id(user_id or ""))
        return await self._where(or_(columns.subject.in_(subjects), mine))

    async def looked_at(self, execution: str, deliveries: Sequence[Delivery]) -> bool:
        """Replace an execution that has ended by its deliveries. False if another server was first."""
        return await self.database.write(partial(_looked_at, execution=execution, new=deliveries))

    async def due(self, now_ms: int, limit: int) -> Sequence[tuple[Notification, Delivery]]:
        """Deliveries that may be sent: one of each account, then the next one of each, the longest due first."""
        age = (deliveries.c.next_ms, deliveries.c.id)
        turn = func.row_number().over(partition_by=notifications.c.owner_id, order_by=age)
        query = (
            select(notifications, deliveries)
            .join(notifications)
            .where(deliveries.c.status == str(DeliveryStatus.PENDING), deliveries.c.next_ms <= now_ms)
            .order_by(turn, *age)
            .limit(limit)
        )
        return await self.database.read(
            lambda one: [(_notification(row._mapping), _delivery(row._mapping)) for row in one.execute(query)]
        )

    async def replace(self, old: Delivery, new: Delivery) -> bool:
        """Change a delivery. False if it has changed."""
        columns = deliveries.c
        same = (columns.id == old.id) & (columns.status == str(old.status)) & (columns.next_ms == old.next_ms)
        return await self.database.write(changes(update(deliveries).where(same).values(_columns(new)))) == 1

    async def dead(self) -> Mapping[str, int]:
        """How many messages of each notification are dead, where there are any."""
        columns = deliveries.c
        dead = select(columns.notification_id, func.count()).where(columns.status == str(DeliveryStatus.DEAD))
        query = dead.group_by(columns.notification_id)
        return await self.database.read(lambda one: {row[0]: row[1] for row in one.execute(query)})

    async def delivery(self, notification: str, id: str) -> Delivery | None:
        """A delivery of a notification; None if there is none."""
        columns = deliveries.c
        query = select(deliveries).where(columns.notification_id == as_id(notification), columns.id == as_id(id))
        found = await self.database.read(lambda one: [_delivery(row._mapping) for row in one.execute(query)])
        return found[0] if found else None

    async def deliveries(self, notification: str, limit: int) -> Sequence[Delivery]:
        """The deliveries of a notification, newest first."""
        mine = select(deliveries).where(deliveries.c.notification_id == as_id(notification))
        query = mine.order_by(deliveries.c.id.desc()).limit(limit)
        return await self.database.read(lambda one: [_delivery(row._mapping) for row in one.execute(query)])

    async def prune(self, before_ms: int) -> int:
        """Delete deliveries that are older than a time and no longer pending; returns how many."""
        old = (deliveries.c.created_ms < before_ms) & (deliveries.c.status != str(DeliveryStatus.PENDING))
        return await self.database.write(changes(delete(deliveries).where(old)), LONG_PATIENCE)

    async def _where(self, condition: ColumnElement[bool]) -> Sequence[Notification]:
        query = select(notifications).where(condition).order_by(notifications.c.id)
        return await self.database.read(lambda one: [_notification(row._mapping) for row in one.execute(query)])


def _add(connection: Connection, notification: Notification, most: int) -> bool:
    mine = select(func.count()).where(notifications.c.owner_id == notification.owner_id)
    if connection.execute(mine).scalar_one() >= most:
        return False
    events = " ".join(sorted(notification.events))
    row = {**asdict(notification), "name": storable(notification.name), "events": events}
    connection.execute(insert(notifications).values(row))
    return True


def _looked_at(connection: Connection, execution: str, new: Sequence[Delivery]) -> bool:
    its = delete(ended_executions).where(ended_executions.c.execution == execution)
    if connection.execute(its).rowcount != 1:
        return False
    if new:
        connection.execute(insert(deliveries), [_columns(each) for each in new])
    return True


def _columns(delivery: Delivery) -> dict[str, Any]:
    columns = asdict(delivery)
    return {**columns, "event": str(delivery.event), "status": str(delivery.status), "error": storable(delivery.error)}


def _notification(values: Mapping[Any, Any]) -> Notification:
    found = {name: values[notifications.c[name]] for name in Notification.__slots__}
    return Notification(**{**found, "events": frozenset(map(EventType, found["events"].split()))})


def _delivery(values: Mapping[Any, Any]) -> Delivery:
    found = {name: values[deliveries.c[name]] for name in Delivery.__slots__}
    return Delivery(**{**found, "event": EventType(found["event"]), "status": DeliveryStatus(found["status"])})
