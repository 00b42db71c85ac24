"""Starts the programs of a command line in the cage: says what the kernel shall permit, and reads what it really did.

The cage itself (cage.c, or cage.py where there is no compiler) knows no paths and no system calls. What is permitted
stands here, once for both.
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
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

from backend.execution import cgroups
from backend.execution.stages import Applied, Bounds, Launched, Report, Stage, StageEnd, Usage

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

# Rights of Landlock.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
READ = READ_FILE | READ_DIR
RUN = READ | EXECUTE
USE_DEVICE = READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV
WORK = ((1 << 15) - 1) & ~(MAKE_CHAR | MAKE_BLOCK)

RUNNABLE = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
# Of /proc only what tells about the machine, and the program's own entry: another process's would show its environment.
# Of /etc only what libraries read at start; no folder that could hold keys.
READABLE = (
    "/dev/random",
    "/dev/urandom",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/uptime",
    "/proc/version",
    "/proc/sys/kernel/cap_last_cap",
    "/proc/sys/kernel/ngroups_max",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/pid_max",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/etc/ca-certificates.conf",
    "/etc/group",
    "/etc/inputrc",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/protocols",
    "/etc/services",
    "/etc/shells",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
)
READABLE_WITH_NETWORK = ("/etc/gai.conf", "/etc/host.conf", "/etc/hosts", "/etc/resolv.conf")

# System calls that no ordinary command needs, by their numbers on x86-64 and aarch64 (- : not there).
REFUSED = """
unshare:272:97 setns:308:268 mount:165:40 umount2:166:39 pivot_root:155:41 chroot:161:51 open_tree:428:428
move_mount:429:429 fsopen:430:430 fsconfig:431:431 fsmount:432:432 fspick:433:433 mount_setattr:442:442
open_tree_attr:467:467 ptrace:101:117 process_vm_readv:310:270 process_vm_writev:311:271 process_madvise:440:440
kcmp:312:272 pidfd_getfd:438:438 keyctl:250:219 add_key:248:217 request_key:249:218 bpf:321:280
perf_event_open:298:241 io_uring_setup:425:425 io_uring_enter:426:426 io_uring_register:427:427 userfaultfd:323:282
kexec_load:246:104 kexec_file_load:320:294 init_module:175:105 finit_module:313:273 delete_module:176:106
open_by_handle_at:304:265 name_to_handle_at:303:264 swapon:167:224 swapoff:168:225 reboot:169:142
settimeofday:164:170 clock_settime:227:112 adjtimex:159:171 clock_adjtime:305:266 quotactl:179:60
quotactl_fd:443:443 acct:163:89 syslog:103:116 fanotify_init:300:262 fanotify_mark:301:263 lookup_dcookie:212:18
vhangup:153:58 sethostname:170:161 setdomainname:171:162 move_pages:279:239 migrate_pages:256:238 iopl:172:-
ioperm:173:- modify_ldt:154:- uselib:134:- ustat:136:- sysfs:139:- _sysctl:156:- nfsservctl:180:42 create_module:174:-
get_kernel_syms:177:- query_module:178:-
"""
# These would leave something in the kernel when the command has gone: shared memory, semaphores, queues.
LASTING = "shmget:29:194 semget:64:190 msgget:68:186 mq_open:240:180 mq_unlink:241:181"
# Tools take this as a file system without attributes.
ATTRIBUTES = """
setxattr:188:5 lsetxattr:189:6 fsetxattr:190:7 setxattrat:463:463 removexattr:197:14 lremovexattr:198:15
fremovexattr:199:16 removexattrat:466:466
"""
# Arguments behind a pointer cannot be looked at; libraries fall back on the older call.
UNSEEN = "clone3:435:435 openat2:437:437"
EXAMINED = """
clone:56:220 fcntl:72:25 ioctl:16:29 personality:135:92 socket:41:198 socketpair:53:199 connect:42:203 mknod:133:-
mknodat:259:33 chmod:90:- fchmod:91:52 fchmodat:268:53 fchmodat2:452:452 open:2:- openat:257:56 creat:85:-
prlimit64:302:261 setpriority:141:140 ioprio_set:251:30 sched_setaffinity:203:122 sched_setattr:314:274
sched_setscheduler:144:119 sched_setparam:142:118 kill:62:129 tkill:200:130 tgkill:234:131 rt_sigqueueinfo:129:138
rt_tgsigqueueinfo:297:240 pidfd_open:434:434 pidfd_send_signal:424:424
"""
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
SUPERVISOR_PID = 0xC0DEDEAD  # the cage puts its own pid here, which is not known before it runs

NAMESPACES = 0x7E020000  # all CLONE_NEW* that clone takes
SET_ID = 0o6000
CREATES = 0o100 | 0o20000000  # O_CREAT, O_TMPFILE
ALL = 0xFFFFFFFF
CHUNK = 8  # calls of the filter that are passed over together; the kernel steps through it once for each call number


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
            process = subprocess.Popen(
                [*self.command, str(spec)],
                env={},
                pass_fds={spec, control_read, status_write, *group.descriptors, *_descriptors(stages)},
            )
            pidfd = _pidfd(process)
            ours.pop_all()
        return _Running(process, pidfd, control, status, len(stages), group)

    def _demand(self) -> None:
        """Refuse before anything is started what the cage would refuse anyway."""
        if self.minimum >= "L1" and os.geteuid() == 0 and not (self.run_as and self.run_as[0]):
            raise OSError(errno.EPERM, "as root, programs need a user of their own")
        if self.minimum >= "L2" and (abi := landlock_abi()) < LANDLOCK_FULL:
            raise OSError(errno.ENOSYS, f"the kernel offers Landlock {abi}, {LANDLOCK_FULL} is wanted")
        if self.minimum >= "L3":
            raise OSError(errno.ENOSYS, "namespaces are not applied")

    def _spec(self, stages: Sequence[Stage], bounds: Bounds, control: int, status: int, group: cgroups.Group) -> bytes:
        rules = _rules(bounds)
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
        spec += [limits.cpu_seconds, limits.memory, limits.file_size, processes, limits.open_files]
        spec += [len(group.members)]
        for member in group.members:
            spec += [member.folder, member.join, member.layers]
        spec += [int(bounds.network), len(rules)]
        head = b"".join(map(_field, spec)) + b"".join(_rule(*rule) for rule in rules)
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
        process: subprocess.Popen[bytes],
        pidfd: int,
        control: int,
        status: int,
        stages: int,
        group: cgroups.Group,
    ) -> None:
        self.pidfd = pidfd
        self._process, self._control, self._status, self._stages = process, control, status, stages
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

    def signal(self, number: int) -> None:
        with suppress(BrokenPipeError, BlockingIOError):
            os.write(self._control, bytes([number]))

    def finish(self) -> Report:
        self._read()
        self._process.wait()
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


def _pidfd(process: subprocess.Popen[bytes]) -> int:
    try:
        return os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.wait()
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
def _rule(path: str, rights: int, required: int) -> bytes:
    return _field(path) + _field(rights) + _field(required)


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _rules(bounds: Bounds) -> list[tuple[str, int, int]]:
    """Paths, the rights below them, and whether the programs may not start without them."""
    more = [(path, READ, 0) for path in READABLE_WITH_NETWORK] if bounds.network else []
    return [(bounds.root, WORK, 1), *((path, RUN, 0) for path in bounds.readable), *_standard_rules(), *more]


@cache
def _standard_rules() -> list[tuple[str, int, int]]:
    """Those that all commands have, without what is not here and links to what is listed: each costs 3 us a command."""
    runnable = [path for path in RUNNABLE if os.path.isdir(path) and not os.path.islink(path)]
    below = tuple(f"{path}/" for path in runnable)
    readable = [path for path in READABLE if os.path.exists(path) and not os.path.realpath(path).startswith(below)]
    return [
        *((path, RUN, 0) for path in runnable),
        *((path, USE_DEVICE, 0) for path in DEVICES),
        *((path, READ, 0) for path in readable),
    ]


@dataclass(frozen=True, slots=True)
class _Test:
    """A question about an argument: whether its bits under `mask` are `value`, or are not."""

    argument: int
    value: int = 0
    mask: int = ALL
    equal: bool = True


_ALWAYS: tuple[_Test, ...] = ()


@cache
def syscall_filter(network: bool, guarded: int | None = None) -> bytes:
    """The seccomp program for this machine. `guarded` is a process that gets no signals, where nothing else sees to it."""
    column, architecture = ARCHITECTURES[platform.machine()]
    numbers = _numbers("\n".join((REFUSED, LASTING, ATTRIBUTES, UNSEEN, EXAMINED)), column)
    refusals = _examined(network)
    if guarded is not None:
        refusals |= _guarding(guarded)
    for names, error in ((REFUSED + LASTING, errno.EPERM), (ATTRIBUTES, errno.EOPNOTSUPP), (UNSEEN, errno.ENOSYS)):
        refusals |= {name: [(_ALWAYS, error)] for name in _numbers(names, column)}
    program = [(0x20, 0, 0, 4), (0x15, 1, 0, architecture), (0x06, 0, 0, 0x80000000), (0x20, 0, 0, 0)]
    if platform.machine() == "x86_64":  # the x32 calls have numbers of their own
        program += [(0x35, 0, 1, 0x40000000), _refuse(errno.ENOSYS)]
    calls = sorted((numbers[name], cases) for name, cases in refusals.items() if name in numbers)
    for start in range(0, len(calls), CHUNK):
        chunk = calls[start : start + CHUNK]
        body = [instruction for number, cases in chunk for instruction in _entry(number, cases)]
        program += [(0x25, len(body) + 1, 0, chunk[-1][0]), *body, _ALLOW]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in [*program, _ALLOW])


def _entry(number: int, cases: "_Refusals") -> "list[_Instruction]":
    body = [instruction for tests, error in cases for instruction in _case(tests, error)]
    return [(0x15, 0, len(body) + (cases[-1][0] != _ALWAYS), number), *body, *([_ALLOW] if cases[-1][0] else [])]


_Instruction = tuple[int, int, int, int]
_Refusals = list[tuple[tuple[_Test, ...], int]]  # the call is refused with the error where all tests hold
_Cases = dict[str, _Refusals]
_ALLOW: _Instruction = (0x06, 0, 0, 0x7FFF0000)


def _numbers(names: str, column: int) -> dict[str, int]:
    found = (entry.split(":") for entry in names.split())
    return {entry[0]: int(entry[1 + column]) for entry in found if entry[1 + column] != "-"}


def _refuse(error: int) -> _Instruction:
    return (0x06, 0, 0, 0x00050000 | error)


def _case(tests: tuple[_Test, ...], error: int) -> list[_Instruction]:
    """Refuse where all tests hold; otherwise go on behind."""
    body = [_refuse(error)]
    for test in reversed(tests):
        over = len(body)
        jump = (0x15, 0, over, test.value) if test.equal else (0x15, over, 0, test.value)
        masked = [(0x54, 0, 0, test.mask)] if test.mask != ALL else []
        body = [(0x20, 0, 0, 16 + 8 * test.argument), *masked, jump, *body]
    return body


def _examined(network: bool) -> _Cases:
    """Calls whose arguments decide. Only the low half of an argument is looked at, as the kernel does for these."""

    def not_zero(argument: int, mask: int = ALL) -> _Test:
        return _Test(argument, 0, mask, equal=False)

    def one_of(argument: int, *values: int, mask: int = ALL) -> _Refusals:
        return [((_Test(argument, value, mask),), errno.EPERM) for value in values]

    def none_of(argument: int, *values: int) -> _Refusals:
        return [(tuple(_Test(argument, value, equal=False) for value in values), errno.EPERM)]

    def refuse(*tests: _Test) -> _Refusals:
        return [(tests, errno.EPERM)]

    devices = (stat.S_IFCHR, stat.S_IFBLK)
    cases: _Cases = {
        "openat": refuse(not_zero(2, CREATES), not_zero(3, SET_ID)),
        "open": refuse(not_zero(1, CREATES), not_zero(2, SET_ID)),
        "creat": refuse(not_zero(1, SET_ID)),
        "chmod": refuse(not_zero(1, SET_ID)),
        "fchmod": refuse(not_zero(1, SET_ID)),
        "fchmodat": refuse(not_zero(2, SET_ID)),
        "fchmodat2": refuse(not_zero(2, SET_ID)),
        "mknod": one_of(1, *devices, mask=0o170000),
        "mknodat": one_of(2, *devices, mask=0o170000),
        "clone": refuse(not_zero(0, NAMESPACES)),
        "ioctl": one_of(1, 0x5412, 0x541C, 0x5423),  # typing into a terminal, its console, its line discipline
        "personality": none_of(0, 0, ALL),
        "prlimit64": refuse(not_zero(0)),  # another process of the same user could be strangled
        **{name: refuse(not_zero(0)) for name in ("sched_setaffinity", "sched_setattr")},
        **{name: refuse(not_zero(0)) for name in ("sched_setscheduler", "sched_setparam")},
        **{name: refuse(not_zero(1)) for name in ("setpriority", "ioprio_set")},
    }
    unix, inet, inet6, netlink, datagram = 1, 2, 10, 16, _Test(1, 2, 0xF)
    if network:
        cases["socket"] = none_of(0, unix, inet, inet6, netlink) + refuse(_Test(0, netlink), not_zero(2))
    else:
        # Landlock leaves sockets in the file system alone: without connect and datagrams no service is reached by one.
        cases["socket"] = none_of(0, unix) + refuse(datagram)
        cases["socketpair"] = refuse(datagram)
        cases["connect"] = refuse()
    return cases


def _guarding(guarded: int) -> _Cases:
    """Keep signals from the service and the cage, for kernels whose Landlock does not, and programs of the same user.

    Less than Landlock does: other processes of the user, and threads of the service, can be reached still.
    """
    group = os.getpgid(guarded)
    targets = {ALL, guarded, SUPERVISOR_PID, -guarded & ALL, -group & ALL, -SUPERVISOR_PID & ALL}
    cases: _Refusals = [((_Test(0, target),), errno.EPERM) for target in sorted(targets)]
    owner = [((_Test(1, command),), errno.EPERM) for command in (8, 10, 15)]  # who gets SIGIO, and what instead of it
    return {
        **dict.fromkeys(("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"), cases),
        **{name: [(_ALWAYS, errno.ENOSYS)] for name in ("pidfd_open", "pidfd_send_signal")},
        "fcntl": [(tests, error) for tests, error in owner],
        "ioctl": [((_Test(1, number),), errno.EPERM) for number in (0x5412, 0x541C, 0x5423, 0x8901, 0x8902)],
    }


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
