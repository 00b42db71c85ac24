"""The use cases of notifications."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from backend.application.executions import ExecutionService
from backend.application.schedules import ScheduleService
from backend.core.audit.events import Kind
from backend.core.decisions import Decision
from backend.core.execution.targets import project_ref
from backend.core.identity import Permission, Principal
from backend.core.notifications.model import Delivery, Event, Notification
from backend.core.notifications.ports import Notifications, Sender
from backend.core.notifications.rules import new_secret
from backend.core.ports import AuditLog

SECRET_BYTES = 32


class Subjects(Protocol):
    """Finds what a notification can be about."""

    async def refusal(self, who: Principal, subject: str) -> Decision | None:
        """Why the caller cannot be notified of it. Raises StorageError."""
        ...


@dataclass(frozen=True, slots=True)
class OwnSubjects:
    """What exists for the caller."""

    executions: ExecutionService
    schedules: ScheduleService

    async def refusal(self, who: Principal, subject: str) -> Decision | None:
        """Why the caller cannot be notified of it. Raises StorageError."""
        kind, _, id = subject.partition(":")
        found: object = None
        match kind:
            case "execution":
                found = await self.executions.view(who, id)
            case "schedule":
                found = await self.schedules.get(who, id)
            case "project":
                found = await self.executions.target(who, project_ref(id))
        return found if isinstance(found, Decision) else None


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

    async def add(
        self, who: Principal, name: str, subject: str, events: frozenset[Event], url: str | None, email: str | None
    ) -> Notification | Decision:
        """Add a notification of the caller. Raises StorageError."""
        assert who.user
        if problem := self.sender.refusal(url, email):
            hint = "Name a public host, or have the operator list its address in GATEPOST_NOTIFY_HOSTS."
            return Decision.deny("notification.address", f"Nothing can be sent there: {problem.rstrip('.')}.", hint)
        if refusal := await self.subjects.refusal(who, subject):
            return refusal
        secret = new_secret(self.randomness(SECRET_BYTES))
        new = Notification(self.new_id(), who.user.id, name, subject, events, url, email, secret, self.now_ms())
        if not await self.store.add(new, self.most):
            reason = f"An account can have {self.most} notifications."
            return Decision.deny("notification.too_many", reason, "Delete one that is no longer needed.")
        await self._record(Kind.NOTIFICATION_CREATED, who, new)
        return new

    async def visible_to(self, who: Principal) -> Sequence[Notification]:
        """The notifications of the caller; all for an administrator. Raises StorageError."""
        if who.may(Permission.ADMIN):
            return await self.store.of(None)
        return await self.store.of(who.user.id) if who.user else ()

    async def get(self, who: Principal, id: str) -> Notification | Decision:
        """One that exists for the caller. Raises StorageError."""
        found = await self.store.get(id)
        mine = found and ((who.user and who.user.id == found.owner_id) or who.may(Permission.ADMIN))
        return found if found and mine else _unknown(id)

    async def delete(self, who: Principal, id: str) -> Decision | None:
        """Delete one with its deliveries. Raises StorageError."""
        found = await self.get(who, id)
        if isinstance(found, Decision):
            return found
        if not await self.store.delete(id):
            return _unknown(id)
        await self._record(Kind.NOTIFICATION_DELETED, who, found)
        return None

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


def _unknown(id: str) -> Decision:
    return Decision.deny("notification.unknown", f"There is no notification {id[:64]} that you may use.", "List yours.")
