"""The rules of notifications: functions of outcomes, times and random numbers."""

import base64
import hashlib
import hmac

from backend.core.audit.attempts import Record
from backend.core.dataclasses import replace
from backend.core.execution.model import Status
from backend.core.notifications.model import Delivery, DeliveryStatus, EventType, Failure

FAILURES = frozenset({Status.FAILED, Status.TIMED_OUT, Status.DENIED, Status.LOST})
MOST_ATTEMPTS = 9
FIRST_WAIT = 10_000  # milliseconds; three times as long after each attempt, which are nine hours in all
CLAIM = 60_000  # milliseconds after which a delivery whose server died is sent again
LONGEST_ERROR = 300  # characters
SECRET_PREFIX = "whsec_"
TOLERANCE = 300  # seconds between the clocks of sender and receiver


def event_of(status: Status, previous: Status | None) -> EventType:
    """The event of an execution that has ended; `previous` is how the one before it ended."""
    match status:
        case Status.LOST:
            return EventType.LOST
        case Status.FAILED | Status.TIMED_OUT | Status.DENIED:
            return EventType.FAILED
        case Status.SUCCEEDED if previous in FAILURES:
            return EventType.RECOVERED
        case _:
            return EventType.ENDED


def subjects_of(record: Record) -> tuple[str, ...]:
    """The subjects that an execution belongs to, in addition to all executions of its account."""
    found = [f"execution:{record.id}"]
    if record.schedule_id:
        found.append(f"schedule:{record.schedule_id}")
    if record.project_id:
        found.append(f"project:{record.project_id}")
    return tuple(found)


def is_same_work(one: Record, other: Record) -> bool:
    """Whether one execution repeats another, so that it can have recovered from its failure."""
    if one.schedule_id or other.schedule_id:
        return one.schedule_id == other.schedule_id
    return (one.user_id, one.target, one.command) == (other.user_id, other.target, other.command)


def after_attempt(delivery: Delivery, failure: Failure | None, now_ms: int, random: float) -> Delivery:
    """A delivery after it was sent."""
    attempts = delivery.attempts + 1
    if failure is None:
        return replace(delivery, status=DeliveryStatus.DELIVERED, attempts=attempts, error="")
    error = failure.reason[:LONGEST_ERROR]
    if failure.final or attempts >= MOST_ATTEMPTS:
        return replace(delivery, status=DeliveryStatus.DEAD, attempts=attempts, error=error)
    wait = int(FIRST_WAIT * 3 ** (attempts - 1) * (1 + random / 10))
    return replace(delivery, attempts=attempts, error=error, next_ms=now_ms + wait)


def new_secret(randomness: bytes) -> str:
    """A secret in the form of Standard Webhooks."""
    return SECRET_PREFIX + base64.b64encode(randomness).decode()


def signature(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """The HMAC-SHA256 of a message, in the form of Standard Webhooks: of its id, its time in seconds and its body."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = b"%b.%d.%b" % (id.encode(), timestamp, body)
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def signed_headers(secret: str, id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers by which a receiver checks a message."""
    return {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secret, id, timestamp, body),
    }
