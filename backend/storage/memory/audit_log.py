"""The audit as a list of events, without a chain."""

from collections.abc import Callable, Mapping
from typing import Any

from backend.core.audit.events import Event, Kind
from backend.core.audit.execution_events import Draft


class MemoryAuditLog:
    """Several servers of one process may share it. `events` are in the order in which they were recorded."""

    def __init__(self, utc: Callable[[], str], new_id: Callable[[], str]) -> None:
        self.events: list[Event] = []
        self._utc = utc
        self._new_id = new_id

    async def record(self, kind: Kind, actor: str, address: str, fields: Mapping[str, Any]) -> None:
        """Record an event that is not about a command."""
        self.append(Draft(kind, fields), actor, address)

    def append(self, draft: Draft, actor: str, address: str) -> None:
        """Record an event at once."""
        self.events.append(Event(self._new_id(), self._utc(), draft.kind, actor, address, draft.fields))
