"""Starts the programs of a command line in the cage: says what the kernel shall permit, and reads what it really did.

The cage itself (cage.c, or cage.py where there is no compiler) knows no paths and no system calls; what is permitted
stands in `confinement`.
"""

import ctypes
import errno
import fcntl
import hashlib
import os
import platform
import py_compile
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from backend.executors.local import cgroups
from backend.executors.local.confinement import landlock_rules, syscall_filter
from backend.executors.local.process_spec import Applied, Bounds, Launched, Report, Stage, StageEnd, Usage

Kind = Literal["compiled", "python"]

LIBC = ctypes.CDLL(None, use_errno=True)

SOURCES = Path(__file__).parent
VERSION = "cage 2"
COMPILERS = ("cc", "gcc", "clang")
COMPILER_PATH = "/usr/local/bin:/usr/bin:/bin"
FLAGS = ("-O2", "-s", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie")
BUILD_BOUND = 60.0  # seconds
STATUS_READ = 65536  # bytes; all that a pipe holds
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_USED = 7  # the newest ABI whose means are used
LANDLOCK_FULL = 3  # the first ABI that keeps files outside from being emptied
LANDLOCK_SIGNALS = 6  # the first ABI that keeps signals inside


@dataclass(frozen=True, slots=True)
class CageLimits:
    """What each process may use. Beyond, the kernel refuses or kills.

    `memory` is what a process may write to privately (RLIMIT_DATA): address space is not counted, since node reserves
    tens of GiB of it, nor is memory shared with others. `processes` are those that a command may have beside the processes
    and threads that its user had when it started; it has no effect for root. Where there are control groups, it is also
    the bound of all processes of one command, and `memory_total` that of their memory.
    """

    cpu_seconds: int = 600
    memory: int = 2 << 30  # bytes
    file_size: int = 1 << 30  # bytes
    processes: int = 256
    open_files: int = 1024
    memory_total: int = 2 << 30  # bytes


def cage_environment(home: str = "") -> dict[str, str]:
    """Variables without which git and npm look at files that are closed to them; `home` is a folder in the workspace."""
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
    """The version of Landlock that the kernel offers to this process; 0 where there is none."""
    abi: int = LIBC.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    return min(max(abi, 0), LANDLOCK_USED)


@dataclass(frozen=True)
class CageLauncher:
    """Starts pipelines in the cage.

    `run_as` (uid, gid) is who the programs run as; wanted where the service is root. A program whose confinement falls
    short of `minimum` is not executed. The cage that came with the service is used; without it, one is built into
    `cache`, a folder that nobody else may write to.
    """

    cache: Path
    run_as: tuple[int, int] | None
    limits: CageLimits = field(default_factory=CageLimits)
    minimum: str = "L2"
    compiled: bool = True  # False: the one in Python also where there is a compiler
    groups: cgroups.Groups = field(default_factory=cgroups.here)
    command: tuple[str, ...] = field(init=False)
    kind: Kind = field(init=False)

    def __post_init__(self) -> None:
        built = _build(self.cache) if self.compiled else None
        command = (str(built),) if built else (sys.executable, "-I", "-S", str(_compile_python(self.cache)))
        object.__setattr__(self, "command", command)
        object.__setattr__(self, "kind", "compiled" if built else "python")

    def start(self, stages: Sequence[Stage], bounds: Bounds) -> Launched:
        """Start a pipeline; OSError where it cannot be, or where `minimum` is out of reach here."""
        self._demand()
        with ExitStack() as ours, ExitStack() as theirs:
            control_read, control = _pipe(theirs, ours)
            status, status_write = _pipe(ours, theirs)
            stages = [_above_stdio(stage, theirs) for stage in stages]
            spec = os.memfd_create("cage")
            theirs.callback(os.close, spec)
            group = self.groups.take(self.limits.processes, self.limits.memory_total)
            ours.callback(group.release)
            theirs.callback(group.close)
            _write(spec, self._spec(stages, bounds, control_read, status_write, group))
            inherited = {spec, control_read, status_write, *group.descriptors, *_descriptors(stages)}
            pid = _spawn([*self.command, str(spec)], inherited)
            pidfd = _pidfd(pid)
            ours.pop_all()
        return _Running(pid, pidfd, control, status, len(stages), group)

    def _demand(self) -> None:
        """Refuse before anything is started what the cage would refuse anyway."""
        if self.minimum >= "L1" and os.geteuid() == 0 and not (self.run_as and self.run_as[0]):
            raise OSError(errno.EPERM, "as root, programs need a user of their own")
        if self.minimum >= "L2" and (abi := landlock_abi()) < LANDLOCK_FULL:
            raise OSError(errno.ENOSYS, f"the kernel offers Landlock {abi}, {LANDLOCK_FULL} is wanted")
        if self.minimum >= "L3":
            raise OSError(errno.ENOSYS, "namespaces are not applied")

    def _spec(self, stages: Sequence[Stage], bounds: Bounds, control: int, status: int, group: cgroups.Group) -> bytes:
        limits = self.limits
        scoped = bool(self.run_as and os.geteuid() == 0) or landlock_abi() >= LANDLOCK_SIGNALS
        spec: list[str | int | bytes] = [
            VERSION,
            self.minimum[1:],
            os.getpid(),
            control,
            status,
            *(self.run_as or (-1, -1)),
        ]
        processes = _headcount(self.run_as[0] if self.run_as else os.geteuid()) + limits.processes
        file_size = 0 if bounds.full else limits.file_size  # for want of Landlock
        spec += [limits.cpu_seconds, limits.memory, file_size, processes, limits.open_files]
        spec += [len(group.members)]
        for member in group.members:
            spec += [member.folder, member.join, member.layers]
        spec += [int(bounds.network)]
        head = b"".join(map(_field, spec)) + _rules(bounds)
        spec = [syscall_filter(bounds.network, None if scoped else os.getpid()), len(stages)]
        for stage in stages:
            spec += [stage.executable, stage.cwd, stage.stdin, stage.stdout, stage.stderr]
            spec += [len(stage.argv), *stage.argv, len(stage.environment)]
            spec += [f"{name}={value}" for name, value in stage.environment.items()]
        return head + b"".join(map(_field, spec))


def _headcount(uid: int) -> int:
    """Processes and threads of a user now, as the kernel counts them against its limit; looked up once a second."""
    return _count(uid, int(time.monotonic()))


@lru_cache(maxsize=8)
def _count(uid: int, second: int) -> int:
    total = 0
    for entry in os.scandir("/proc"):
        with suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                total += os.stat(f"/proc/{entry.name}/task").st_nlink - 2
    return total


class _Running:
    """A pipeline in the cage, seen from the service."""

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
        self._told = b""
        os.set_blocking(control, False)
        os.set_blocking(status, False)

    def applied(self) -> Applied | None:
        """The protection of the least protected program; None while not all are there."""
        self._read()
        told = [line for line in self._lines() if line[0] == "applied"]
        if len(told) < self._stages:
            return None
        return _least(told)

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
        os.waitpid(self._pid, 0)
        self._group.release()
        for descriptor in (self._control, self._status, self.pidfd):
            os.close(descriptor)
        lines = list(self._lines())
        ends, errors = ({int(line[1]): int(line[2]) for line in lines if line[0] == word} for word in ("end", "error"))
        used = next((list(map(int, line[1:])) for line in lines if line[0] == "usage"), [0, 0, 0, 0])
        return Report(
            tuple(_end(ends.get(index), errors.get(index, 0)) for index in range(self._stages)),
            Usage(used[0] / 1e6, used[1] * 1024, used[2], used[3]),
            _least(line for line in lines if line[0] == "applied"),
        )

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while data := os.read(self._status, STATUS_READ):
                self._told += data

    def _lines(self) -> Iterable[list[str]]:
        return (line.split(" ") for line in self._told.decode("ascii").split("\n")[:-1])


def _end(status: int | None, error: int) -> StageEnd:
    """Where nothing was told the cage itself was killed, and its programs with it."""
    if status is None:
        return StageEnd(127 if error else -signal.SIGKILL, error)
    return StageEnd(os.waitstatus_to_exitcode(status), error)


def _least(told: Iterable[list[str]]) -> Applied:
    applied = [Applied(level, tuple(layers.split(","))) for _, _, level, layers in told]
    return min(applied, key=lambda each: (each.level, len(each.layers)), default=Applied("L0", ()))


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe()
    reader.callback(os.close, reading)
    writer.callback(os.close, writing)
    return reading, writing


def _spawn(command: list[str], inherited: set[int]) -> int:
    """The pid of a new process that has these descriptors by the same numbers. Takes half the time of `subprocess`."""
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
    """A descriptor below 3 is taken by the cage's own streams, so it gets another number."""

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
    return _field(len(rules)) + b"".join(_field(word) for rule in rules for word in rule)


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def prebuild() -> Path:
    """Compile the cage beside its source, for an image in which there is no compiler. Raises OSError or SubprocessError."""
    path, compiler = prebuilt_path(), _compiler()
    if compiler is None:
        raise FileNotFoundError(errno.ENOENT, "a C compiler is wanted", COMPILER_PATH)
    _make(path, compiler)
    return path


def prebuilt_path() -> Path:
    """Where a cage that came with the service lies; one of another source or machine has another name."""
    return SOURCES / f"cage-{_digest(platform.machine())}"


def _build(folder: Path) -> Path | None:
    """The compiled cage: the one that came with the service, or one of our own; None where there is neither."""
    return _usable(prebuilt_path()) or _compile(folder)


def _compile(folder: Path) -> Path | None:
    """A cage in `folder`, made if it is not there yet."""
    compiler = _compiler()
    if compiler is None:
        return None
    path = folder / f"cage-{_digest(compiler, *FLAGS, platform.machine())}"
    with suppress(OSError, subprocess.SubprocessError):
        if not _trusted(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(path, compiler)
    return _usable(path)


def _usable(path: Path) -> Path | None:
    with suppress(OSError, subprocess.SubprocessError):
        if _runs(path):
            return path
    return None


def _compiler() -> str | None:
    found = (shutil.which(name, path=COMPILER_PATH) for name in COMPILERS)
    return next((path for path in found if path), None)


def _digest(*about: str) -> str:
    """Tells cages apart by their source and how they were made."""
    return hashlib.sha256(" ".join(about).encode() + (SOURCES / "cage.c").read_bytes()).hexdigest()[:16]


def _make(path: Path, compiler: str) -> None:
    made = path.with_name(f"{path.name}.{os.getpid()}")
    environment = {"PATH": COMPILER_PATH, "TMPDIR": str(path.parent)}
    try:
        subprocess.run(
            [compiler, *FLAGS, "-x", "c", str(SOURCES / "cage.c"), "-o", str(made)],
            env=environment,
            check=True,
            capture_output=True,
            timeout=BUILD_BOUND,
        )
        made.chmod(0o755)
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)


def _trusted(path: Path) -> bool:
    """Whether only this user can have made the file."""
    try:
        found = [path.lstat(), path.parent.stat()]
    except FileNotFoundError:
        return False
    return all(each.st_uid in (0, os.geteuid()) and not each.st_mode & 0o022 for each in found)


def _runs(path: Path) -> bool:
    if not _trusted(path):
        return False
    told = subprocess.run([path, "--version"], env={}, capture_output=True, timeout=BUILD_BOUND, check=False)
    return told.stdout.decode(errors="replace").strip() == VERSION


def _compile_python(folder: Path) -> Path:
    """The cage in Python as byte code, so that it is not compiled for every command; its source where that fails."""
    source = SOURCES / "cage.py"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    path = folder / f"cage-{digest}.{sys.implementation.cache_tag}.pyc"
    with suppress(OSError):
        if not _trusted(path):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            py_compile.compile(str(source), str(path), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        if _trusted(path):
            return path
    return source
