"""Bounds memory and the number of processes of a whole command by control groups (cgroups), where they can be had.

They are a help, never a condition: what cannot be had or fails is left out, and the layers told show it. Every command
gets a group of its own, `gatepost-<pid of the service>/<number>` below the group that the service was started in, so
that bounds put on the service go on holding.

Version 1: a folder for each controller, writable for root. Version 2: one folder, which also another user may have been
given; a group that passes controllers on must not hold processes itself, so the service moves one group down.
"""

import atexit
import fcntl
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path

CONTROLLERS = ("memory", "pids")
PREFIX = "gatepost-"
SERVICE = "service"  # the group of the service itself, under version 2
SYSTEMD = Path("/run/systemd/system")
DELEGATED = ("user.delegate", "trusted.delegate")  # marks of systemd on groups that it leaves to others
# Joining by `tasks` takes 0.05 ms; by `cgroup.procs` it may wait 15 ms for all processors, so that under version 2 the
# cage has its programs born in the group.
JOIN = {1: "tasks", 2: "cgroup.procs"}
# The first of each controller is what bounds; without the others the bound holds still. With swap, memory would be more.
FILES = {
    (1, "memory"): ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    (2, "memory"): ("memory.max", "memory.swap.max", "memory.oom.group"),
    (1, "pids"): ("pids.max",),
    (2, "pids"): ("pids.max",),
}
TRIED = {"memory": 1 << 30, "pids": 100}
FIXED = {"memory.swap.max": 0, "memory.oom.group": 1}
CURRENT = {
    (1, "memory"): "memory.usage_in_bytes",
    (2, "memory"): "memory.current",
    (1, "pids"): "pids.current",
    (2, "pids"): "pids.current",
}
# Making a group and removing it takes 0.2 ms or more, so a few are used again. Files that commands left in memory stay
# charged: above this part of the bound the next command would miss it.
IDLE = 8
CLEAN = {"memory": 1 / 8, "pids": 0}
PATIENCE = (0.0, 0.001, 0.004)  # seconds to wait for killed processes before a group is left for later


@dataclass(frozen=True, slots=True)
class Member:
    """What the cage needs in order to join: a folder, the file in it to write to, the layers that it brings."""

    folder: int  # descriptor
    join: str
    layers: str  # with commas


@dataclass(frozen=True, slots=True)
class Part:
    """A folder of one command, and the bounds in it that took effect."""

    path: Path
    version: int
    bounds: Mapping[str, int]

    def open(self) -> Member:
        """OSError where the folder has gone."""
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return Member(folder, JOIN[self.version], ",".join(f"cgroup:{each}" for each in self.bounds))

    def is_clean(self) -> bool:
        """Whether another command may have it: nothing runs in it, and next to nothing stays charged to it."""
        used = {each: _words(self.path / CURRENT[self.version, each]) for each in self.bounds}
        charged = all(words and int(words[0]) <= self.bounds[each] * CLEAN[each] for each, words in used.items())
        return charged and not _words(self.path / "cgroup.procs")


@dataclass(frozen=True, slots=True)
class Branch:
    """A folder that belongs to this service, in which groups can be made."""

    folder: Path
    version: int
    controllers: tuple[str, ...]

    def make(self, name: str, bounds: Mapping[str, int]) -> Part | None:
        """A group with the bounds by controller; None where it cannot be made, or nothing is bounded by it."""
        path = self.folder / name
        try:
            path.mkdir()
        except OSError:
            return None
        held = {each: bounds[each] for each in self.controllers if self._bound(path, each, bounds[each])}
        if not held:
            _remove(path)
            return None
        return Part(path, self.version, held)

    def _bound(self, path: Path, controller: str, bound: int) -> bool:
        bounding, *helping = FILES[self.version, controller]
        held = _took(path / bounding, bound)
        for name in helping:
            _took(path / name, FIXED.get(name, bound))
        return held


@dataclass(slots=True, eq=False)
class Group:
    """The group of one command: a folder for each branch, open until the cage has them."""

    home: "Groups"
    bounds: Mapping[str, int]
    parts: tuple[Part, ...]
    members: tuple[Member, ...] = ()

    def open(self) -> bool:
        """Whether all that was made is there still."""
        members: list[Member] = []
        try:
            for part in self.parts:
                members.append(part.open())
        except OSError:
            return False
        finally:
            self.members = tuple(members)
        return True

    @property
    def descriptors(self) -> set[int]:
        """Those that the cage inherits."""
        return {member.folder for member in self.members}

    def close(self) -> None:
        """The descriptors, once the cage has them."""
        for member in self.members:
            os.close(member.folder)
        self.members = ()

    def release(self) -> None:
        """After the command. What is left in it, of a cage that was killed, is killed."""
        surplus = [self]
        if self.parts and all(part.is_clean() for part in self.parts):
            self.home.idle.append(self)
            surplus = self.home.idle[:-IDLE]
            del self.home.idle[:-IDLE]
        for group in surplus:
            group.remove()

    def remove(self) -> None:
        """It may take until the next command where processes have to be killed."""
        for part in self.parts:
            if not _remove(part.path):
                _late.add(part.path)


@dataclass(frozen=True, slots=True)
class Groups:
    """Makes the groups of commands; a few are used again."""

    branches: tuple[Branch, ...] = ()
    idle: list[Group] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    def take(self, processes: int, memory: int) -> Group:
        """A group with these bounds (bytes of memory), as far as they can be had."""
        for path in list(_late):
            if _remove(path, ()):
                _late.discard(path)
        bounds = {"memory": memory, "pids": processes}
        for group in [each for each in self.idle if each.bounds == bounds]:
            self.idle.remove(group)
            if group.open():
                return group
            group.close()
            group.remove()
        name = str(next(self.numbers))
        made = (branch.make(name, bounds) for branch in self.branches)
        group = Group(self, bounds, tuple(part for part in made if part))
        group.open()
        return group


_late: set[Path] = set()  # groups that could not be removed yet


@cache
def here() -> Groups:
    """What this process can have, looked for once. Groups that dead services left are removed."""
    branches: list[Branch] = []
    for version, folder, offered in own_groups(Path("/proc/self")):
        wanted = tuple(each for each in offered if not any(each in branch.controllers for branch in branches))
        if wanted and (branch := open_branch(folder, version, wanted)):
            branches.append(branch)
    return Groups(tuple(branches))


def own_groups(process: Path) -> list[tuple[int, Path, tuple[str, ...]]]:
    """The groups that a process is in, as version, folder and the controllers wanted of it; version 2 comes first."""
    found = []
    joined = [line.split(":", 2) for line in (process / "cgroup").read_text().splitlines()]
    for line in (process / "mountinfo").read_text().splitlines():
        place, _, kind = line.partition(" - ")
        root, mount = (_unescaped(word) for word in place.split(" ")[3:5])
        system, _, options = kind.split(" ", 2)
        if system not in {"cgroup", "cgroup2"}:
            continue
        version = 2 if system == "cgroup2" else 1
        for number, names, path in joined:
            if (number == "0") != (version == 2) or not set(names.split(",")) <= {"", *options.split(",")}:
                continue
            if path != root and not path.startswith(root.rstrip("/") + "/"):
                continue  # not in sight of this mount
            folder = Path(mount + "/" + path[len(root.rstrip("/")) :])
            offered = names.split(",") if version == 1 else _words(folder / "cgroup.controllers")
            found.append((version, folder, tuple(each for each in CONTROLLERS if each in offered)))
    return sorted(found, key=lambda each: -each[0])


def open_branch(own: Path, version: int, controllers: tuple[str, ...]) -> Branch | None:
    """A folder below our own group; None where groups cannot be made there. It stays locked as long as we live."""
    if version == 2 and SYSTEMD.exists() and not _delegated(own):
        return None
    sweep(own)
    folder = own / f"{PREFIX}{os.getpid()}"
    try:
        folder.mkdir()
        lock = _lock(folder)
    except OSError:
        return None
    held = _try(own, folder, version, controllers)
    if not held:
        _remove_tree(folder)
        os.close(lock)
        return None
    atexit.register(_remove_own, folder, os.getpid())
    return Branch(folder, version, held)


def _try(own: Path, folder: Path, version: int, controllers: tuple[str, ...]) -> tuple[str, ...]:
    """The controllers of a group below `folder` that do take bounds."""
    try:
        if version == 2:
            _pass_on(own, folder, controllers)
    except OSError:
        return ()
    tried = Branch(folder, version, controllers).make("0", TRIED)
    if tried is None:
        return ()
    _remove(tried.path)
    return tuple(tried.bounds)


def _lock(folder: Path) -> int:
    """The descriptor that holds the lock; OSError where another has it."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def sweep(own: Path) -> None:
    """Remove what services left that live no longer: those that live hold a lock."""
    for folder in own.glob(f"{PREFIX}[0-9]*"):
        with suppress(OSError):
            lock = _lock(folder)
            _remove_tree(folder)
            os.close(lock)


def _pass_on(own: Path, folder: Path, controllers: tuple[str, ...]) -> None:
    """Have the controllers in the groups below `folder`, leaving our own group where the kernel wants it. OSError."""
    wanted = " ".join(f"+{each}" for each in controllers)
    try:
        _write(own / "cgroup.subtree_control", wanted)
    except OSError:
        service = folder / SERVICE
        service.mkdir()
        _write(service / "cgroup.procs", "0")
        try:
            _write(own / "cgroup.subtree_control", wanted)
        except OSError:  # others are in our group too
            _write(own / "cgroup.procs", "0")
            raise
    _write(folder / "cgroup.subtree_control", wanted)


def _delegated(folder: Path) -> bool:
    """Whether systemd keeps its hands off what is below."""
    for name in DELEGATED:
        with suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


def _remove(path: Path, patience: tuple[float, ...] = PATIENCE) -> bool:
    """Whether the group is gone; processes that are in it are killed."""
    for pause in (*patience, None):
        try:
            path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            _kill(path)
            if pause is not None:
                time.sleep(pause)
        else:
            return True
    return False


def _remove_tree(folder: Path) -> None:
    """The group of a service and those below, as far as it goes. Only processes of commands are killed."""
    with suppress(OSError):
        for path in folder.glob("[0-9]*"):
            _remove(path)
        with suppress(FileNotFoundError):
            (folder / SERVICE).rmdir()
        folder.rmdir()


def _remove_own(folder: Path, service: int) -> None:
    """At the end of the service, not of a fork of it. Under version 2 it is in there itself: the next one removes that."""
    if os.getpid() == service:
        _remove_tree(folder)


def _kill(path: Path) -> None:
    """All processes in the group."""
    with suppress(OSError):
        if (path / "cgroup.kill").exists():
            _write(path / "cgroup.kill", "1")
            return
        for pid in _words(path / "cgroup.procs"):
            with suppress(OSError):
                pidfd = os.pidfd_open(int(pid))
                try:
                    if pid in _words(path / "cgroup.procs"):  # the id has not passed on to another
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                finally:
                    os.close(pidfd)


def _write(path: Path, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def _took(path: Path, value: int) -> bool:
    """Whether the file took the value."""
    try:
        _write(path, str(value))
    except OSError:
        return False
    return True


def _words(path: Path) -> list[str]:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return b"".join(iter(lambda: os.read(file, 65536), b"")).decode().split()
    except OSError:
        return []
    finally:
        os.close(file)


def _unescaped(word: str) -> str:
    """A path as mountinfo has it, with blanks as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)
