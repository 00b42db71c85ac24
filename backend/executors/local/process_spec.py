"""What a launcher is given and what it reports: the programs of one pipeline, their confinement, how they ended."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Protocol

from backend.core.dataclasses import dataclass

Owner = tuple[int, int]  # uid, gid


@dataclass(frozen=True, slots=True)
class Ports:
    """A part of the network: TCP connections to these ports, of any host, and with `names` UDP, to ask for host names.

    The kernel holds ports from Landlock ABI 4 on; it cannot hold hosts, nor the ports of UDP.
    """

    tcp: tuple[int, ...]
    names: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """The confinement of one program."""

    root: str  # the workspace, absolute: read and write
    network: bool | Ports = False
    readable: tuple[str, ...] = ()  # further absolute paths to read and execute, in addition to the standard set
    full: bool = False  # the workspace is full: its files can be read and deleted, nothing can be written or added
    home: str = ""  # a private folder, absolute: read and write; empty where the workspace is the home
    kept: str = ""  # the folder that holds it, where it outlives the command; rooms show this one


@dataclass(frozen=True, slots=True)
class Stage:
    """One program of a pipeline. stdin, stdout, stderr are descriptors of this process (close-on-exec) that become 0, 1, 2.

    `kept` is a further one, which the program has under the same number; -1 where there is none.
    """

    name: str
    executable: str  # absolute path
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str  # absolute
    stdin: int
    stdout: int
    stderr: int
    bounds: Bounds
    kept: int = -1


# Namespaces, as the kernel numbers them.
NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PID, NEW_NETWORK = (
    *(0x20000, 0x4000000, 0x8000000),
    *(0x10000000, 0x20000000, 0x40000000),
)


@dataclass(frozen=True, slots=True)
class RoomEntrance:
    """How a command gets into a room: a pidfd of the first process there, and which of its namespaces are entered.

    `scratch` are the folders in memory that every program there may use; with `temporary`, /tmp is a folder of the workspace;
    `proxy` is the address of the way out for one execution, empty where there is none.
    """

    descriptor: int
    namespaces: int
    scratch: tuple[str, ...] = ()
    temporary: bool = False
    proxy: str = field(default="", compare=False, repr=False)

    @property
    def own_network(self) -> bool:
        """Whether it has only a loopback of its own; otherwise the machine's network is there."""
        return bool(self.namespaces & NEW_NETWORK)

    @property
    def own_user(self) -> bool:
        """Whether its users are numbered in a namespace of its own."""
        return bool(self.namespaces & NEW_USER)


@dataclass(frozen=True, slots=True)
class StageEnd:
    """`code` is that of os.waitstatus_to_exitcode (negative: a signal); `error` the errno of a failed execution, otherwise 0."""

    code: int
    error: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources used by all programs of a pipeline; the peak is that of the largest process."""

    cpu_seconds: float
    peak_memory: int  # bytes
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True, slots=True)
class Applied:
    """The protection actually applied, as reported before the programs were executed."""

    level: str  # "L0".."L3"
    layers: tuple[str, ...]  # e.g. ("session","rlimits","no_new_privs","landlock:7","seccomp","uid:65534")


@dataclass(frozen=True, slots=True)
class Report:
    """How a pipeline ended."""

    ends: tuple[StageEnd, ...]  # one per stage, in order
    usage: Usage
    applied: Applied
    limits_met: frozenset[str] = frozenset()  # of the whole command: "memory", "pids", where control groups count them


class Launched(Protocol):
    """A pipeline that was started."""

    ended: int  # a descriptor, readable once every process of the command is gone

    def applied(self) -> Applied | None:
        """The protection, without waiting; None until it is reported."""
        ...

    def terminate(self) -> None:
        """SIGTERM to every process of the command."""
        ...

    def kill(self) -> None:
        """SIGKILL to every process, until none is left."""
        ...

    def give_up(self) -> None:
        """For one that was killed some time ago: if it has not begun, what was to begin it hangs, and is ended."""
        ...

    def signal(self, number: int) -> bool:
        """A signal to every process of the command. False when they are gone."""
        ...

    def finish(self) -> Report:
        """To be called once `ended` is readable: does not wait, closes everything."""
        ...


class Launcher(Protocol):
    """Starts pipelines."""

    def start(self, stages: Sequence[Stage], room: RoomEntrance | None = None, user: Owner | None = None) -> Launched:
        """As this user, if there is one. Does not block; raises OSError."""
        ...
