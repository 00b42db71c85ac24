"""Reports how executions ended to those who asked for it, on any of the servers."""

import asyncio
import json
from collections.abc import Callable

from backend.application.executions import ExecutionService
from backend.application.owned import Users
from backend.core.audit.attempts import Record
from backend.core.dataclasses import dataclass, replace
from backend.core.execution.model import Status
from backend.core.identity import acting_as
from backend.core.notifications.model import Delivery, EventType, Notification
from backend.core.notifications.ports import Notifications, Sender
from backend.core.notifications.rules import CLAIM, after_attempt, event_of, is_same_work, subjects_of
from backend.core.ports import Filter
from backend.core.times import iso

BATCH = 100  # executions, and deliveries, that are read at once
AT_ONCE = 16  # messages that are sent at the same time
EARLIER = 100  # executions among which the one before is searched


@dataclass(frozen=True, slots=True)
class Notifier:
    """Turns ends into deliveries, and sends them. `random` returns numbers from 0 to 1."""

    store: Notifications
    service: ExecutionService
    users: Users
    sender: Sender
    now_ms: Callable[[], int]
    new_id: Callable[[], str]
    random: Callable[[], float]

    async def run_once(self) -> None:
        """Look at what has ended, then send what is due. Raises StorageError."""
        if not await self.store.has_work(self.now_ms()):
            return
        for execution in await self.store.ended(BATCH):
            await self.store.looked_at(execution, await self._deliveries(execution))
        due = await self.store.due(self.now_ms(), AT_ONCE)
        await asyncio.gather(*(self._deliver(*each) for each in due))

    async def _deliveries(self, execution: str) -> list[Delivery]:
        record = await self.service.history.get(execution)
        if record is None or record.dry_run:
            return []
        asked = await self.store.about(record.user_id, subjects_of(record))
        if not asked:
            return []
        event = event_of(record.status, await self._previous(record))
        return [
            self._delivery(each, record, event)
            for each in asked
            if event in each.events and await self._sees(each, record)
        ]

    async def _sees(self, notification: Notification, record: Record) -> bool:
        """Whether the owner of a notification may view the execution now."""
        owner = await self.users.user(notification.owner_id)
        if owner is None or owner.disabled:
            return False
        return isinstance(await self.service.view(acting_as(owner), record.id), Record)

    async def _previous(self, record: Record) -> Status | None:
        """How the execution before this one ended, if it did the same."""
        by = Filter(schedule=record.schedule_id) if record.schedule_id else Filter(user_id=record.user_id)
        earlier = await self.service.history.page(replace(by, before=record.id, limit=EARLIER))
        return next((each.status for each in earlier if each.status.is_final and is_same_work(each, record)), None)

    def _delivery(self, notification: Notification, record: Record, event: EventType) -> Delivery:
        now = self.now_ms()
        body = json.dumps({"event": event, "time": iso(now), "execution": _shown(record)}, ensure_ascii=True)
        return Delivery(self.new_id(), notification.id, record.id, event, body, now, now)

    async def _deliver(self, notification: Notification, delivery: Delivery) -> None:
        claimed = replace(delivery, next_ms=self.now_ms() + CLAIM)
        if not await self.store.replace(delivery, claimed):
            return
        failure = await self.sender.send(notification, claimed)
        await self.store.replace(claimed, after_attempt(claimed, failure, self.now_ms(), self.random()))


def _shown(record: Record) -> dict[str, object]:
    """What a message says of an execution: no output."""
    names = ("id", "status", "exit_code", "command", "target", "project_id", "schedule_id", "principal", "duration_ms")
    return {name: getattr(record, name) for name in names} | {"created_at": iso(record.created_ms)}
