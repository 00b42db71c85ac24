"""What the runners of Django projects need of storage. Every method raises StorageError."""

from collections.abc import Collection, Sequence
from enum import Enum, auto
from typing import Protocol

from backend.core.dataclasses import dataclass
from backend.core.django.commands import CommandList
from backend.core.django.runs import Chunk, Run, RunEnd, StopLevel


@dataclass(frozen=True, slots=True)
class RunnerVersions:
    """What a runner says that it consists of."""

    runner: str = ""
    python: str = ""
    django: str = ""


NO_VERSIONS = RunnerVersions()
SILENCE_MS = 100_000  # after which a runner is offline: its heartbeat comes every 30 s


@dataclass(frozen=True, slots=True)
class RunnerKey:
    """The key of a runner, without its secret: the runner is whatever has it. Times are Unix milliseconds.

    `suspended` is the reason why it gets no executions; `seen_ms` is the last heartbeat.
    """

    id: str
    project: str
    name: str
    created_ms: int
    expires_ms: int | None = None
    suspended: str | None = None
    seen_ms: int | None = None
    versions: RunnerVersions = NO_VERSIONS

    def is_valid(self, now_ms: int) -> bool:
        """Whether a runner may use it."""
        return self.expires_ms is None or now_ms < self.expires_ms

    def state(self, now_ms: int) -> str:
        """What its runner is, in a word: revoked, suspended, online (three heartbeats may be missing) or offline."""
        if not self.is_valid(now_ms):
            return "revoked"
        if self.suspended is not None:
            return "suspended"
        return "online" if self.seen_ms is not None and now_ms - self.seen_ms < SILENCE_MS else "offline"


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The answer to a request, and the digest of the method, the path and the body that it answers."""

    digest: bytes
    status: int
    body: str


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to the request `nonce` of a key."""

    key: str
    nonce: str
    answer: StoredAnswer


@dataclass(frozen=True, slots=True)
class Caller:
    """The key of a request, and what another request with its nonce was answered."""

    key: RunnerKey
    answered: StoredAnswer | None


class Added(Enum):
    """What became of a chunk."""

    NEW = auto()
    KNOWN = auto()  # it has arrived before
    LATE = auto()  # the execution has its end in the history
    UNKNOWN = auto()  # no runner has started the execution


class RunnerKeys(Protocol):
    """The keys of runners."""

    async def add_key(self, project: str, name: str, secret_hash: bytes, suspended: str | None = None) -> RunnerKey:
        """Add one. Raises ValueError for an invalid name or an unknown project."""
        ...

    async def key_by_secret(self, secret_hash: bytes) -> RunnerKey | None:
        """The key with this secret, also one that has expired; None if its project was deleted."""
        ...

    async def keys(self, projects: Collection[str]) -> Sequence[RunnerKey]:
        """The keys of some projects, the oldest first."""
        ...

    async def projects_with_keys(self) -> Collection[str]:
        """The projects that have keys."""
        ...

    async def key(self, id: str) -> RunnerKey | None: ...

    async def end_key(self, id: str, at_ms: int) -> bool:
        """Let a key be valid until then, but no longer than it was; False if there is none."""
        ...

    async def suspend(self, id: str, reason: str | None) -> bool:
        """Suspend a runner for a reason, or resume it; False if there is none."""
        ...

    async def seen(self, id: str, versions: RunnerVersions) -> None:
        """Record a heartbeat."""
        ...


class RunnerCommands(Protocol):
    """The commands of Django projects."""

    async def set_commands(self, project: str, commands: CommandList) -> None: ...

    async def commands(self, project: str) -> CommandList | None:
        """None if no runner has reported any."""
        ...

    async def commands_hash(self, project: str) -> str:
        """The hash of the list; empty if there is none."""
        ...


class RunnerAnswers(Protocol):
    """The answers to requests of runners, by key and nonce."""

    async def caller(self, secret_hash: bytes, nonce: str) -> Caller | None:
        """Who sends a request, also with a key that has expired; None if there is no such key, or its project was deleted."""
        ...

    async def remember(self, key: str, nonce: str, answer: StoredAnswer) -> None:
        """Store an answer; the first one stays."""
        ...


class RunnerRuns(Protocol):
    """The executions on runners, for as long as they run and for a while after."""

    async def begin(self, execution: str, key: str, nonce: str, *, muted: bool, timeout_ms: int) -> bool:
        """Have an execution started by a request. False if another request has started it.

        To be called while it waits: one that was begun a while ago is one whose server died before it ran.
        """
        ...

    async def abandon(self, execution: str, nonce: str) -> None:
        """What this request has begun was not started."""
        ...

    async def run(self, execution: str) -> Run | None: ...

    async def heard(self, run: Run) -> None:
        """A runner has called about an execution, which was read just now. To be called often: few calls write."""
        ...

    async def add_chunk(self, execution: str, chunk: Chunk, reply: Reply | None = None) -> Added:
        """Store a piece of output and, if the execution runs, what its request is answered, in one transaction."""
        ...

    async def chunks(self, execution: str, begin: int, skipped: Collection[int], limit: int) -> Sequence[Chunk]:
        """Up to `limit` chunks that are numbered from `begin` on, or are among those that were skipped; in order."""
        ...

    async def ask_to_stop(self, execution: str, level: StopLevel, *, mute: bool = False) -> None:
        """Have its runner stop the command; a level that was higher stays. With `mute` no more output is stored."""
        ...

    async def complete(self, execution: str, end: RunEnd) -> bool:
        """Store how it ended; False if that is known already: the first end stays."""
        ...

    async def close_run(self, execution: str) -> None:
        """Its end is about to be in the history: delete its chunks."""
        ...


class RunnerStore(RunnerKeys, RunnerCommands, RunnerAnswers, RunnerRuns, Protocol):
    """All of it."""

    async def forget(self) -> None:
        """Delete answers and runs that are too old to be asked for."""
        ...
