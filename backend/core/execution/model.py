"""What is asked of an executor and how it ends: requests, orders, the strings on a running command, outcomes."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, assert_never

from backend.core.execution.targets import Target
from backend.core.identity import Principal
from backend.core.language.parser import Redirect
from backend.core.policy.profile import Profile
from backend.core.recording.stored import Recorder

STDIN_LIMIT = 1 << 20  # bytes that wait for a program that does not read
EXIT_TIMED_OUT, EXIT_GATEPOST_FAILED, EXIT_DENIED, EXIT_NOT_FOUND, EXIT_SIGNAL_BASE = 124, 125, 126, 127, 128


class Status(StrEnum):
    """How an execution stands or ended."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    DENIED = "denied"
    LOST = "lost"


class Stop(StrEnum):
    """Why a running command is stopped before its own end."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    ABANDONED = "abandoned"
    SHUTDOWN = "shutdown"
    OUTPUT_LIMIT = "output_limit"
    WORKSPACE_FULL = "workspace_full"
    DISK_FULL = "disk_full"
    UNRECORDED = "unrecorded"


@dataclass(frozen=True, slots=True)
class Request:
    """A wish to run a command. `timeout` is in seconds, None for the longest that is allowed.

    `stdin` keeps standard input open; `detached` commands go on without a viewer; `execution` is the id it is to get,
    `id` the caller's own word for it.
    """

    principal: Principal
    target: Target
    command: str
    cwd: str = "."
    timeout: float | None = None
    dry_run: bool = False
    stdin: bool = False
    detached: bool = False
    metadata_only: bool = False
    id: str | None = None
    execution: str | None = None

    @property
    def hides_output(self) -> bool:
        """Whether output is neither stored nor shown."""
        return self.metadata_only or self.target.metadata_only


@dataclass(frozen=True, slots=True)
class Invocation:
    """One program of a pipeline, judged: exactly this argv, these variables beside the standard ones, these files."""

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    redirects: tuple[Redirect, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a command used, and what held it: the level and the layers of protection that were really applied.

    Memory, read and written in bytes; the peak is that of its largest process.
    """

    cpu_ms: int = 0
    peak_memory: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    protection: str = ""
    layers: tuple[str, ...] = ()

    def plus(self, other: "Usage") -> "Usage":
        """Both together; the weaker protection counts."""
        weaker = min(
            (each for each in (self, other) if each.protection), key=lambda each: each.protection, default=self
        )
        return Usage(
            self.cpu_ms + other.cpu_ms,
            max(self.peak_memory, other.peak_memory),
            self.read_bytes + other.read_bytes,
            self.written_bytes + other.written_bytes,
            weaker.protection,
            weaker.layers,
        )


NOTHING_USED = Usage()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended. `exit_code` is its own, or by convention 124, 125, 127, 128+n; None where nothing ran.

    `problem` is told to the viewers before the end.
    """

    status: Status
    exit_code: int | None
    signal: str | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    problem: str = ""
    rule: str = ""
    usage: Usage = NOTHING_USED


@dataclass(frozen=True, slots=True)
class Order:
    """What an executor is to do: this pipeline, in this folder, for so many seconds, for so many bytes of output.

    `root` is the workspace, which holds `cwd`; `profile` is what judged it.
    """

    execution: str
    profile: Profile
    pipeline: tuple[Invocation, ...]
    root: str
    cwd: str
    timeout: float
    output_limit: int
    stdin: bool
    network: bool = False

    @property
    def argv(self) -> tuple[str, ...]:
        """The words of the first program."""
        return self.pipeline[0].argv


class Inbox:
    """Standard input on its way to a program: bounded, and closed once."""

    def __init__(self) -> None:
        self.waiting = bytearray()
        self.closed = False
        self.on_change: Callable[[], None] = lambda: None

    def put(self, data: bytes) -> bool:
        """Add bytes; False when it is closed or too many wait already."""
        if self.closed or len(self.waiting) + len(data) > STDIN_LIMIT:
            return False
        self.waiting += data
        self.on_change()
        return True

    def close(self) -> None:
        """No more will come."""
        self.closed = True
        self.on_change()


class Control:
    """The strings on a running command: its standard input, and the reason to stop once there is one."""

    def __init__(self, *, stdin: bool) -> None:
        self.stdin = Inbox()
        self.stdin.closed = not stdin
        self.reason: Stop | None = None
        self.stopped_by = ""
        self.on_stop: Callable[[], None] = lambda: None
        self.on_signal: Callable[[int], None] = lambda _: None

    def stop(self, reason: Stop, by: str = "") -> None:
        """Ask for the end; the first reason stays. `by` is the principal who asked."""
        if self.reason is None:
            self.reason, self.stopped_by = reason, by
            self.on_stop()


class Executor(Protocol):
    """Runs an order to its end, writing all output to the recorder."""

    async def run(self, order: Order, recorder: Recorder, control: Control) -> Outcome: ...


def stopped_outcome(
    reason: Stop, signal: str | None, code: int, stdout: int, stderr: int, usage: Usage = NOTHING_USED
) -> Outcome:
    """The outcome of a command that was stopped for `reason`; `code` is what its process ended with."""
    match reason:
        case Stop.TIMED_OUT:
            return Outcome(Status.TIMED_OUT, EXIT_TIMED_OUT, signal, stdout, stderr, usage=usage)
        case Stop.CANCELLED | Stop.ABANDONED | Stop.SHUTDOWN:
            return Outcome(Status.CANCELLED, code, signal, stdout, stderr, usage=usage)
        case Stop.OUTPUT_LIMIT | Stop.WORKSPACE_FULL | Stop.DISK_FULL:
            return Outcome(Status.FAILED, code, signal, stdout, stderr, usage=usage)
        case Stop.UNRECORDED:
            return Outcome(Status.FAILED, EXIT_GATEPOST_FAILED, signal, stdout, stderr, usage=usage)
        case _:
            assert_never(reason)
