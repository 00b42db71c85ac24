"""The events of the audit."""

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from backend.core.dataclasses import dataclass

encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode

LONGEST_BODY = 8 * 2**20  # characters of an event; a thousand arguments, each a path of the greatest length, take half


class Kind(StrEnum):
    """What happened."""

    SUBMITTED = "submitted"
    DENIED = "denied"
    RATE_LIMITED = "rate_limited"
    STARTED = "started"
    CANCELLED = "cancelled"
    FINISHED = "finished"
    LOST = "lost"
    REJECTED = "rejected"
    LOGIN = "login"
    LOGIN_FAILED = "login_failed"
    LOGOUT = "logout"
    USER_CREATED = "user_created"
    USER_CHANGED = "user_changed"
    TOKEN_CREATED = "token_created"
    TOKEN_REVOKED = "token_revoked"
    LINK_CREATED = "link_created"
    PROJECT_CREATED = "project_created"
    PROJECT_CHANGED = "project_changed"
    PROJECT_DELETED = "project_deleted"
    CONNECTION_OPENED = "connection_opened"
    CONNECTION_CLOSED = "connection_closed"
    CONNECTION_REFUSED = "connection_refused"
    SCHEDULE_CREATED = "schedule_created"
    SCHEDULE_CHANGED = "schedule_changed"
    SCHEDULE_DELETED = "schedule_deleted"
    SCHEDULE_RUN = "schedule_run"
    NOTIFICATION_CREATED = "notification_created"
    NOTIFICATION_DELETED = "notification_deleted"
    NOTIFICATION_TESTED = "notification_tested"
    DELIVERY_REPEATED = "delivery_repeated"
    HOOK_CREATED = "hook_created"
    HOOK_ROTATED = "hook_rotated"
    HOOK_DELETED = "hook_deleted"
    HOOK_CALLED = "hook_called"
    HOST_ENROLLED = "host_enrolled"
    HOST_ROTATED = "host_rotated"
    HOST_REVOKED = "host_revoked"
    HOST_GRANTED = "host_granted"
    HOST_WITHDRAWN = "host_withdrawn"
    RUNNER_KEY_CREATED = "runner_key_created"
    RUNNER_KEY_ROTATED = "runner_key_rotated"
    RUNNER_KEY_REVOKED = "runner_key_revoked"
    RUNNER_SUSPENDED = "runner_suspended"
    RUNNER_RESUMED = "runner_resumed"
    ANSWERED_LATE = "answered_late"
    PRUNED = "pruned"
    CLOCK_CONFIRMED = "clock_confirmed"
    CHAIN_BROKEN = "chain_broken"
    KEY_ROTATED = "key_rotated"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, before it has a place in the chain. `time` is UTC, ISO 8601."""

    id: str
    time: str
    kind: Kind
    actor: str
    address: str
    fields: Mapping[str, Any]

    def body(self, seq: int) -> str:
        """The canonical text: keys sorted, no blanks, without fields that are None.

        A lone surrogate, which no database accepts, is written as its escape.
        """
        content = {
            **{name: value for name, value in self.fields.items() if value is not None},
            "event_id": self.id,
            "seq": seq,
            "time": self.time,
            "kind": self.kind,
            "actor": self.actor,
            "address": self.address,
        }
        return encode(content).encode("utf-8", "backslashreplace").decode()
