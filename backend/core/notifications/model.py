"""Notifications and their deliveries. Times are Unix milliseconds."""

import re
from enum import StrEnum

from backend.core.dataclasses import dataclass

SUBJECT_PATTERN = r"^(?:executions|(?:execution|schedule|project):[0-9A-Za-z]{1,64})$"
EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?")
LONGEST_URL = 1000  # characters


class EventType(StrEnum):
    """What is reported of an execution: `recovered` is a success after a failure, `ended` any other end."""

    FAILED = "failed"
    LOST = "lost"
    RECOVERED = "recovered"
    ENDED = "ended"


TEST = "test"  # what a message is about that only shows that it arrives


class DeliveryStatus(StrEnum):
    """A delivery is `pending` until it is accepted, or `dead` after too many attempts."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Notification:
    """Reports the `events` of a subject to a webhook (`url`) or to an e-mail address.

    `subject` is `executions` (all of the owner), `execution:ID`, `schedule:ID` or `project:ID`. `secret` signs.
    """

    id: str
    owner_id: str
    name: str
    subject: str
    events: frozenset[EventType]
    url: str | None
    email: str | None
    secret: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event, or a test, for one notification. `next_ms` is when it may be sent (again); `error` is why it was not accepted."""

    id: str
    notification_id: str
    execution: str
    event: str
    body: str
    next_ms: int
    created_ms: int
    status: DeliveryStatus = DeliveryStatus.PENDING
    attempts: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something was not delivered; `final` if another attempt is pointless."""

    reason: str
    final: bool = False
