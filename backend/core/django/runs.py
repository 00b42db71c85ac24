"""An execution on a runner: its chunks of output in order, how it ended, and when it is given up. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import field
from enum import IntEnum

from backend.core.dataclasses import dataclass
from backend.core.execution.model import (
    EXIT_GATEPOST_FAILED,
    Outcome,
    Status,
    StopReason,
    stopped_outcome,
)

MOST_CHUNKS = 10_000_000  # the greatest number that a chunk may have


class StopLevel(IntEnum):
    """What a runner is asked to do with a command that runs."""

    RUN = 0
    CANCEL = 1
    KILL = 2


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of output. `number` counts the chunks of both streams of an execution, from 1."""

    number: int
    is_stderr: bool
    text: str

    @property
    def stream(self) -> str:
        """The stream that it belongs to."""
        return "stderr" if self.is_stderr else "stdout"


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a runner says that a command ended. A negative `exit_code` is a signal; -1 is also a failure of the runner."""

    status: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Run:
    """An execution that a runner has started, by the request `nonce` of its `key`. Times are Unix milliseconds.

    With `muted` output is not stored. The command may take `timeout_ms`, which a server that takes it up knows from here.
    A run that is `closed` has its end in the history.
    """

    execution: str
    key: str
    nonce: str
    begun_ms: int
    heard_ms: int
    timeout_ms: int
    muted: bool = False
    stop: StopLevel = StopLevel.RUN
    end: RunEnd | None = None
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Gap:
    """Chunks that did not arrive, from `first` to `last`."""

    first: int
    last: int

    def __str__(self) -> str:
        chunks = f"chunk {self.first} has" if self.first == self.last else f"chunks {self.first} to {self.last} have"
        return f"[Output is missing here: {chunks} not arrived.]"


@dataclass(slots=True)
class ChunkOrder:
    """Puts the chunks of an execution in order. `next` is the number that follows; `skipped` were given up."""

    next: int = 1
    skipped: set[int] = field(default_factory=set)
    waiting: dict[int, Chunk] = field(default_factory=dict)

    def add(self, chunks: Iterable[Chunk]) -> None:
        """Add chunks, in any order; those that were passed on already are ignored."""
        for chunk in chunks:
            if chunk.number >= self.next or chunk.number in self.skipped:
                self.waiting.setdefault(chunk.number, chunk)

    def ready(self) -> Iterator[Chunk]:
        """What can be passed on: what arrived late, then what follows."""
        for number in sorted(self.skipped & self.waiting.keys()):
            self.skipped.discard(number)
            yield self.waiting.pop(number)
        while self.next in self.waiting:
            yield self.waiting.pop(self.next)
            self.next += 1

    def is_late(self, chunk: Chunk) -> bool:
        """Whether a chunk that `ready` yields belongs to a gap that was given up."""
        return chunk.number < self.next

    def skip(self) -> Gap | None:
        """Give up what is missing before the first chunk that waits; None if nothing waits."""
        ahead = [number for number in self.waiting if number > self.next]
        if not ahead:
            return None
        gap = Gap(self.next, min(ahead) - 1)
        self.skipped |= set(range(gap.first, min(gap.last, gap.first + 1000) + 1))
        self.next = gap.last + 1
        return gap


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a runner is waited for, in seconds.

    `timeout` more than the command may run, for the runner to report that; `gap` for a chunk that is missing; `force`
    after a stop until the command is to be killed; `stop` until the end is waited for no longer; `silence` without a
    call, which is three missed heartbeats, until a runner is gone.
    """

    timeout: float = 10.0
    gap: float = 5.0
    force: float = 10.0
    stop: float = 30.0
    silence: float = 90.0

    def is_given_up(self, reason: StopReason, since_stop: float, silent: float) -> bool:
        """Whether the end of a stopped command is waited for no longer. One that timed out is first asked for."""
        patience = self.silence if reason is StopReason.TIMED_OUT and silent > self.force else self.stop
        return since_stop >= self.stop and (silent >= patience or silent <= self.force)


GONE = "The runner has not been heard of for {} s; whether the command has ended is not known."


def given_up(reason: StopReason, silent: float, patience: Patience, stdout: int, stderr: int) -> Outcome:
    """The outcome of a command whose runner did not report its end in time."""
    if reason is StopReason.TIMED_OUT and silent >= patience.silence:
        problem = GONE.format(round(silent))
        return Outcome(Status.LOST, None, None, stdout, stderr, problem=problem, rule="runner.lost")
    return stopped_outcome(reason, None, EXIT_GATEPOST_FAILED, stdout, stderr)
