"""What the kernel permits commands: access rights below paths (Landlock) and system calls (seccomp).

The cage contains neither list; it applies what is passed to it.
"""

import errno
import os
import platform
import stat
import struct
from functools import cache

from backend.core.dataclasses import dataclass
from backend.executors.local.process_spec import Bounds, Ports

# Access rights of Landlock.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE = 1 << 4, 1 << 5
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
READ = READ_FILE | READ_DIR
RUN = READ | EXECUTE
USE_DEVICE = READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV
WORK = ((1 << 15) - 1) & ~(MAKE_CHAR | MAKE_BLOCK)
CLEAR_OUT = RUN | REMOVE_DIR | REMOVE_FILE | TRUNCATE

RUNNABLE = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
# Of /proc only what describes the machine, and the program's own entry: that of another process shows its environment.
# Of /etc only what libraries read at startup; no folder that could contain keys.
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
    "/etc/debian_version",
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
SCRATCH = ("/tmp", "/dev/shm")  # of a room: for all commands of its project
READABLE_WITH_NETWORK = ("/etc/gai.conf", "/etc/host.conf", "/etc/hosts", "/etc/resolv.conf")

# System calls that no ordinary command needs, with their numbers on x86-64 and aarch64 (-: does not exist).
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
get_kernel_syms:177:- query_module:178:- io_setup:206:0 sync:162:81 syncfs:306:267 memfd_secret:447:447
io_destroy:207:1 io_submit:209:2 io_cancel:210:3 io_getevents:208:4 io_pgetevents:333:292 process_mrelease:448:448
mbind:237:235 set_mempolicy:238:237 set_mempolicy_home_node:450:450 lsm_set_self_attr:460:460
"""
# Shared memory, semaphores, queues: other users' ones can be found by number, and they outlive the command.
LASTING = """
shmget:29:194 shmat:30:196 shmctl:31:195 semget:64:190 semop:65:193 semctl:66:191 semtimedop:220:192 msgget:68:186
msgsnd:69:189 msgrcv:70:188 msgctl:71:187 mq_open:240:180 mq_unlink:241:181 mq_timedsend:242:182 mq_timedreceive:243:183
mq_notify:244:184 mq_getsetattr:245:185
"""
# To tools this looks like a file system without attributes. By path, the attributes of any file could be read or changed.
ATTRIBUTES = """
setxattr:188:5 lsetxattr:189:6 fsetxattr:190:7 setxattrat:463:463 removexattr:197:14 lremovexattr:198:15
fremovexattr:199:16 removexattrat:466:466 getxattr:191:8 lgetxattr:192:9 getxattrat:464:464 listxattr:194:11
llistxattr:195:12 listxattrat:465:465 file_setattr:469:469
"""
# A filter cannot read arguments behind a pointer; libraries fall back on the older call. Lists of mounts show those of the
# machine, and watches report the names of files in folders that Landlock does not let commands list.
UNSEEN = "clone3:435:435 openat2:437:437 statmount:457:457 listmount:458:458"
WATCHES = "inotify_init:253:- inotify_init1:294:26"  # permitted in a room, where no folder of others has a name
NEWEST_CALL = 469  # newer system calls are unknown here, and so are refused
EXAMINED = """
clone:56:220 fcntl:72:25 ioctl:16:29 personality:135:92 socket:41:198 socketpair:53:199 connect:42:203 mknod:133:-
sendto:44:206 sendmsg:46:211 sendmmsg:307:269
mknodat:259:33 chmod:90:- fchmod:91:52 fchmodat:268:53 fchmodat2:452:452 open:2:- openat:257:56 creat:85:-
prlimit64:302:261 setrlimit:160:164 setpriority:141:140 ioprio_set:251:30 sched_setaffinity:203:122 sched_setattr:314:274
sched_setscheduler:144:119 sched_setparam:142:118 kill:62:129 tkill:200:130 tgkill:234:131 rt_sigqueueinfo:129:138
rt_tgsigqueueinfo:297:240 pidfd_open:434:434 pidfd_send_signal:424:424 mmap:9:222
"""
AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64 = 0xC000003E, 0xC00000B7
ARCHITECTURES = {
    "x86_64": (0, AUDIT_ARCH_X86_64),
    "aarch64": (1, AUDIT_ARCH_AARCH64),
}  # column above, name in the filter
# Placeholders: the cage inserts the pids, which are not known before it runs.
SUPERVISOR_PID, SERVER_PID = 0xC0DEDEAD, 0xC0DEDEAE

# Instructions of the filter (classic BPF) and what it returns.
LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
MASK_WITH = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_IF_GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
CALL_NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

CLONE_NAMESPACES = 0x7E020000  # all CLONE_NEW* that clone accepts
SET_ID = stat.S_ISUID | stat.S_ISGID
FILE_TYPE = 0o170000  # S_IFMT
RLIMIT_CORE = 4
MAP_GROWSDOWN = 0x100
SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_TYPE_MASK = 1, 2, 5, 0xF
IPPROTO_TCP, IPPROTO_UDP = 6, 17
MSG_FASTOPEN = 0x20000000
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
O_CREAT, O_TMPFILE = 0o100, 0o20000000
TIOCSTI, TIOCLINUX, TIOCSETD = 0x5412, 0x541C, 0x5423  # type into a terminal, its console, its line discipline
FIOSETOWN, SIOCSPGRP = 0x8901, 0x8902  # as fcntl's F_SETOWN
F_SETOWN, F_SETSIG, F_SETOWN_EX = 8, 10, 15
PRIO_USER, IOPRIO_WHO_USER = 2, 3
ALL = 0xFFFFFFFF
CHUNK = 8  # calls of the filter that are skipped together; the kernel runs the filter once for each call number


def landlock_rules(bounds: Bounds, scratch: tuple[str, ...] | None = None) -> list[tuple[str, int, int]]:
    """Paths, the rights below them, and whether the programs must not start without them. In a room there is `scratch`."""
    in_room = scratch is not None
    more = [(path, READ, 0) for path in READABLE_WITH_NETWORK] if bounds.network or in_room else []
    work = CLEAR_OUT if bounds.full else WORK
    own = [(path, work, 1) for path in (bounds.root, bounds.home, *(scratch or ())) if path]
    standard = _standard_rules()
    if in_room:  # its /proc shows the room's own processes, so that each program may read its own entry
        standard = [("/proc", READ, 0), *(rule for rule in standard if not rule[0].startswith("/proc/"))]
    return [*own, *((path, RUN, 0) for path in bounds.readable), *standard, *more]


@cache
def _standard_rules() -> list[tuple[str, int, int]]:
    """Those that all commands have, without missing paths and links to listed ones: each costs 3 us per command."""
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
    """A condition on the lower or `upper` half of an argument: whether its bits under `mask` equal `value`, or do not."""

    argument: int
    value: int = 0
    mask: int = ALL
    equal: bool = True
    upper: bool = False


_ALWAYS: tuple[_Test, ...] = ()


@cache
def syscall_filter(network: bool | Ports, guarded: int | None = None, in_room: bool = False) -> bytes:
    """The seccomp program for this machine. `guarded` is a process to protect from signals, where Landlock does not."""
    column, architecture = ARCHITECTURES[platform.machine()]
    unseen = UNSEEN if in_room else f"{UNSEEN} {WATCHES}"
    numbers = _numbers("\n".join((REFUSED, LASTING, ATTRIBUTES, unseen, EXAMINED)), column)
    refusals = _examined(network)
    if guarded is not None:
        refusals |= _guarding(guarded)
    for names, error in ((REFUSED + LASTING, errno.EPERM), (ATTRIBUTES, errno.EOPNOTSUPP), (unseen, errno.ENOSYS)):
        refusals |= {name: [(_ALWAYS, error)] for name in _numbers(names, column)}
    program = [(LOAD_WORD, 0, 0, ARCHITECTURE), (JUMP_IF_EQUAL, 1, 0, architecture)]
    program += [(RETURN, 0, 0, SECCOMP_RET_KILL_PROCESS), (LOAD_WORD, 0, 0, CALL_NUMBER)]
    program += [(JUMP_IF_GREATER, 0, 1, NEWEST_CALL), _refuse(errno.ENOSYS)]  # the x32 calls of x86-64 too
    calls = sorted((numbers[name], cases) for name, cases in refusals.items() if name in numbers)
    for start in range(0, len(calls), CHUNK):
        chunk = calls[start : start + CHUNK]
        body = [instruction for number, cases in chunk for instruction in _entry(number, cases)]
        program += [(JUMP_IF_GREATER, len(body) + 1, 0, chunk[-1][0]), *body, _ALLOW]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in [*program, _ALLOW])


def _entry(number: int, cases: "_Refusals") -> "list[_Instruction]":
    body = [instruction for tests, error in cases for instruction in _case(tests, error)]
    may_pass = cases[-1][0] != _ALWAYS
    return [(JUMP_IF_EQUAL, 0, len(body) + may_pass, number), *body, *([_ALLOW] if may_pass else [])]


_Instruction = tuple[int, int, int, int]  # code, instructions to skip if true and if false, value
_Refusals = list[tuple[tuple[_Test, ...], int]]  # the call is refused with the error where all tests hold
_Cases = dict[str, _Refusals]
_ALLOW: _Instruction = (RETURN, 0, 0, SECCOMP_RET_ALLOW)


def _numbers(names: str, column: int) -> dict[str, int]:
    found = (entry.split(":") for entry in names.split())
    return {entry[0]: int(entry[1 + column]) for entry in found if entry[1 + column] != "-"}


def _refuse(error: int) -> _Instruction:
    return (RETURN, 0, 0, SECCOMP_RET_ERRNO | error)


def _case(tests: tuple[_Test, ...], error: int) -> list[_Instruction]:
    """Refuse where all tests hold; otherwise continue after it."""
    body = [_refuse(error)]
    for test in reversed(tests):
        over = len(body)
        jump = (JUMP_IF_EQUAL, 0, over, test.value) if test.equal else (JUMP_IF_EQUAL, over, 0, test.value)
        masked = [(MASK_WITH, 0, 0, test.mask)] if test.mask != ALL else []
        offset = ARGUMENTS + 8 * test.argument + 4 * test.upper
        body = [(LOAD_WORD, 0, 0, offset), *masked, jump, *body]
    return body


def _examined(network: bool | Ports) -> _Cases:
    """Calls whose arguments decide. Unless they are pointers, the kernel uses the lower half only, and so does the filter."""
    return {**_files(), **_processes(), **_sockets(network)}


def _files() -> _Cases:
    devices = (stat.S_IFCHR, stat.S_IFBLK)
    return {
        "openat": _refuse_if(_not_zero(2, O_CREAT | O_TMPFILE), _not_zero(3, SET_ID)),
        "open": _refuse_if(_not_zero(1, O_CREAT | O_TMPFILE), _not_zero(2, SET_ID)),
        **{name: _refuse_if(_not_zero(1, SET_ID)) for name in ("creat", "chmod", "fchmod")},
        **{name: _refuse_if(_not_zero(2, SET_ID)) for name in ("fchmodat", "fchmodat2")},
        "mknod": _one_of(1, *devices, mask=FILE_TYPE) + _refuse_if(_not_zero(1, SET_ID)),
        "mknodat": _one_of(2, *devices, mask=FILE_TYPE) + _refuse_if(_not_zero(2, SET_ID)),
        "ioctl": _one_of(1, TIOCSTI, TIOCLINUX, TIOCSETD),
    }


def _processes() -> _Cases:
    scheduling = ("sched_setaffinity", "sched_setattr", "sched_setscheduler", "sched_setparam")
    sets = [
        _Test(2, equal=False, upper=upper) for upper in (False, True)
    ]  # a pointer is not null if either half is not
    return {
        "clone": _refuse_if(_not_zero(0, CLONE_NAMESPACES)),
        "personality": _none_of(0, 0, ALL),
        # No limits of other processes of the same user. The limit of core dumps stays; tools continue after EINVAL.
        "prlimit64": _refuse_if(_not_zero(0)) + [((_Test(1, RLIMIT_CORE), each), errno.EINVAL) for each in sets],
        "setrlimit": [((_Test(0, RLIMIT_CORE),), errno.EINVAL)],
        **{name: _refuse_if(_not_zero(0)) for name in scheduling},
        # For a user, the number 0 means all processes of the caller's user.
        # A mapping that grows is a stack to the kernel, which the limit of memory does not count.
        "mmap": _refuse_if(_not_zero(3, MAP_GROWSDOWN)),
        "setpriority": _refuse_if(_not_zero(1)) + _one_of(0, PRIO_USER),
        "ioprio_set": _refuse_if(_not_zero(1)) + _one_of(0, IOPRIO_WHO_USER),
    }


def _sockets(network: bool | Ports) -> _Cases:
    if isinstance(network, Ports):
        return _some_sockets(network)
    if network:
        families = _none_of(0, AF_UNIX, AF_INET, AF_INET6, AF_NETLINK)
        return {"socket": families + _refuse_if(_Test(0, AF_NETLINK), _not_zero(2))}
    connectionless = _connectionless()
    return {"socket": _none_of(0, AF_UNIX) + connectionless, "socketpair": connectionless, "connect": _refuse_if()}


def _connectionless() -> _Refusals:
    """Landlock does not cover sockets in the file system. A socket of these types cannot send without connect, which is
    refused; others can (to the kernel, a raw UNIX socket is a datagram socket)."""
    return _none_of(1, SOCK_STREAM, SOCK_SEQPACKET, mask=SOCK_TYPE_MASK)


def _some_sockets(network: Ports) -> _Cases:
    """TCP, whose ports Landlock holds, and UDP where host names are asked for; no sockets in the file system.

    Landlock does not see the connections of other protocols (MPTCP, SCTP), nor one that begins by sending (fast open).
    """
    kinds = (SOCK_STREAM, SOCK_DGRAM) if network.names else (SOCK_STREAM,)
    other_kinds = [_Test(1, kind, SOCK_TYPE_MASK, equal=False) for kind in kinds]
    families = _none_of(0, AF_INET, AF_INET6, AF_NETLINK)
    netlink = _refuse_if(_Test(0, AF_NETLINK), _not_zero(2))
    sockets = [*families, *netlink, *_refuse_if(_Test(0, AF_NETLINK, equal=False), *other_kinds)]
    flags = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}
    return {
        "socket": sockets + _none_of(2, 0, IPPROTO_TCP, IPPROTO_UDP),
        "socketpair": _connectionless(),
        **{name: _refuse_if(_not_zero(argument, MSG_FASTOPEN)) for name, argument in flags.items()},
    }


def _not_zero(argument: int, mask: int = ALL) -> _Test:
    return _Test(argument, 0, mask, equal=False)


def _one_of(argument: int, *values: int, mask: int = ALL) -> _Refusals:
    return [((_Test(argument, value, mask),), errno.EPERM) for value in values]


def _none_of(argument: int, *values: int, mask: int = ALL) -> _Refusals:
    return _refuse_if(*(_Test(argument, value, mask, equal=False) for value in values))


def _refuse_if(*tests: _Test) -> _Refusals:
    return [(tests, errno.EPERM)]


def _guarding(guarded: int) -> _Cases:
    """Protect the service and the cage from signals of their own user, on kernels whose Landlock does not.

    Weaker than Landlock: other processes of the user, and threads of the service, can still be signalled.
    """
    targets = {ALL, guarded, SUPERVISOR_PID, -guarded & ALL, -SUPERVISOR_PID & ALL}
    if guarded != SUPERVISOR_PID:
        targets |= {SERVER_PID, -SERVER_PID & ALL, -os.getpgid(guarded) & ALL}
    cases: _Refusals = [((_Test(0, target),), errno.EPERM) for target in sorted(targets)]
    owner = _one_of(1, F_SETOWN, F_SETSIG, F_SETOWN_EX)  # who receives SIGIO, and which signal instead of it
    return {
        **dict.fromkeys(("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"), cases),
        **{name: [(_ALWAYS, errno.ENOSYS)] for name in ("pidfd_open", "pidfd_send_signal")},
        "fcntl": owner,
        "ioctl": _one_of(1, TIOCSTI, TIOCLINUX, TIOCSETD, FIOSETOWN, SIOCSPGRP),
    }
