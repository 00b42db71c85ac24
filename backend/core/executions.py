"""What is asked of an executor and how it ends: requests, orders, the strings on a running command, outcomes."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, assert_never

from backend.core.identity import Principal
from backend.core.recording import Recorder

STDIN_LIMIT = 1 << 20  # bytes that wait for a program that does not read
EXIT_TIMED_OUT, EXIT_GATEPOST_FAILED, EXIT_NOT_FOUND, EXIT_SIGNAL_BASE = 124, 125, 127, 128


class Status(StrEnum):
    """How an execution stands or ended."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"


class Stop(StrEnum):
    """Why a running command is stopped before its own end."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    ABANDONED = "abandoned"
    SHUTDOWN = "shutdown"
    OUTPUT_LIMIT = "output_limit"
    UNRECORDED = "unrecorded"


@dataclass(frozen=True, slots=True)
class Request:
    """A wish to run a command. `timeout` is in seconds, None for the longest that is allowed."""

    principal: Principal
    command: str
    cwd: str = "."
    timeout: float | None = None
    dry_run: bool = False
    stdin: bool = False
    id: str | None = None


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


@dataclass(frozen=True, slots=True)
class Order:
    """What an executor is to do: exactly this argv, in this folder, for so many seconds, for so many bytes."""

    execution: str
    argv: tuple[str, ...]
    cwd: str
    timeout: float
    output_limit: int
    stdin: bool


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
        self.on_stop: Callable[[], None] = lambda: None

    def stop(self, reason: Stop) -> None:
        """Ask for the end; the first reason stays."""
        if self.reason is None:
            self.reason = reason
            self.on_stop()


class Executor(Protocol):
    """Runs an order to its end, writing all output to the recorder."""

    async def run(self, order: Order, recorder: Recorder, control: Control) -> Outcome: ...


def stopped_outcome(reason: Stop, signal: str | None, code: int, stdout: int, stderr: int) -> Outcome:
    """The outcome of a command that was stopped for `reason`; `code` is what its process ended with."""
    match reason:
        case Stop.TIMED_OUT:
            return Outcome(Status.TIMED_OUT, EXIT_TIMED_OUT, signal, stdout, stderr)
        case Stop.CANCELLED | Stop.ABANDONED | Stop.SHUTDOWN:
            return Outcome(Status.CANCELLED, code, signal, stdout, stderr)
        case Stop.OUTPUT_LIMIT:
            return Outcome(Status.FAILED, code, signal, stdout, stderr)
        case Stop.UNRECORDED:
            return Outcome(Status.FAILED, EXIT_GATEPOST_FAILED, signal, stdout, stderr)
        case _:
            assert_never(reason)
