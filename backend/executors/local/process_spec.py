"""What a launcher is asked and what it tells: the programs of one pipeline, the bounds that hold them, how they ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Stage:
    """One program of a pipeline. stdin, stdout, stderr are descriptors of this process (close-on-exec) that become 0, 1, 2."""

    name: str
    executable: str  # absolute path
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str  # absolute
    stdin: int
    stdout: int
    stderr: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """What holds the programs of one execution."""

    root: str  # the workspace, absolute: read and write
    network: bool = False
    readable: tuple[str, ...] = ()  # further absolute paths to read (and execute) beside the standard set
    full: bool = False  # what is in the workspace can be read and deleted; nothing can be written or added


@dataclass(frozen=True, slots=True)
class StageEnd:
    """`code` as os.waitstatus_to_exitcode gives it (negative: signal); `error` is the errno where it could not be executed, else 0."""

    code: int
    error: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What all programs of a pipeline used together; the peak is that of the largest process."""

    cpu_seconds: float
    peak_memory: int  # bytes
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True, slots=True)
class Applied:
    """The protection really applied, as told by the launcher before it executed the programs."""

    level: str  # "L0".."L3"
    layers: tuple[str, ...]  # e.g. ("session","rlimits","no_new_privs","landlock:7","seccomp","uid:65534")


@dataclass(frozen=True, slots=True)
class Report:
    """How a pipeline ended."""

    ends: tuple[StageEnd, ...]  # one a stage, in order
    usage: Usage
    applied: Applied


class Launched(Protocol):
    """A pipeline that was started."""

    pidfd: int  # readable once everything of the command is gone

    def applied(self) -> Applied | None:
        """The protection, without waiting; None while not told yet."""
        ...

    def terminate(self) -> None:
        """SIGTERM to every process of the command."""
        ...

    def kill(self) -> None:
        """SIGKILL to every process, until none is left."""
        ...

    def signal(self, number: int) -> bool:
        """A signal to every process of the command. False when they are gone."""
        ...

    def finish(self) -> Report:
        """After pidfd is readable: waits for nothing, closes everything."""
        ...


class Launcher(Protocol):
    """Starts pipelines."""

    def start(self, stages: Sequence[Stage], bounds: Bounds) -> Launched:
        """Does not block; raises OSError."""
        ...
