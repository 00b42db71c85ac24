"""What notifications need of storage and of senders. Stores raise StorageError."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from backend.core.notifications.model import Delivery, Failure, Notification


class Notifications(Protocol):
    """Notifications, the executions that have ended meanwhile, and the deliveries. Shared by all servers."""

    async def add(self, notification: Notification, most: int) -> bool:
        """False if its owner has `most` already."""
        ...

    async def get(self, id: str) -> Notification | None: ...

    async def of(self, owner_id: str | None) -> Sequence[Notification]:
        """Those of an account, or all; the oldest first."""
        ...

    async def delete(self, id: str) -> bool: ...

    async def has_work(self, now_ms: int) -> bool:
        """Whether an execution has ended, or a delivery may be sent. Asked every second."""
        ...

    async def ended(self, limit: int) -> Sequence[str]:
        """Executions that have ended and were not looked at, the oldest first."""
        ...

    async def about(self, user_id: str | None, subjects: Sequence[str]) -> Sequence[Notification]:
        """The notifications about these subjects, and about all executions of an account."""
        ...

    async def looked_at(self, execution: str, deliveries: Sequence[Delivery]) -> bool:
        """Replace an execution that has ended by its deliveries. False if another server was first."""
        ...

    async def due(self, now_ms: int, limit: int) -> Sequence[tuple[Notification, Delivery]]:
        """Deliveries that may be sent, the longest due first."""
        ...

    async def replace(self, old: Delivery, new: Delivery) -> bool:
        """Change a delivery. False if it has changed."""
        ...

    async def dead(self) -> Mapping[str, int]:
        """How many messages of each notification are dead, where there are any."""
        ...

    async def delivery(self, notification: str, id: str) -> Delivery | None:
        """A delivery of a notification."""
        ...

    async def deliveries(self, notification: str, limit: int) -> Sequence[Delivery]:
        """Newest first."""
        ...


class Sender(Protocol):
    """Sends messages, and raises nothing."""

    async def send(self, notification: Notification, delivery: Delivery) -> Failure | None:
        """Send one message; why it was not accepted."""
        ...

    def refusal(self, url: str | None, email: str | None) -> str:
        """Why nothing can be sent there; empty if it can be tried."""
        ...
