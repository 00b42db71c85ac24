"""The use cases of notifications."""

import json
from collections.abc import Callable, Sequence
from typing import Protocol

from backend.application import owned, projects, visible
from backend.core.audit.events import Kind
from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision
from backend.core.identity import Principal
from backend.core.notifications.model import TEST, Delivery, DeliveryStatus, Failure, Notification
from backend.core.notifications.ports import Notifications, Sender
from backend.core.notifications.rules import new_secret
from backend.core.ports import AuditLog, ExecutionHistory, Projects
from backend.core.schedules.ports import Schedules
from backend.core.times import iso

SECRET_BYTES = 32
UNKNOWN = "notification.unknown"


class Subjects(Protocol):
    """Finds what a notification can be about."""

    async def refusal(self, who: Principal, subject: str) -> Decision | None:
        """Why the caller cannot be notified of it. Raises StorageError."""
        ...


@dataclass(frozen=True, slots=True)
class StoredSubjects:
    """What exists for the caller, as it is stored."""

    history: ExecutionHistory
    projects: Projects
    schedules: Schedules

    async def refusal(self, who: Principal, subject: str) -> Decision | None:
        """Why the caller cannot be notified of it. Raises StorageError."""
        kind, _, id = subject.partition(":")
        match kind:
            case "execution":
                found = await visible.find(who, id, self.history, self.projects)
                return found if isinstance(found, Decision) else None
            case "schedule":
                schedule = await owned.find(who, self.schedules, id, "schedule.unknown")
                return schedule if isinstance(schedule, Decision) else None
            case "project":
                project = await projects.find(who, id, self.projects)
                return project if isinstance(project, Decision) else None
            case _:
                return None


@dataclass(frozen=True, slots=True)
class NotificationService:
    """What clients do with notifications. `audit` masks secrets; an account can have `most`."""

    store: Notifications
    subjects: Subjects
    sender: Sender
    audit: AuditLog
    most: int
    now_ms: Callable[[], int]
    new_id: Callable[[], str]
    randomness: Callable[[int], bytes]

    async def add(self, who: Principal, owner: Principal, asked: Notification) -> Notification | Decision:
        """Add a notification of an account, of which only the id, owner, secret and time are still open.

        `who` asks for it. Raises StorageError.
        """
        assert owner.user
        if problem := self.sender.refusal(asked.url, asked.email):
            hint = "Name a public host, or have the operator list its address in GATEPOST_NOTIFY_HOSTS."
            return Decision.deny("notification.address", f"Nothing can be sent there: {problem.rstrip('.')}.", hint)
        if refusal := await self.subjects.refusal(owner, asked.subject):
            return refusal
        secret = new_secret(self.randomness(SECRET_BYTES))
        new = replace(asked, id=self.new_id(), owner_id=owner.user.id, secret=secret, created_ms=self.now_ms())
        if not await self.store.add(new, self.most):
            reason = f"An account can have {self.most} notifications."
            return Decision.deny("notification.too_many", reason, "Delete one that is no longer needed.")
        await self._record(Kind.NOTIFICATION_CREATED, who, new)
        return new

    async def visible_to(self, who: Principal) -> Sequence[Notification]:
        """The notifications of the caller; all for an administrator. Raises StorageError."""
        return await owned.visible_to(who, self.store)

    async def get(self, who: Principal, id: str) -> Notification | Decision:
        """One that exists for the caller. Raises StorageError."""
        return await owned.find(who, self.store, id, UNKNOWN)

    async def test(self, who: Principal, id: str) -> Failure | Decision | None:
        """Send a message that reports nothing, now; why it was not accepted. Raises StorageError."""
        found = await self.get(who, id)
        if isinstance(found, Decision):
            return found
        await self._record(Kind.NOTIFICATION_TESTED, who, found)
        now = self.now_ms()
        body = json.dumps({"event": TEST, "time": iso(now), "execution": None})
        return await self.sender.send(found, Delivery(self.new_id(), found.id, "", TEST, body, now, now))

    async def repeat(self, who: Principal, id: str, delivery: str) -> Delivery | Decision:
        """Have a dead delivery sent again, as if it were new. Raises StorageError."""
        found = await self.get(who, id)
        if isinstance(found, Decision):
            return found
        dead = await self.store.delivery(id, delivery)
        if dead is None or dead.status is not DeliveryStatus.DEAD:
            return Decision.deny(
                "notification.not_dead", "There is no dead message with this id.", "List the messages."
            )
        again = replace(dead, status=DeliveryStatus.PENDING, attempts=0, next_ms=self.now_ms())
        if await self.store.replace(dead, again):
            await self._record(Kind.DELIVERY_REPEATED, who, found)
        return again

    async def delete(self, who: Principal, id: str) -> Notification | Decision:
        """Delete one with its deliveries. Raises StorageError."""
        found = await self.get(who, id)
        if isinstance(found, Decision):
            return found
        if not await self.store.delete(id):
            return owned.unknown(UNKNOWN, id)
        await self._record(Kind.NOTIFICATION_DELETED, who, found)
        return found

    async def deliveries(self, who: Principal, id: str, limit: int) -> Sequence[Delivery] | Decision:
        """Its deliveries, newest first, with the dead ones. Raises StorageError."""
        found = await self.get(who, id)
        return found if isinstance(found, Decision) else await self.store.deliveries(id, limit)

    async def _record(self, kind: Kind, who: Principal, what: Notification) -> None:
        host = what.url.split("?")[0] if what.url else None  # a query may contain a secret
        fields = {
            "notification": what.id,
            "owner": what.owner_id,
            "name": what.name,
            "subject": what.subject,
            "events": sorted(what.events),
            "url": host,
            "email": what.email,
        }
        await self.audit.record(kind, who.name, who.address, fields)
