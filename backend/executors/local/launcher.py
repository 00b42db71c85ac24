"""Starts the programs of a command line in the cage: passes on what is permitted, and reads what was actually applied.

The cage itself (cage/cage.c) contains no list of paths or system calls; what is permitted is in `confinement`.
"""

import ctypes
import errno
import fcntl
import os
import signal
import struct
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from backend.executors.local import cgroups
from backend.executors.local.cage_binary import MissingCage, find_cage
from backend.executors.local.confinement import landlock_rules, syscall_filter
from backend.executors.local.process_spec import Applied, Bounds, Launched, Ports, Report, Stage, StageEnd, Usage

LIBC = ctypes.CDLL(None, use_errno=True)

VERSION = "cage 3"  # of the spec
BAD_SPEC = 125  # exit status of a cage that refused its spec
EXIT_CANNOT_RUN = 127
STATUS_READ = 65536  # bytes; all that a pipe holds
LANDLOCK_CREATE_RULESET = 444  # system call
LANDLOCK_CREATE_RULESET_VERSION = 1  # flag
LANDLOCK_ABI_NEWEST = 7  # whose features are used
LANDLOCK_ABI_FOR_L2 = 3  # the first that protects files outside from truncation
LANDLOCK_ABI_FOR_SIGNALS = 6  # the first that keeps signals inside


@dataclass(frozen=True, slots=True)
class CageLimits:
    """What each process may use. Beyond it, the kernel refuses or kills.

    `memory` is what a process may write to privately (RLIMIT_DATA): neither address space, of which node reserves tens of
    GiB, nor memory shared with other processes is limited. `processes` are those that a command may have in addition to
    the processes and threads that its user had when it started; it has no effect for root. With control groups it is also
    the limit of all processes of one command, and `memory_total` that of their memory.
    """

    cpu_seconds: int = 600
    memory: int = 2 << 30  # bytes
    file_size: int = 1 << 30  # bytes
    processes: int = 256
    open_files: int = 1024
    memory_total: int = 2 << 30  # bytes


def cage_environment(home: str = "") -> dict[str, str]:
    """Variables without which git and npm read files that are closed to them; `home` is a folder in the workspace."""
    environment = {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "npm_config_globalconfig": os.devnull,
        "npm_config_update_notifier": "false",
        "CHOKIDAR_USEPOLLING": "1",  # watches are refused
        "WATCHPACK_POLLING": "1",
    }
    if home:
        environment |= {"HOME": home, "TMPDIR": home, "npm_config_cache": f"{home}/.npm"}
    return environment


def landlock_abi() -> int:
    """The Landlock ABI that the kernel offers to this process; 0 without Landlock."""
    abi: int = LIBC.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_CREATE_RULESET_VERSION)
    return min(max(abi, 0), LANDLOCK_ABI_NEWEST)


@dataclass(frozen=True)
class CageLauncher:
    """Starts pipelines in the cage.

    `run_as` (uid, gid) is the user of programs that have no other; required where the service is root. A program whose confinement falls
    short of `minimum` is not executed. `cache` is a folder that only this service may write to, for `find_cage`.
    """

    cache: Path
    run_as: tuple[int, int] | None
    limits: CageLimits = field(default_factory=CageLimits)
    minimum: str = "L2"
    groups: cgroups.Groups = field(default_factory=cgroups.detect_groups)
    cage: Path | MissingCage = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cage", find_cage(self.cache))

    def start(self, stages: Sequence[Stage], *, user: tuple[int, int] | None = None) -> Launched:
        """Start a pipeline. OSError where that is not possible, or where `minimum` cannot be reached here."""
        user = user or self.run_as
        cage = self._usable_cage()
        if self.minimum >= "L1" and os.geteuid() == 0 and not (user and user[0]):
            raise OSError(errno.EPERM, "as root, programs need a user of their own")
        with ExitStack() as ours, ExitStack() as theirs:
            control_read, control = _pipe(theirs, ours)
            status, status_write = _pipe(ours, theirs)
            stages = [_above_stdio(stage, theirs) for stage in stages]
            spec = os.memfd_create("cage")
            theirs.callback(os.close, spec)
            group = self.groups.acquire(self.limits.processes, self.limits.memory_total)
            ours.callback(group.release)
            theirs.callback(group.close)
            _write(spec, self._spec(stages, user, control_read, status_write, group))
            inherited = {spec, control_read, status_write, *group.descriptors, *_descriptors(stages)}
            pid = _spawn([str(cage), str(spec)], inherited)
            pidfd = _pidfd(pid)
            ours.pop_all()
        return _Running(pid, pidfd, control, status, len(stages), group)

    def _usable_cage(self) -> Path:
        """The program to execute. OSError, before anything is started, where it would refuse anyway."""
        if isinstance(self.cage, MissingCage):
            raise OSError(errno.ENOEXEC, self.cage.problem)
        if not os.path.exists("/proc/self/stat"):
            raise OSError(errno.ENOSYS, "/proc is not mounted or not readable")
        if self.minimum >= "L2" and (abi := landlock_abi()) < LANDLOCK_ABI_FOR_L2:
            raise OSError(errno.ENOSYS, f"the kernel offers Landlock {abi}, {LANDLOCK_ABI_FOR_L2} is required")
        if self.minimum >= "L3":
            raise OSError(errno.ENOSYS, "namespaces are not applied")
        return self.cage

    def _spec(
        self, stages: Sequence[Stage], user: tuple[int, int] | None, control: int, status: int, group: cgroups.Group
    ) -> bytes:
        limits, confinements = self.limits, list(dict.fromkeys(stage.bounds for stage in stages))
        scoped = bool(user and os.geteuid() == 0) or landlock_abi() >= LANDLOCK_ABI_FOR_SIGNALS
        spec: list[str | int | bytes] = [
            VERSION,
            self.minimum[1:],
            os.getpid(),
            control,
            status,
            *(user or (-1, -1)),
        ]
        processes = _process_count(user[0] if user else os.geteuid()) + limits.processes
        file_size = 0 if any(bounds.full for bounds in confinements) else limits.file_size  # holds without Landlock too
        spec += [limits.cpu_seconds, limits.memory, file_size, processes, limits.open_files]
        spec += [len(group.members)]
        for member in group.members:
            spec += [member.folder, member.join, member.layers]
        spec += [len(confinements)]
        head = b"".join(map(_field, spec))
        guarded = None if scoped else os.getpid()
        head += b"".join(_rules(bounds) + _field(syscall_filter(bounds.network, guarded)) for bounds in confinements)
        spec = [len(stages)]
        for stage in stages:
            spec += [
                confinements.index(stage.bounds),
                stage.executable,
                stage.cwd,
                stage.stdin,
                stage.stdout,
                stage.stderr,
            ]
            spec += [len(stage.argv), *stage.argv, len(stage.environment)]
            spec += [f"{name}={value}" for name, value in stage.environment.items()]
        return head + b"".join(map(_field, spec))


def _process_count(uid: int) -> int:
    """Processes and threads of a user now, as the kernel counts them against its limit; read once a second."""
    return _count_processes(int(time.monotonic()))[uid]


@lru_cache(maxsize=1)
def _count_processes(second: int) -> Counter[int]:
    """Of every user."""
    total: Counter[int] = Counter()
    for entry in os.scandir("/proc"):
        with suppress(OSError):
            if entry.name.isdigit():
                total[entry.stat().st_uid] += os.stat(f"/proc/{entry.name}/task").st_nlink - 2
    return total


class _Running:
    """A pipeline in the cage, as the service sees it."""

    def __init__(
        self,
        pid: int,
        pidfd: int,
        control: int,
        status: int,
        stages: int,
        group: cgroups.Group,
    ) -> None:
        self.pidfd = pidfd
        self._pid, self._control, self._status, self._stages = pid, control, status, stages
        self._group = group
        self._reported = b""
        os.set_blocking(control, False)
        os.set_blocking(status, False)

    def applied(self) -> Applied | None:
        """The protection of the least protected program; None until all have reported."""
        self._read()
        reported = [line for line in self._lines() if line[0] == "applied"]
        if len(reported) < self._stages:
            return None
        return _least(reported)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> bool:
        with suppress(BrokenPipeError, BlockingIOError):
            return os.write(self._control, bytes([number])) == 1
        return False

    def finish(self) -> Report:
        self._read()
        _, status = os.waitpid(self._pid, 0)
        self._group.release()
        for descriptor in (self._control, self._status, self.pidfd):
            os.close(descriptor)
        lines = list(self._lines())
        ends, errors = ({int(line[1]): int(line[2]) for line in lines if line[0] == kind} for kind in ("end", "error"))
        refused = errno.EINVAL if os.waitstatus_to_exitcode(status) == BAD_SPEC else 0
        used = next((list(map(int, line[1:])) for line in lines if line[0] == "usage"), [0, 0, 0, 0])
        return Report(
            tuple(_end(ends.get(index), errors.get(index, refused)) for index in range(self._stages)),
            Usage(used[0] / 1e6, used[1] * 1024, used[2], used[3]),
            _least(line for line in lines if line[0] == "applied"),
        )

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while data := os.read(self._status, STATUS_READ):
                self._reported += data

    def _lines(self) -> Iterable[list[str]]:
        return (line.split(" ") for line in self._reported.decode("ascii").split("\n")[:-1])


def _end(status: int | None, error: int) -> StageEnd:
    """Without a status and an error, the cage itself was killed and its programs with it."""
    if status is None:
        return StageEnd(EXIT_CANNOT_RUN if error else -signal.SIGKILL, error)
    return StageEnd(os.waitstatus_to_exitcode(status), error)


def _least(reported: Iterable[list[str]]) -> Applied:
    applied = [Applied(level, tuple(layers.split(","))) for _, _, level, layers in reported]
    return min(applied, key=lambda each: (each.level, len(each.layers)), default=Applied("L0", ()))


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe()
    reader.callback(os.close, reading)
    writer.callback(os.close, writing)
    return reading, writing


def _spawn(command: list[str], inherited: set[int]) -> int:
    """The pid of a new process that has these descriptors under the same numbers. Half the time of `subprocess`."""
    keep = [(os.POSIX_SPAWN_DUP2, descriptor, descriptor) for descriptor in inherited]
    return os.posix_spawn(command[0], command, {}, file_actions=keep)


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _above_stdio(stage: Stage, close: ExitStack) -> Stage:
    """Move descriptors below 3, which are the cage's own streams, to other numbers."""

    def above(descriptor: int) -> int:
        if descriptor > 2:
            return descriptor
        copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
        close.callback(os.close, copy)
        return copy

    return replace(stage, stdin=above(stage.stdin), stdout=above(stage.stdout), stderr=above(stage.stderr))


def _descriptors(stages: Iterable[Stage]) -> set[int]:
    return {descriptor for stage in stages for descriptor in (stage.stdin, stage.stdout, stage.stderr)}


def _field(value: str | int | bytes) -> bytes:
    data = value if isinstance(value, bytes) else os.fsencode(str(value))
    return struct.pack("<I", len(data)) + data + b"\0"


@lru_cache(maxsize=256)
def _rules(bounds: Bounds) -> bytes:
    rules = landlock_rules(bounds)
    ports = bounds.network.tcp if isinstance(bounds.network, Ports) else ()
    network = b"".join(map(_field, (int(bounds.network is True), len(ports), *ports)))
    return network + _field(len(rules)) + b"".join(_field(word) for rule in rules for word in rule)


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
