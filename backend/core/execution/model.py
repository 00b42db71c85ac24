"""What is run, how it ends, and what may be asked of it while it runs.

Job          what an executor is to run: plain data, so that it can be sent to another process
Outcome      how it ended
Instruction  what is asked of a running execution, each answered with a `Delivery`
"""

from collections.abc import Callable, Mapping
from dataclasses import field, fields
from enum import StrEnum
from functools import cache
from operator import add, attrgetter
from typing import Any, assert_never

from backend.core.dataclasses import dataclass, replace
from backend.core.errors import RecordingError, ShareUsedUpError
from backend.core.policy.admit import Plan
from backend.core.policy.line_state import LineState

EXIT_TIMED_OUT, EXIT_GATEPOST_FAILED, EXIT_DENIED, EXIT_NOT_FOUND, EXIT_SIGNAL_BASE = 124, 125, 126, 127, 128


class Status(StrEnum):
    """The state of an execution. `queued` waits for an owner; all others except `running` are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    DENIED = "denied"
    LOST = "lost"

    @property
    def is_final(self) -> bool:
        """Whether the execution has ended."""
        return self not in {Status.QUEUED, Status.RUNNING}


class StopReason(StrEnum):
    """Why a running execution is stopped before its own end."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    ABANDONED = "abandoned"
    SHUTDOWN = "shutdown"
    OUTPUT_LIMIT = "output_limit"
    WORKSPACE_FULL = "workspace_full"
    DISK_FULL = "disk_full"
    UNRECORDED = "unrecorded"
    RECORDINGS_FULL = "recordings_full"
    LEASE_LOST = "lease_lost"


# What is recorded then is not all that the command wrote, even where it had ended before it was stopped.
INCOMPLETE = frozenset({StopReason.OUTPUT_LIMIT, StopReason.UNRECORDED, StopReason.RECORDINGS_FULL})
# What runs elsewhere goes on then, and another server takes it up.
HANDED_OVER = frozenset({StopReason.SHUTDOWN, StopReason.LEASE_LOST})


def unrecorded(error: RecordingError) -> StopReason:
    """Why an execution is stopped of which no more can be recorded."""
    return StopReason.RECORDINGS_FULL if isinstance(error, ShareUsedUpError) else StopReason.UNRECORDED


class SignalName(StrEnum):
    """The signals that a client may send."""

    HUP = "HUP"
    INT = "INT"
    QUIT = "QUIT"
    TERM = "TERM"
    KILL = "KILL"
    USR1 = "USR1"
    USR2 = "USR2"


@dataclass(frozen=True, slots=True)
class Stop:
    """End the execution. Later reasons are ignored; `by` is the principal that asked."""

    reason: StopReason
    by: str = ""


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a signal to every process of the execution."""

    name: SignalName


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes for standard input. `last`: close it behind them, so that no program can end in between."""

    data: bytes
    last: bool = False


@dataclass(frozen=True, slots=True)
class CloseInput:
    """Close standard input."""


@dataclass(frozen=True, slots=True)
class Resize:
    """The size of the client's terminal changed."""

    columns: int
    rows: int


Instruction = Stop | Signal | Write | CloseInput | Resize


class Delivery(StrEnum):
    """The result of an instruction.

    `not_running`: no program is running that could receive it, or the execution has ended. `not_reading`: too many
    bytes are buffered for a program that does not read. `closed`: standard input is closed, or there is no terminal to
    resize. `unreachable`: the server that runs the execution did not answer.
    """

    DELIVERED = "delivered"
    NOT_RUNNING = "not_running"
    NOT_READING = "not_reading"
    CLOSED = "closed"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Actor:
    """The principal that an execution belongs to, as the audit names it."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Job:
    """What an executor is to run: plain data that survives JSON.

    `target` is the text of its target's name, `plan` the verdict on `line`, `timeout` is in seconds, `output_limit` in
    bytes; `stdin` keeps standard input open for the first program; `client_ref` is the client's name for it. One that is
    `resumed` was started by an earlier server.
    """

    execution: str
    target: str
    actor: Actor
    line: str
    plan: Plan
    timeout: float
    output_limit: int
    stdin: bool = False
    client_ref: str | None = None
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources that a command used, and the level and layers of protection that were actually applied.

    Memory, read and written in bytes; the peak is that of its largest process.
    """

    cpu_ms: int = 0
    peak_memory_bytes: int = field(default=0, metadata={"plus": max})
    read_bytes: int = 0
    written_bytes: int = 0
    protection: str = ""
    layers: tuple[str, ...] = ()

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> "Usage":
        """The usage with these figures, for example those of a last message; what is missing is nothing."""
        nothing = cls()
        return cls(**{name: figures.get(name) or getattr(nothing, name) for name in nothing.figures})

    @property
    def figures(self) -> dict[str, Any]:
        """The fields of messages, events, rows and the history: all but the layers."""
        names, read = _figures(type(self))  # type: ignore[arg-type]  # mypy takes the hash of an instance for that of its class
        figures: dict[str, Any] = dict(zip(names, read(self), strict=True))
        figures["protection"] = self.protection or None
        return figures

    def plus(self, other: "Usage") -> "Usage":
        """The sum of both, with the weaker protection of the two."""
        weaker = min(
            (each for each in (self, other) if each.protection), key=lambda each: each.protection, default=self
        )
        counted = (each for each in fields(self) if isinstance(each.default, int))
        sums = {
            each.name: each.metadata.get("plus", add)(getattr(self, each.name), getattr(other, each.name))
            for each in counted
        }
        return replace(weaker, **sums)


@cache
def _figures(kind: type[Usage]) -> tuple[tuple[str, ...], Callable[[Usage], tuple[Any, ...]]]:
    """The names of the fields that are figures, and what reads all of them."""
    names = tuple(each.name for each in fields(kind) if each.name != "layers")
    return names, attrgetter(*names)


NOTHING_USED = Usage()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended. `exit_code` is its own, or by convention 124, 125, 127, 128+n; None where nothing ran.

    `problem` is shown to the viewers before the end; `left` is the state that a line left, for the next one of its session;
    `background` are the executions that it has started.
    With the status `queued` it has not ended: it goes on without this server, and another one takes it up.
    """

    status: Status
    exit_code: int | None
    signal: str | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    problem: str = ""
    rule: str = ""
    usage: Usage = NOTHING_USED
    left: LineState | None = None
    background: tuple[str, ...] = ()


def stopped_outcome(
    reason: StopReason, signal: str | None, code: int, stdout: int, stderr: int, usage: Usage = NOTHING_USED
) -> Outcome:
    """The outcome of a command that was stopped for `reason`; `code` is the exit code of its process."""
    match reason:
        case StopReason.TIMED_OUT:
            return Outcome(Status.TIMED_OUT, EXIT_TIMED_OUT, signal, stdout, stderr, usage=usage)
        case StopReason.CANCELLED | StopReason.ABANDONED | StopReason.SHUTDOWN:
            return Outcome(Status.CANCELLED, code, signal, stdout, stderr, usage=usage)
        case StopReason.OUTPUT_LIMIT | StopReason.WORKSPACE_FULL | StopReason.DISK_FULL:
            return Outcome(Status.FAILED, code, signal, stdout, stderr, usage=usage)
        case StopReason.UNRECORDED | StopReason.RECORDINGS_FULL:
            return Outcome(Status.FAILED, EXIT_GATEPOST_FAILED, signal, stdout, stderr, usage=usage)
        case StopReason.LEASE_LOST:
            return Outcome(Status.LOST, code, signal, stdout, stderr, usage=usage)
        case _:
            assert_never(reason)
