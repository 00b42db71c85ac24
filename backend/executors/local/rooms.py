"""Rooms: the namespaces of a project, in which its commands run, with Landlock, the filter and the limits on top.

In a room exist the machine's programs and `/etc` (read-only), the workspace under its own path, what its programs may
read in addition, a few devices, `/tmp`, which is a folder of the workspace, and `/dev/shm` in memory. `/proc` shows the
processes of the room alone, and its network is a loopback, unless the project may use the machine's; where it may reach
listed hosts, an egress proxy serves a socket there. Its first process is the cage (cage/cage.c), which
ends with everything in the room when its life line is closed: by `close`, or because the service has died.

Making a room takes some milliseconds, entering one hardly any, so rooms are kept while they are in use and a while longer.
"""

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import field
from functools import partial
from pathlib import Path

from backend.core.dataclasses import dataclass, replace
from backend.core.policy.egress import Egress
from backend.core.policy.files import TEMPORARY
from backend.executors.local.cage_call import VERSION, Descriptors, above_stdio, fields, pipe, spawn, spec_file
from backend.executors.local.confinement import DEVICES, READABLE, READABLE_WITH_NETWORK, RUNNABLE, SCRATCH
from backend.executors.local.egress import Caller, EgressProxies, EgressProxy
from backend.executors.local.ending import Ending
from backend.executors.local.process_spec import (
    NEW_IPC,
    NEW_MOUNTS,
    NEW_NETWORK,
    NEW_PID,
    NEW_USER,
    NEW_UTS,
    Bounds,
    RoomEntrance,
)

READ_ONLY, WRITABLE, DEVICE, IN_MEMORY, LINK, TEXT = range(6)  # kinds of what a room shows
TMP = "/tmp"
USERS = "/etc/passwd"
USERS_SIZE = 64 * 1024  # characters of that file, where the room has its own
USER = "gatepost:x:{0}:{0}::{1}:/bin/bash\n"  # what programs find when they ask for the name of their user
MEMORY = "/proc/meminfo"
ALL_OF_IT = {"MemTotal", "MemFree", "MemAvailable"}  # there: a command begins with all the memory that it may have
OF_PAGES = {"Hugepagesize", "VmallocTotal"}  # no amounts that are used
SCRATCH_SIZE = "16m"  # of each folder in memory: for sockets and locks; what is large belongs to the workspace
LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}
MAKE_BOUND = 5.0  # seconds
KEPT_FOR = 300.0  # seconds after its last command
MOST_UNUSED = 32  # rooms kept for a next command
OWN = NEW_MOUNTS | NEW_PID | NEW_IPC | NEW_UTS

_Shown = tuple[int, str, str]  # kind, path, and the size of memory, the target of a link, or the text of a file


@dataclass(frozen=True, slots=True)
class RoomPlan:
    """What a room is made of. A workspace that was removed and made again is another one."""

    root: str
    identity: tuple[tuple[int, int], ...]  # device and inode of the workspace and of the kept folders
    network: bool  # whether the machine's network is there
    readable: tuple[str, ...] = ()
    homes: tuple[str, ...] = ()  # of one command alone
    kept: tuple[str, ...] = ()  # with homes that stay
    egress: Egress | None = None  # the hosts that a proxy leads to
    uid: int = -1  # of the user whose commands run there

    @property
    def temporary(self) -> bool:
        """Whether /tmp is the folder of the workspace that lines mean by it. Otherwise it is in memory, since something
        is shown below it."""
        return not any(_is_below(path, [TMP]) for path in (self.root, *self.readable, *self.homes, *self.kept))

    @property
    def in_memory(self) -> tuple[str, ...]:
        """The folders that are in memory."""
        return tuple(folder for folder in SCRATCH if not (self.temporary and folder == TMP))


def plan_room(bounds: Iterable[Bounds], egress: Egress | None = None) -> RoomPlan:
    """The room for the programs of one pipeline, which share a workspace. Raises OSError where there is none.

    Where one of them has a part of the machine's network, there is no proxy, and the others have no network.
    """
    every = list(bounds)
    root = every[0].root
    kept = tuple(sorted({each.kept for each in every if each.kept}))
    abouts = [os.stat(folder) for folder in (root, *kept)]
    network = any(each.network for each in every)
    return RoomPlan(
        root,
        tuple((about.st_dev, about.st_ino) for about in abouts),
        network,
        tuple(sorted({path for each in every for path in each.readable})),
        tuple(sorted({each.home for each in every if each.home and not each.kept})),
        kept,
        None if network else egress,
        abouts[0].st_uid,
    )


class Room:
    """A room that was made, until it is closed."""

    def __init__(
        self, first: int, lifeline: int, namespaces: int, plan: RoomPlan, exit: socket.socket | None = None
    ) -> None:
        self._first, self._lifeline = first, lifeline
        self.exit = exit  # listens on its loopback, where the plan names hosts
        self.proxy: EgressProxy | None = None  # serves that
        self.entrance = RoomEntrance(os.pidfd_open(first), namespaces, _scratch(plan), plan.temporary)

    @property
    def ended(self) -> bool:
        """Whether nothing is left of it."""
        return _is_readable(self.entrance.descriptor, 0)

    def processes(self) -> list[int]:
        """The processes that run in it in addition to its first; their numbers outside of it."""
        room = os.stat(f"/proc/{self._first}/ns/pid").st_ino
        every = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [pid for pid in every if pid != self._first and _pid_namespace(pid) == room]

    def close(self) -> None:
        """End everything that runs in it. Waits for that."""
        if self.exit:
            self.exit.close()
        os.close(self._lifeline)
        os.waitpid(self._first, 0)
        os.close(self.entrance.descriptor)


def _pid_namespace(pid: int) -> int:
    """Its number; 0 of a process that is gone."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return 0


def make_room(cage: Path, plan: RoomPlan, memory: int = 0) -> Room:
    """Make a room, whose commands see so much memory (bytes; 0: that of the machine). Waits for it; OSError where the
    machine does not permit it."""
    root = os.geteuid() == 0
    namespaces = OWN | (0 if plan.network else NEW_NETWORK)
    with ExitStack() as sockets, Descriptors() as ours, Descriptors() as theirs:
        lifeline_read, lifeline = pipe(theirs, ours)
        status, status_write = pipe(ours, theirs)
        lifeline_read = above_stdio(lifeline_read, theirs)
        user = (-1, -1) if root else (os.geteuid(), os.getegid())
        receiving, sending = _exit_ends(plan, sockets, theirs)
        words: list[str | int] = [VERSION, lifeline_read, status_write, sending, namespaces, *user]
        words += [*_listed(_proc_entries()), *_shown(plan, memory)]
        spec = spec_file(fields(words), theirs)
        maker = spawn(cage, ["--room", str(spec)], {spec, lifeline_read, status_write, sending} - {-1})
        theirs.close()
        reported = _reported(status)
        os.waitpid(maker, 0)
        first = int(reported["first"]) if "first" in reported else None
        if first and "ready" in reported:
            exit = _received(receiving) if receiving else None
            room = Room(first, lifeline, namespaces | (0 if root else NEW_USER), plan, exit)
            ours.keep()
            os.close(status)
            return room
    if first:
        os.waitpid(first, 0)
    number, _, what = reported.get("failed", "").partition(" ")
    raise OSError(int(number or 0), f"no namespaces: {what or 'not made in time'}: {os.strerror(int(number or 0))}")


def _exit_ends(plan: RoomPlan, ours: ExitStack, theirs: Descriptors) -> tuple[socket.socket | None, int]:
    """The ends of what the room's way out is sent through; none where it has no such way."""
    if plan.egress is None:
        return None, -1
    receiving, sending = socket.socketpair()
    ours.callback(receiving.close)
    return receiving, above_stdio(theirs.add(sending.detach()), theirs)


def _received(receiving: socket.socket) -> socket.socket:
    """The socket that the room listens at. It has been sent when the room is ready."""
    with receiving:
        receiving.setblocking(False)
        _, [descriptor], *_ = socket.recv_fds(receiving, 1, 1)
    return socket.socket(fileno=descriptor)


def _reported(status: int) -> dict[str, str]:
    """The lines that the maker and the first process wrote, by their first word."""
    text = b""
    while _is_readable(status, MAKE_BOUND) and (data := os.read(status, 4096)):
        text += data
    words = (line.partition(" ") for line in text.decode(errors="replace").splitlines())
    return {kind: rest for kind, _, rest in words}


def _is_readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _listed(words: list[str]) -> list[str | int]:
    return [len(words), *words]


def _proc_entries() -> list[str]:
    """The entries of /proc that commands may read in addition to those of processes."""
    return sorted({path.split("/")[2] for path in READABLE if path.startswith("/proc/")} - {"self"})


def _shown(plan: RoomPlan, memory: int) -> list[str | int]:
    """What the room shows: how many, then kind, path and more of each. Folders come before what is inside of them."""
    folders = _system() | dict.fromkeys(plan.in_memory, (IN_MEMORY, SCRATCH_SIZE))
    own = (plan.root, *plan.homes, *plan.kept)
    folders |= dict.fromkeys(_outermost(plan.readable, (*_programs(), *own)), (READ_ONLY, ""))
    # Nothing is put into what commands can write to.
    folders = {path: how for path, how in folders.items() if not _is_below(path, own)}
    folders |= dict.fromkeys(own, (WRITABLE, ""))
    entries = [(kind, path, more) for path, (kind, more) in sorted(folders.items())]
    entries += [*_links(plan), *_users(plan), *_memory(memory)]
    return [len(entries), *(word for entry in entries for word in entry)]


def _scratch(plan: RoomPlan) -> tuple[str, ...]:
    """The folders in memory that every program may use, with all that is shown below them. So none of them is one below
    which something is shown that belongs to one program alone."""
    apart = (*plan.readable, *plan.homes, *plan.kept)
    return tuple(folder for folder in plan.in_memory if not any(_is_below(path, [folder]) for path in apart))


def _system() -> dict[str, tuple[int, str]]:
    """What every room shows of the machine."""
    devices = [*DEVICES, *(path for path in READABLE if path.startswith("/dev/"))]
    folders = ["/etc", "/sys/devices/system/cpu", *_programs()]
    # Links in /etc that lead elsewhere: the resolver's configuration may be below /run.
    files = {os.path.realpath(path) for path in (*READABLE, *READABLE_WITH_NETWORK) if path.startswith("/etc/")}
    elsewhere = [path for path in files if os.path.exists(path) and not _is_below(path, folders)]
    return {
        **dict.fromkeys((path for path in devices if os.path.exists(path)), (DEVICE, "")),
        **dict.fromkeys((path for path in (*folders, *elsewhere) if os.path.exists(path)), (READ_ONLY, "")),
    }


def _programs() -> list[str]:
    return [path for path in RUNNABLE if os.path.isdir(path) and not os.path.islink(path)]


def _links(plan: RoomPlan) -> list[_Shown]:
    linked = {path: os.readlink(path) for path in RUNNABLE if os.path.islink(path)}
    own = {TMP: os.path.join(plan.root, TEMPORARY)} if plan.temporary else {}
    return [(LINK, path, target) for path, target in {**linked, **LINKS, **own}.items()]


def _users(plan: RoomPlan) -> list[_Shown]:
    """The users of the machine and that of the workspace, without which some programs fail."""
    file = Path(USERS)
    if plan.uid <= 0 or not file.is_file() or file.is_symlink() or file.stat().st_size > USERS_SIZE:
        return []
    known = file.read_text(errors="replace")
    if any(line.split(":")[2:3] == [str(plan.uid)] for line in known.splitlines()):
        return []
    return [(TEXT, USERS, USER.format(plan.uid, (*plan.kept, *plan.homes, plan.root)[0]) + known)]


def _memory(limit: int) -> list[_Shown]:
    """The memory that a command may have in the place of the machine's, of which tools take a part for each of their
    workers."""
    with open(MEMORY) as file:
        amounts = dict(line.split(":", 1) for line in file)
    if not 0 < limit < int(amounts["MemTotal"].split()[0]) * 1024:
        return []
    known = {name: amount for name, amount in amounts.items() if name in OF_PAGES}
    lines = (f"{name}:{known.get(name) or _kib(limit if name in ALL_OF_IT else 0)}" for name in amounts)
    return [(TEXT, MEMORY, "".join(lines))]


def _kib(size: int) -> str:
    return f"{size // 1024:>15} kB\n"


def _outermost(paths: Iterable[str], shown: Iterable[str]) -> list[str]:
    """The paths, and what they lead to by links, that are in none of the others and not shown anyway."""
    found = {each for path in paths for each in (path, os.path.realpath(path)) if os.path.exists(each)}
    return [path for path in found if not any(_inside(path, folder) for folder in (*found, *shown) if folder != path)]


def _inside(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def _is_below(path: str, folders: Iterable[str]) -> bool:
    """Whether it is one of the folders or inside of one, also by a link."""
    return any(_inside(each, folder) for each in (path, os.path.realpath(path)) for folder in folders)


@dataclass(slots=True, eq=False)
class _Kept:
    """A room that is made or in use, or was in use a short time ago."""

    making: asyncio.Future[Room]
    users: int = 0
    left: float = 0.0  # when the last one left it, by the clock of the loop
    timer: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        """Whether a command may still enter it."""
        return not self.making.done() or (self.making.exception() is None and not self.making.result().ended)


@dataclass(slots=True, eq=False)
class Rooms:
    """The rooms of one server: one for each plan, made when it is first entered, kept for a while after it was left.

    `make` waits, and so is called in a thread. None where rooms cannot be had: commands then run without. Without `proxies`
    no room leads to listed hosts.
    """

    make: Callable[[RoomPlan], Room] | None = None
    proxies: EgressProxies | None = None
    _kept: dict[RoomPlan, _Kept] = field(default_factory=dict)
    _closing: set[asyncio.Future[None]] = field(default_factory=set)

    async def enter(
        self,
        bounds: Iterable[Bounds],
        leaving: Ending,
        egress: Egress | None = None,
        caller: Caller | None = None,
    ) -> RoomEntrance | None:
        """The way into the room of these programs, until `leaving` is closed. Raises OSError."""
        if self.make is None:
            return None
        plan = plan_room(bounds, egress if self.proxies else None)
        kept = self._find(plan, self.make)
        kept.users += 1
        leaving.add(partial(self._leave, plan, kept))
        room = await asyncio.shield(kept.making)
        if room.proxy and caller:
            address = await leaving.enter(room.proxy.used_by(caller))
            return replace(room.entrance, proxy=address)
        return room.entrance

    async def close(self) -> None:
        """End all of them."""
        for plan, kept in list(self._kept.items()):
            with suppress(OSError):
                await kept.making
            self._forget(plan, kept)
        await asyncio.gather(*self._closing)

    def _find(self, plan: RoomPlan, make: Callable[[RoomPlan], Room]) -> _Kept:
        kept = self._kept.get(plan)
        if kept is not None and kept.usable:
            return kept
        if kept is not None and not kept.users:
            self._forget(plan, kept)  # it has ended by itself
        self._kept[plan] = made = _Kept(asyncio.ensure_future(_made(make, plan, self.proxies)))
        return made

    def _leave(self, plan: RoomPlan, kept: _Kept) -> None:
        kept.users -= 1
        if kept.users:
            return
        # The home of an outside program is there for one command alone, and so is a room that shows it.
        if plan.homes or self._kept.get(plan) is not kept or not kept.usable:
            self._forget(plan, kept)
            return
        kept.left = asyncio.get_running_loop().time()
        if kept.timer is None:
            self._look_again(plan, kept)
        unused = [each for each in self._kept.items() if not each[1].users]
        for each in unused[:-MOST_UNUSED]:
            self._forget(*each)

    def _look_again(self, plan: RoomPlan, kept: _Kept) -> None:
        """Forget it when it was not used for long enough. The timer of one that is used goes on."""
        kept.timer = asyncio.get_running_loop().call_at(kept.left + KEPT_FOR, self._expire, plan, kept)

    def _expire(self, plan: RoomPlan, kept: _Kept) -> None:
        kept.timer = None
        if kept.users:
            return
        if asyncio.get_running_loop().time() < kept.left + KEPT_FOR:
            self._look_again(plan, kept)
        else:
            self._forget(plan, kept)

    def _forget(self, plan: RoomPlan, kept: _Kept) -> None:
        """Close it, which waits for the end of its processes."""
        if self._kept.get(plan) is kept:
            del self._kept[plan]
        if kept.timer:
            kept.timer.cancel()
        closing = asyncio.ensure_future(_close(kept.making))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


async def _made(make: Callable[[RoomPlan], Room], plan: RoomPlan, proxies: EgressProxies | None) -> Room:
    try:
        room = await asyncio.to_thread(make, plan)
    except RuntimeError as error:  # no thread can be started, since the user has too many processes
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
    if room.exit and plan.egress and proxies:
        room.proxy = proxies.proxy(plan.egress)
        await room.proxy.serve(room.exit)
    return room


async def _close(making: asyncio.Future[Room]) -> None:
    with suppress(OSError):
        room = await making
        if room.proxy:
            await room.proxy.close()
        try:
            await asyncio.to_thread(room.close)
        except RuntimeError:  # no thread can be started
            room.close()
