"""What the fronts ask of the stores. The stores themselves are in `backend.storage`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from backend.core.audit.attempts import Record
from backend.core.audit.events import Kind
from backend.core.execution.model import Status
from backend.core.identity import Principal, Project, User


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records: of a user, of projects, of a status, older than `before` (an id). None means any."""

    user_id: str | None = None
    project_ids: frozenset[str] | None = None
    status: Status | None = None
    before: str | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures over the commands of a user. `average_duration_ms` is over those that ran."""

    total: int
    successful: int
    failed: int
    high_risk: int
    average_duration_ms: float


class ExecutionHistory(Protocol):
    """The records of all attempts. Every method raises StorageError."""

    async def get(self, execution: str) -> Record | None: ...

    async def page(self, wanted: Filter) -> Sequence[Record]:
        """Newest first."""
        ...

    async def stats(self, user_id: str, since_ms: int) -> Stats: ...

    async def since(self, user_id: str, since_ms: int) -> Sequence[Record]:
        """Newest first, at most 1000."""
        ...


@dataclass(frozen=True, slots=True)
class Claim:
    """An idempotency key: whose execution it stands for, and whether this request is the one that may start it."""

    execution: str
    mine: bool
    same_body: bool


class IdempotencyKeys(Protocol):
    """Keys that stand for one execution each. Every method raises StorageError."""

    async def claim(self, principal: str, key: str, body_hash: bytes, execution: str) -> Claim:
        """Take the key for `execution`, or tell who has it."""
        ...

    async def release(self, principal: str, key: str, execution: str) -> None:
        """Give it back: nothing was started. One that stands for another execution by now stays."""
        ...


class AuditLog(Protocol):
    """Takes events that are not about a command."""

    async def record(self, kind: Kind, actor: str, address: str, fields: Mapping[str, Any]) -> None:
        """Raises StorageError."""
        ...


class Authenticator(Protocol):
    """Tells who shows a token."""

    async def principal(self, bearer: str, address: str) -> Principal | None:
        """None when the token is not, or not any more, good. Raises StorageError."""
        ...

    async def is_valid(self, principal: Principal) -> bool:
        """Whether what it proved itself with is still good."""
        ...


class Projects(Protocol):
    """All projects that are not deleted. Every method raises StorageError."""

    async def add(
        self,
        name: str,
        owner_id: str,
        profile: str = "agent",
        allowed_extra: Iterable[str] = (),
        network: bool = False,
        metadata_only: bool = False,
    ) -> Project:
        """Raises ValueError for a name that cannot be one."""
        ...

    async def get(self, id: str) -> Project | None: ...

    async def visible_to(self, user: User) -> Sequence[Project]: ...

    async def change(
        self,
        id: str,
        *,
        name: str | None = None,
        profile: str | None = None,
        allowed_extra: Iterable[str] | None = None,
        network: bool | None = None,
        metadata_only: bool | None = None,
        members: frozenset[str] | None = None,
    ) -> Project | None:
        """Change what is given. Raises ValueError for a member that is no user."""
        ...

    async def delete(self, id: str) -> bool: ...
