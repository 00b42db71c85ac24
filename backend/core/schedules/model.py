"""Schedules and their runs. Times are Unix milliseconds; intervals are in seconds."""

from enum import StrEnum

from backend.core.dataclasses import dataclass
from backend.core.execution.model import Status

LONGEST_SCHEDULE_NAME = 100  # characters
MOST_JITTER = 3600
MOST_RETRIES = 10
LONGEST_RETRY_DELAY = 86_400


class Policy(StrEnum):
    """What becomes of a due time that was missed, or that comes while a run of the schedule still goes on.

    `skip`: it is not run. `run_once`: one run makes up for all such times. `queue`: each is run, one after the other.
    """

    SKIP = "skip"
    RUN_ONCE = "run_once"
    QUEUE = "queue"


class RunStatus(StrEnum):
    """The state of a run: it waits, its execution is being submitted, or runs; the others are final."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    SKIPPED = "skipped"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    DENIED = "denied"
    LOST = "lost"

    @classmethod
    def of(cls, ended: Status) -> "RunStatus":
        """The state of a run whose execution has ended."""
        return cls(ended.value)

    @property
    def is_active(self) -> bool:
        """Whether it is submitted or runs, so that no other run of its schedule may start."""
        return self in ACTIVE

    @property
    def is_final(self) -> bool:
        return self is not RunStatus.WAITING and not self.is_active


ACTIVE = frozenset({RunStatus.STARTING, RunStatus.RUNNING})


@dataclass(frozen=True, slots=True)
class What:
    """What a schedule runs: a line, on a target (the text of its name), in a folder of it, for `timeout` seconds at most."""

    command: str
    target: str = "local"
    working_dir: str = "."
    timeout: int | None = None


@dataclass(frozen=True, slots=True)
class When:
    """When a schedule runs, and what becomes of times that it cannot keep.

    A run starts up to `jitter` seconds after it is due. One that failed is tried again `retries` times at most, for the
    first time after `retry_delay` seconds.
    """

    cron: str
    zone: str = "UTC"
    missed: Policy = Policy.RUN_ONCE
    overlap: Policy = Policy.SKIP
    jitter: int = 0
    retries: int = 0
    retry_delay: int = 60


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule. It acts as its owner, an account. `next_due_ms` is None while it is paused."""

    id: str
    owner_id: str
    name: str
    what: What
    when: When
    created_ms: int
    next_due_ms: int | None

    @property
    def paused(self) -> bool:
        return self.next_due_ms is None


@dataclass(frozen=True, slots=True)
class Run:
    """One due time of a schedule, or one that was requested (`manual`); a retry is a run with a higher `attempt`.

    `start_ms` is when it may start; while it is `starting`, when another server may take it over. `execution` is the
    execution that it started; `reason` says why it did not.
    """

    schedule_id: str
    due_ms: int
    attempt: int = 0
    start_ms: int = 0
    status: RunStatus = RunStatus.WAITING
    manual: bool = False
    execution: str | None = None
    reason: str = ""

    @property
    def key(self) -> tuple[str, int, int]:
        """What identifies it."""
        return self.schedule_id, self.due_ms, self.attempt

    @property
    def name(self) -> str:
        """The same as a text: the idempotency key of its execution."""
        return f"schedule:{self.schedule_id}:{self.due_ms}:{self.attempt}"


@dataclass(frozen=True, slots=True)
class Ended:
    """A run whose execution has ended with `status`."""

    schedule: Schedule
    run: Run
    status: RunStatus


@dataclass(frozen=True, slots=True)
class ReadyRun:
    """A run that may start, with its schedule and whether another run of it is active."""

    schedule: Schedule
    run: Run
    busy: bool
