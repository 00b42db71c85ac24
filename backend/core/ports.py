"""What the core and the fronts need of storage. The adapters are in `backend.storage`: Sql..., File... and Memory...

Every method raises StorageError when the storage cannot do it, unless it says otherwise.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from backend.core.audit.attempts import Attempt, Completion, Record
from backend.core.audit.events import Kind
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.execution.model import Status
from backend.core.identity import PROFILE, ApiToken, NetworkAccess, Principal, Project, User
from backend.core.recording.messages import Complete
from backend.core.recording.writer import RecordingLog, Resumed


class ActorLike(Protocol):
    """Who an event is about."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...


class AuditLog(Protocol):
    """Events that are not about a command: a login, a rejected request."""

    async def record(self, kind: Kind, actor: str, address: str, fields: Mapping[str, Any]) -> None:
        """Returns once the event is durable."""
        ...


class ExecutionLog(Protocol):
    """Where every attempt to run a command is written: a row of the history and events of the audit.

    Every method returns once it is durable.
    """

    async def refuse(self, attempt: Attempt) -> None:
        """Nothing ran. Of a flood of refusals only the beginning is written, and how many more there were."""
        ...

    async def open(self, attempt: Attempt) -> None:
        """It is about to run, on this server."""
        ...

    async def step(
        self, execution: str, actor: ActorLike, argvs: tuple[tuple[str, ...], ...], decision: Decision
    ) -> None:
        """A later step of it is about to run with these words, which are others than those judged first."""
        ...

    async def close(self, attempt: Attempt, completion: Completion) -> bool:
        """It has ended. False when it was not running on record any more: the first end stays, and nothing is written.

        A completion that could not be written (StorageError) is remembered for `retry_unwritten`.
        """
        ...

    async def retry_unwritten(self) -> int:
        """Try again to write completions that could not be written; how many are on record now. Raises nothing."""
        ...


class QueuedExecution(NamedTuple):
    """An execution that waits for an owner, with its serialised job; without one it runs already, and is to be taken up."""

    record: Record
    job: str


class Queue(Protocol):
    """The executions that wait for an owner. Every method raises StorageError."""

    async def enqueue(self, attempt: Attempt, job: str) -> None:
        """Record an execution that waits for an owner. Returns once it is durable."""
        ...

    async def queued(self, targets: Collection[str], limit: int) -> Sequence[QueuedExecution]:
        """Up to `limit` executions of these targets that wait, the oldest first."""
        ...

    async def waiting(self, execution: str) -> QueuedExecution | None:
        """An execution, if it waits."""
        ...

    async def claim(self, execution: str) -> bool:
        """Take over an execution that waits; False when it does not wait (any more). One server claims it."""
        ...

    async def hand_over(self, execution: str) -> bool:
        """Have any server take up an execution of this one, which goes on without it; False if it is not ours."""
        ...

    async def cancel_queued(self, execution: str, completion: Completion) -> bool:
        """End an execution that still waits; False when it does not wait (any more)."""
        ...


class Ownership(Queue, Protocol):
    """Which server runs an execution: the one that holds its lease. `owner` is the id of this server process.

    `ExecutionLog.open` takes the lease, `renew` extends it, `ExecutionLog.close` ends it.
    """

    @property
    def owner(self) -> str: ...

    async def renew(self) -> frozenset[str]:
        """Extend the leases of all executions that run here, in one statement.

        The ids of those that this server has lost: another one recorded their end after the lease had run out.
        """
        ...

    async def expired(self, before_ms: int) -> Sequence[Record]:
        """Running executions of any owner whose lease ended at `before_ms` or earlier; the oldest first."""
        ...

    async def close_expired(self, record: Record, before_ms: int, completion: Completion) -> bool:
        """Record the end of an execution that `expired` returned.

        False when it has ended on record meanwhile, or its owner has extended the lease; then nothing is written.
        """
        ...

    async def requeue(self, record: Record, before_ms: int) -> bool:
        """The same for an execution that `expired` returned; False as for `close_expired`."""
        ...

    async def release_dead(self, owners: Collection[str]) -> None:
        """End the leases of owners whose processes have ended, so that `expired` returns their executions at once."""
        ...


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records: of a user, of a target, of a schedule, of a status, older than `before` (an id). None means any."""

    user_id: str | None = None
    target: str | None = None
    schedule: str | None = None
    status: Status | None = None
    before: str | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures over the commands of a user that count (`anomalies.is_counted`). `average_duration_ms` is over those that ran."""

    total: int
    successful: int
    failed: int
    high_risk: int
    average_duration_ms: float


class ExecutionHistory(Protocol):
    """The records of all attempts."""

    async def get(self, execution: str) -> Record | None: ...

    async def page(self, wanted: Filter) -> Sequence[Record]:
        """Newest first."""
        ...

    async def stats(self, user_id: str, since_ms: int) -> Stats: ...

    async def since(self, user_id: str, since_ms: int) -> Sequence[Record]:
        """Those that count, newest first, at most 1000."""
        ...


class Recordings(Protocol):
    """The recordings of this server's data folder."""

    def create(self, execution: str) -> RecordingLog:
        """Begin one. Raises RecordingError."""
        ...

    def resume(self, execution: str) -> Resumed:
        """Write on one that a server has left without an end; begin it where there is none. Raises RecordingError."""
        ...

    def find(self, execution: str) -> RecordingLog | None:
        """One that is live or stored. Raises OSError where it cannot be read."""
        ...

    def cut_off(self, execution: str) -> int | None:
        """The number of the last line of one that has no end and that no server writes; otherwise None.

        Raises OSError where it cannot be read.
        """
        ...

    def finish(self, execution: str, end: Complete) -> None:
        """Append the end that is on record to one that is cut off. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Claim:
    """An idempotency key: which execution it stands for, and whether this request is the one that may start it."""

    execution: str
    mine: bool
    same_body: bool


class IdempotencyKeys(Protocol):
    """Keys that stand for one execution each."""

    async def claim(self, principal: str, key: str, body_hash: bytes, execution: str) -> Claim:
        """Claim the key for `execution`, or return which execution has it."""
        ...

    async def release(self, principal: str, key: str, execution: str) -> None:
        """Give it back: nothing was started. A key that stands for another execution by now stays."""
        ...


class Identities(Protocol):
    """The accounts and their tokens, as far as judging a token needs them."""

    async def holder(self, user_id: str, token_id: str) -> User | None:
        """The account with this id; None too if the token was revoked: an access token, by its jti, or an API token."""
        ...

    async def token_by_secret(self, secret_hash: bytes) -> tuple[ApiToken, User] | None:
        """The API token with this secret and its account; None when it ended or the account is disabled."""
        ...


class Authenticator(Protocol):
    """Finds the principal of a token."""

    async def principal(self, bearer: str, address: str) -> Principal | None:
        """None when the token is invalid, expired or revoked."""
        ...

    async def is_valid(self, principal: Principal) -> bool:
        """Whether what it proved itself with is still valid."""
        ...


class Projects(Protocol):
    """All projects that are not deleted."""

    async def add(
        self,
        name: str,
        owner_id: str,
        profile: str = PROFILE,
        allowed_extra: Iterable[str] = (),
        network: NetworkAccess = False,
        metadata_only: bool = False,
    ) -> Project:
        """Raises ValueError for an invalid name or an unknown owner."""
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
        network: NetworkAccess | None = None,
        metadata_only: bool | None = None,
        members: frozenset[str] | None = None,
    ) -> Project | None:
        """Change what is given. Raises ValueError for an invalid name or a member that is no user."""
        ...

    async def delete(self, id: str) -> bool: ...
