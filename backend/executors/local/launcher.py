"""Starts the programs of a command line in the cage: passes on what is permitted, and reads what was actually applied.

The cage itself (cage/cage.c) contains no list of paths or system calls; what is permitted is in `confinement`.
"""

import ctypes
import errno
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field as default
from functools import cache, lru_cache
from pathlib import Path

from backend.core.dataclasses import dataclass
from backend.executors.local import cgroups
from backend.executors.local.cage_binary import MissingCage, find_cage
from backend.executors.local.cage_call import VERSION, Descriptors, field, fields, pipe, spec_file
from backend.executors.local.cage_server import CageServer, find_server, numbered
from backend.executors.local.confinement import SUPERVISOR_PID, landlock_rules, syscall_filter
from backend.executors.local.process_spec import (
    Applied,
    Bounds,
    Launched,
    Owner,
    Ports,
    Report,
    RoomEntrance,
    Stage,
    StageEnd,
    Usage,
)

LIBC = ctypes.CDLL(None, use_errno=True)

# Variables for tools that watch files, where watches are refused: outside of rooms.
POLLING = {
    "CHOKIDAR_USEPOLLING": "1",
    "WATCHPACK_POLLING": "1",
    "TSC_WATCHFILE": "DynamicPriorityPolling",
    "TSC_WATCHDIRECTORY": "RecursiveDirectoryUsingDynamicPriorityPolling",
}
PNPM_STORE = ".local/share/pnpm/store"  # in the home
BAD_SPEC = 125  # exit status of a cage that refused its spec
EXIT_CANNOT_RUN = 127
STATUS_READ = 65536  # bytes; all that a pipe holds
LANDLOCK_CREATE_RULESET = 444  # system call
LANDLOCK_CREATE_RULESET_VERSION = 1  # flag
LANDLOCK_ABI_NEWEST = 7  # whose features are used
LANDLOCK_ABI_FOR_L2 = 3  # the first that protects files outside from truncation
LANDLOCK_ABI_FOR_SIGNALS = 6  # the first that keeps signals inside
SCOPE_ABSTRACT_SOCKETS, SCOPE_SIGNALS = 1, 2
NOTHING_APPLIED = Applied("L0", ())


@dataclass(frozen=True, slots=True)
class CageLimits:
    """What each process may use. Beyond it, the kernel refuses or kills.

    `memory` is what a process may write to privately (RLIMIT_DATA): neither address space, of which node reserves tens of
    GiB, nor memory shared with other processes is limited. `processes` are those that a command may have in addition to the
    processes and threads that its user had when it started; it has no effect for root. Where a control group counts what all
    processes of one command use, `memory_total` is the limit of their memory and `processes` that of their number; the
    limits of a process and a user are twice as high then, so that the group is met first, which reports it.
    """

    cpu_seconds: int = 600
    memory: int = 2 << 30  # bytes
    file_size: int = 1 << 30  # bytes
    processes: int = 256
    open_files: int = 1024
    memory_total: int = 2 << 30  # bytes


@lru_cache(maxsize=64)
def cage_environment(home: str = "") -> Mapping[str, str]:
    """Variables without which tools read files that are closed to them, or store what is theirs elsewhere than in `home`."""
    environment = {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "npm_config_globalconfig": os.devnull,
        "npm_config_update_notifier": "false",
    }
    if home:
        environment |= {
            "HOME": home,
            "TMPDIR": home,
            "XDG_CACHE_HOME": f"{home}/.cache",
            "PIP_CACHE_DIR": f"{home}/.cache/pip",
            "npm_config_cache": f"{home}/.npm",
            "pnpm_config_store_dir": f"{home}/{PNPM_STORE}",
        }
    return environment


@cache
def landlock_abi() -> int:
    """The Landlock ABI that the kernel offers to this process; 0 without Landlock."""
    abi: int = LIBC.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_CREATE_RULESET_VERSION)
    return min(max(abi, 0), LANDLOCK_ABI_NEWEST)


@cache
def _check_proc() -> None:
    """OSError, which is not remembered, where /proc is not there."""
    if not os.path.exists("/proc/self/stat"):
        raise OSError(errno.ENOSYS, "/proc is not mounted or not readable")


@dataclass(frozen=True, slots=True)
class CageLauncher:
    """Starts pipelines in the cage.

    `run_as` (uid, gid) is the user of programs that have no other; required where the service is root. A program whose confinement falls
    short of `minimum` is not executed. `cache` is a folder that only this service may write to, for `find_cage`.
    """

    cache: Path
    run_as: tuple[int, int] | None
    limits: CageLimits = default(default_factory=CageLimits)
    minimum: str = "L2"
    groups: cgroups.Groups = default(default_factory=cgroups.detect_groups)
    cage: Path | MissingCage = default(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cage", find_cage(self.cache))

    def start(self, stages: Sequence[Stage], room: RoomEntrance | None = None, user: Owner | None = None) -> Launched:
        """Start a pipeline, in a room if there is one. OSError where that or `minimum` is not possible here."""
        user = user or self.run_as
        cage = self.usable_cage()
        if self.minimum >= "L1" and os.geteuid() == 0 and not (user and user[0]):
            raise OSError(errno.EPERM, "as root, programs need a user of their own")
        if self.minimum >= "L3" and room is None:
            raise OSError(errno.ENOSYS, "namespaces are not applied")
        group = self.groups.acquire(self.limits.processes, self.limits.memory_total)
        try:
            return self._ask(cage, stages, room, user, group)
        except BaseException:
            group.release()
            raise
        finally:
            group.close()

    def _ask(
        self, cage: Path, stages: Sequence[Stage], room: RoomEntrance | None, user: Owner | None, group: cgroups.Group
    ) -> "_Running":
        """Have the server of the cage start it."""
        with Descriptors() as ours, Descriptors() as theirs:
            control_read, control = pipe(theirs, ours)
            status, status_write = pipe(ours, theirs)
            ended, life = pipe(ours, theirs)
            given = numbered([*group.descriptors, *_descriptors(stages), *([room.descriptor] if room else [])])
            spec = spec_file(self._spec(stages, user, given, group, room), theirs)
            server = find_server(cage)
            server.start([status_write, life, control_read, spec, *given])
            ours.keep()
        return _Running(ended, control, status, len(stages), group, server)

    def usable_cage(self) -> Path:
        """The program to execute. OSError, before anything is started, where it would refuse anyway."""
        if isinstance(self.cage, MissingCage):
            raise OSError(errno.ENOEXEC, self.cage.problem)
        _check_proc()
        if self.minimum >= "L2" and (abi := landlock_abi()) < LANDLOCK_ABI_FOR_L2:
            raise OSError(errno.ENOSYS, f"the kernel offers Landlock {abi}, {LANDLOCK_ABI_FOR_L2} is required")
        return self.cage

    def _spec(
        self,
        stages: Sequence[Stage],
        user: Owner | None,
        given: Mapping[int, int],
        group: cgroups.Group,
        room: RoomEntrance | None = None,
    ) -> bytes:
        """What the cage reads. `given` are the numbers under which it has our descriptors."""
        limits, confinements = self.limits, list(dict.fromkeys(stage.bounds for stage in stages))
        entrance = (given[room.descriptor], room.namespaces) if room else (-1, 0)
        spec: list[str | int] = [VERSION, self.minimum[1:], *entrance, *(user or (-1, -1))]
        # In a user namespace of its own the kernel counts only what runs there.
        others = 0 if room and room.own_user else _process_count(user[0] if user else os.geteuid())
        processes = others + limits.processes
        file_size = 0 if any(bounds.full for bounds in confinements) else limits.file_size  # holds without Landlock too
        spec += [limits.cpu_seconds, limits.memory, file_size, processes, limits.open_files]
        spec += [len(group.members)]
        for member in group.members:
            spec += [given[member.folder], member.join, member.layers, int(member.memory), int(member.processes)]
        spec += [len(confinements)]
        head = fields(spec)
        guarded = self._guarded(room)
        for bounds in confinements:
            head += _confinement(bounds, room, guarded)
        spec = [len(stages)]
        for stage in stages:
            spec += [confinements.index(stage.bounds), stage.executable, stage.cwd]
            spec += [given[each] for each in (stage.stdin, stage.stdout, stage.stderr)]
            spec += [stage.kept, *([given[stage.kept]] if stage.kept >= 0 else [])]
            spec += [len(stage.argv), *stage.argv, len(stage.environment)]
            spec += map("=".join, stage.environment.items())
        return head + fields(spec)

    def _guarded(self, room: RoomEntrance | None) -> int | None:
        """What the filter protects from signals where nothing else does: the service; in a room, the supervisor alone."""
        other_user = self.run_as and os.geteuid() == 0
        if other_user or (room is None and landlock_abi() >= LANDLOCK_ABI_FOR_SIGNALS):
            return None
        return SUPERVISOR_PID if room else os.getpid()


def network(bounds: Bounds, room: RoomEntrance | None) -> bool | Ports:
    """What a program may connect to: anything where the network is the room's own, since it ends there."""
    return bounds.network or bool(room and room.own_network)


def _process_count(uid: int) -> int:
    """Processes and threads of a user now, as the kernel counts them against its limit; read once a second."""
    return _count_processes(int(time.monotonic()))[uid]


@lru_cache(maxsize=1)
def _count_processes(second: int) -> Counter[int]:
    """Of every user."""
    total: Counter[int] = Counter()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            about = os.stat(f"/proc/{name}/task")
        except OSError:  # it has ended
            continue
        total[about.st_uid] += about.st_nlink - 2
    return total


class _Running:
    """A pipeline in the cage, as the service sees it."""

    def __init__(
        self,
        ended: int,
        control: int,
        status: int,
        stages: int,
        group: cgroups.Group,
        server: CageServer,
    ) -> None:
        self.ended = ended
        self._control, self._status, self._stages = control, status, stages
        self._group, self._server = group, server
        self._reported = b""
        os.set_blocking(control, False)
        os.set_blocking(status, False)

    def applied(self) -> Applied | None:
        """The protection of the least protected program; None until all have reported."""
        reported = self._reports()["applied"]
        return _least(reported) if len(reported) >= self._stages else None

    @property
    def _pid(self) -> int:
        """Of the supervisor; 0 where it has not reported itself."""
        return _number(self._reports()["pid"])

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def give_up(self) -> None:
        if not self._pid:
            self._server.close()

    def signal(self, number: int) -> bool:
        with suppress(BrokenPipeError, BlockingIOError):
            return os.write(self._control, bytes([number])) == 1
        return False

    def finish(self) -> Report:
        reported = self._reports()
        pid = _number(reported["pid"])
        status = os.waitpid(pid, 0)[1] if pid else 0
        limits_met = self._group.newly_met()
        self._group.release()
        for descriptor in (self._control, self._status, self.ended):
            os.close(descriptor)
        ends, errors = _statuses(reported["end"]), _statuses(reported["error"])
        refused = errno.EINVAL if os.waitstatus_to_exitcode(status) == BAD_SPEC else 0
        if not pid:  # nothing was started: where no reason is reported, the server ended before it
            refused = _number(reported["failed"]) or errno.EAGAIN
        used = list(map(int, reported["usage"][0])) if reported["usage"] else [0, 0, 0, 0]
        return Report(
            tuple(_end(ends.get(index), errors.get(index, refused)) for index in range(self._stages)),
            Usage(used[0] / 1e6, used[1] * 1024, used[2], used[3]),
            _least(reported["applied"]),
            limits_met,
        )

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while data := os.read(self._status, STATUS_READ):
                self._reported += data

    def _reports(self) -> Mapping[str, list[list[str]]]:
        """The words that the cage has reported by now, by the kind of the report."""
        self._read()
        found: defaultdict[str, list[list[str]]] = defaultdict(list)
        for line in self._reported.decode("ascii").split("\n")[:-1]:
            kind, *words = line.split(" ")
            found[kind].append(words)
        return found


def _number(reports: Sequence[list[str]]) -> int:
    """What was reported of the whole command; 0 where nothing was."""
    return int(reports[0][0]) if reports else 0


def _statuses(reports: Iterable[list[str]]) -> dict[int, int]:
    """What was reported of each program."""
    return {int(number): int(status) for number, status in reports}


def _end(status: int | None, error: int) -> StageEnd:
    """Without a status and an error, the cage itself was killed and its programs with it."""
    if status is None:
        return StageEnd(EXIT_CANNOT_RUN if error else -signal.SIGKILL, error)
    return StageEnd(os.waitstatus_to_exitcode(status), error)


def _least(reported: Iterable[list[str]]) -> Applied:
    applied = [Applied(level, tuple(layers.split(","))) for _, level, layers in reported]
    return min(applied, key=lambda each: (each.level, len(each.layers)), default=NOTHING_APPLIED)


def _descriptors(stages: Iterable[Stage]) -> list[int]:
    streams = [descriptor for stage in stages for descriptor in (stage.stdin, stage.stdout, stage.stderr)]
    return streams + [stage.kept for stage in stages if stage.kept >= 0]


@lru_cache(maxsize=256)
def _confinement(bounds: Bounds, room: RoomEntrance | None, guarded: int | None) -> bytes:
    """What the cage reads of the confinement of a program."""
    rules, net = landlock_rules(bounds, room.scratch if room else None), network(bounds, room)
    ports = net.tcp if isinstance(net, Ports) else ()
    ruled = (len(rules), *(word for rule in rules for word in rule))
    filtered = syscall_filter(net, guarded, room is not None)
    return fields([int(net is True), _scoped(room), len(ports), *ports, *ruled]) + field(filtered)


def _scoped(room: RoomEntrance | None) -> int:
    """What Landlock is to keep inside: in a room, the namespaces do so, and the programs of a project reach each other."""
    if room is None:
        return SCOPE_SIGNALS | SCOPE_ABSTRACT_SOCKETS
    return 0 if room.own_network else SCOPE_ABSTRACT_SOCKETS
