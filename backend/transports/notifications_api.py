"""Notifications: webhooks and e-mail that report how executions ended."""

from collections.abc import Sequence
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Query
from fastapi import Path as PathParameter
from pydantic import Field, model_validator

from backend.application.notifications import NotificationService
from backend.core import ids
from backend.core.dataclasses import dataclass
from backend.core.identity import Permission, Principal
from backend.core.notifications.model import LONGEST_URL, SUBJECT_PATTERN, Delivery, EventType, Failure, Notification
from backend.core.times import iso
from backend.transports.dependencies import Access, Answer, Body, JsonOnly, Names, granted, with_owners
from backend.transports.problems import WITH_BODY, described
from backend.transports.routing import new_router

NotificationId = Annotated[str, PathParameter(pattern=ids.PATTERN)]


class NewNotification(Body):
    """A notification to add: of these `events` of a subject, to a webhook (`url`) or an e-mail address."""

    name: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")
    subject: str = Field(default="executions", pattern=SUBJECT_PATTERN)
    events: frozenset[EventType] = Field(
        default=frozenset({EventType.FAILED, EventType.LOST, EventType.RECOVERED}), min_length=1
    )
    url: str | None = Field(default=None, min_length=1, max_length=LONGEST_URL)
    email: str | None = Field(default=None, min_length=3, max_length=320)

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.url is None) == (self.email is None):
            raise ValueError("name a url or an email")
        return self


class NotificationEntry(Answer):
    """A notification as the API shows it. `owner` is the name of its account, `dead` how many messages are."""

    id: str
    name: str
    owner: str
    subject: str
    events: list[EventType]
    url: str | None
    email: str | None
    dead: int
    created_at: str


class AddedNotification(NotificationEntry):
    """A new notification. `secret` checks the signature of its messages; it is shown only now."""

    secret: str | None


class TestResult(Answer):
    """Whether the receiver has accepted a test message; `error` says why not."""

    __test__ = False  # pytest

    delivered: bool
    error: str


class DeliveryEntry(Answer):
    """A message. `next_at` is when it is sent (again); `error` says why it was not accepted."""

    id: str
    execution: str
    event: str
    status: str
    attempts: int
    error: str
    created_at: str
    next_at: str | None


@dataclass(frozen=True, slots=True)
class NotificationRoutes:
    """What the routes need."""

    access: Access
    service: NotificationService
    users: Names

    async def entries(self, notifications: Sequence[Notification]) -> list[NotificationEntry]:
        """Notifications as the API shows them."""
        dead = await self.service.store.dead()
        return [_entry(*each, dead.get(each[0].id, 0)) for each in await with_owners(self.users, notifications)]


def notification_routes(routes: NotificationRoutes) -> APIRouter:
    """The routes under /api/notifications."""
    router = new_router("notifications", "/api/notifications")
    reader = Depends(routes.access.needs(Permission.READ))
    worker = Depends(routes.access.needs(Permission.EXECUTE))

    @router.get("", responses=described(403))
    async def list_notifications(principal: Annotated[Principal, reader]) -> list[NotificationEntry]:
        """The notifications of the caller; for administrators all."""
        return await routes.entries(await routes.service.visible_to(principal))

    @router.post("", status_code=201, responses=described(*WITH_BODY, 403, 404, 409))
    async def add(principal: Annotated[Principal, worker], body: NewNotification, _: JsonOnly) -> AddedNotification:
        """Add a notification. The messages to a webhook are signed with its `secret`."""
        asked = Notification("", "", body.name, body.subject, body.events, body.url, body.email, "", 0)
        added = granted(await routes.service.add(principal, principal, asked))
        (entry,) = await routes.entries([added])
        return AddedNotification(**entry.model_dump(), secret=added.secret if added.url else None)

    @router.delete("/{notification}", status_code=204, responses=described(403, 404))
    async def delete(principal: Annotated[Principal, worker], notification: NotificationId) -> None:
        """Delete a notification, with its messages."""
        granted(await routes.service.delete(principal, notification))

    _add_messages(router, routes)
    return router


def _add_messages(router: APIRouter, routes: NotificationRoutes) -> None:
    reader = Depends(routes.access.needs(Permission.READ))
    worker = Depends(routes.access.needs(Permission.EXECUTE))

    @router.post("/{notification}/test", responses=described(403, 404))
    async def test(principal: Annotated[Principal, worker], notification: NotificationId) -> TestResult:
        """Send a message whose event is `test`, now, and return what became of it."""
        answer = await routes.service.test(principal, notification)
        if isinstance(answer, Failure):
            return TestResult(delivered=False, error=answer.reason)
        granted(answer)
        return TestResult(delivered=True, error="")

    @router.get("/{notification}/deliveries", responses=described(403, 404))
    async def deliveries(
        principal: Annotated[Principal, reader],
        notification: NotificationId,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> list[DeliveryEntry]:
        """Its messages, newest first; those that are `dead` were not accepted by the receiver."""
        return list(map(_delivery, granted(await routes.service.deliveries(principal, notification, limit))))

    @router.post("/{notification}/deliveries/{delivery}/repeat", status_code=202, responses=described(403, 404, 409))
    async def repeat(
        principal: Annotated[Principal, worker],
        notification: NotificationId,
        delivery: Annotated[str, PathParameter(pattern=ids.PATTERN)],
    ) -> DeliveryEntry:
        """Send a dead message again, as if it were new."""
        return _delivery(granted(await routes.service.repeat(principal, notification, delivery)))


def _entry(notification: Notification, owner: str, dead: int) -> NotificationEntry:
    return NotificationEntry(
        id=notification.id,
        name=notification.name,
        owner=owner,
        subject=notification.subject,
        events=sorted(notification.events),
        url=notification.url,
        email=notification.email,
        dead=dead,
        created_at=iso(notification.created_ms),
    )


def _delivery(delivery: Delivery) -> DeliveryEntry:
    return DeliveryEntry(
        id=delivery.id,
        execution=delivery.execution,
        event=delivery.event,
        status=delivery.status,
        attempts=delivery.attempts,
        error=delivery.error,
        created_at=iso(delivery.created_ms),
        next_at=iso(delivery.next_ms) if delivery.status == "pending" else None,
    )
