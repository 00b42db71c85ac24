"""Limits memory and the number of processes of a whole command by control groups (cgroups), where they are available.

They are optional: what is not available or fails is left out, and the reported layers show it. Every command gets a group
of its own, `gatepost-<pid of the service>/<number>` below the group that the service was started in, so that limits set
on the service still apply.

Version 1: one folder per controller, writable for root. Version 2: one folder, which may be delegated to another user; a
group that passes controllers on must not contain processes itself, so the service moves one group down.
"""

import atexit
import fcntl
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import field
from functools import cache
from itertools import count
from pathlib import Path

from backend.core.dataclasses import dataclass

CONTROLLERS = ("memory", "pids")
PREFIX = "gatepost-"
SERVICE = "service"  # the group of the service itself, under version 2
SYSTEMD = Path("/run/systemd/system")
DELEGATED = ("user.delegate", "trusted.delegate")  # attributes that systemd sets on delegated groups
# Joining by `tasks` takes 0.05 ms; by `cgroup.procs` it may wait 15 ms for all processors, so under version 2 the cage
# creates its programs inside the group.
JOIN = {1: "tasks", 2: "cgroup.procs"}
# The first file of each controller sets the limit, which also holds without the others. Swap would add to memory.
FILES = {
    (1, "memory"): ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    (2, "memory"): ("memory.max", "memory.swap.max", "memory.oom.group"),
    (1, "pids"): ("pids.max",),
    (2, "pids"): ("pids.max",),
}
TRIAL_LIMITS = {"memory": 1 << 30, "pids": 100}
FIXED_VALUES = {"memory.swap.max": 0, "memory.oom.group": 1}
CURRENT = {
    (1, "memory"): "memory.usage_in_bytes",
    (2, "memory"): "memory.current",
    (1, "pids"): "pids.current",
    (2, "pids"): "pids.current",
}
# Where the kernel counts how often a limit was met: by a process that it killed, or that could not be created.
MET = {
    (1, "memory"): ("memory.oom_control", "oom_kill"),
    (2, "memory"): ("memory.events", "oom_kill"),
    (1, "pids"): ("pids.events", "max"),
    (2, "pids"): ("pids.events", "max"),
}
# Creating and removing a group takes 0.2 ms or more, so a few are reused. Files that commands left in the page cache stay
# charged: above this part of the limit the next command would be short of memory.
IDLE = 8
CLEAN = {"memory": 1 / 8, "pids": 0}
REMOVE_DELAYS = (0.0, 0.001, 0.004)  # seconds to wait for killed processes before the removal is postponed


@dataclass(frozen=True, slots=True)
class Member:
    """What the cage needs to join: a folder, the file in it to write to, the layers that it adds, what it limits."""

    folder: int  # descriptor
    join: str
    layers: str  # separated by commas
    memory: bool
    processes: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A folder of one command, and the limits in it that took effect."""

    path: Path
    version: int
    limits: Mapping[str, int]

    def open(self) -> Member:
        """OSError where the folder no longer exists."""
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        layers = ",".join(f"cgroup:{each}" for each in self.limits)
        return Member(folder, JOIN[self.version], layers, "memory" in self.limits, "pids" in self.limits)

    def met(self) -> Iterator[tuple[str, int]]:
        """How often each limit was met since the group was created."""
        for each in self.limits:
            file, name = MET[self.version, each]
            words = _figures(f"{self.path}/{file}")
            yield each, int(words[words.index(name) + 1]) if name in words else 0

    def is_clean(self) -> bool:
        """Whether another command may use it: nothing runs in it, and almost nothing is charged to it."""
        for each, limit in self.limits.items():
            words = _figures(f"{self.path}/{CURRENT[self.version, each]}")
            if not words or int(words[0]) > limit * CLEAN[each]:
                return False
        return "pids" in self.limits or not _figures(f"{self.path}/cgroup.procs")  # no process is counted there already


@dataclass(frozen=True, slots=True)
class Branch:
    """A folder of this service in which groups can be created."""

    folder: Path
    version: int
    controllers: tuple[str, ...]

    def create(self, name: str, limits: Mapping[str, int]) -> Part | None:
        """A group with a limit for each controller; None where it cannot be created, or no limit takes effect."""
        path = self.folder / name
        try:
            path.mkdir()
        except OSError:
            return None
        applied = {each: limits[each] for each in self.controllers if self._apply(path, each, limits[each])}
        if not applied:
            _remove(path)
            return None
        return Part(path, self.version, applied)

    def _apply(self, path: Path, controller: str, limit: int) -> bool:
        limiting, *supporting = FILES[self.version, controller]
        applied = _try_write(path / limiting, limit)
        for name in supporting:
            _try_write(path / name, FIXED_VALUES.get(name, limit))
        return applied


@dataclass(slots=True, eq=False)
class Group:
    """The group of one command: a folder for each branch, open until the cage has inherited them."""

    pool: "Groups"
    limits: Mapping[str, int]
    parts: tuple[Part, ...]
    members: tuple[Member, ...] = ()
    counted: dict[str, int] = field(default_factory=dict)  # how often limits were met by earlier commands

    def newly_met(self) -> frozenset[str]:
        """The limits that were met since the last time that this was asked."""
        met = dict(item for part in self.parts for item in part.met())
        found = frozenset(each for each, count in met.items() if count > self.counted.get(each, 0))
        self.counted = met
        return found

    def open(self) -> bool:
        """Whether every folder still exists."""
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
        """The descriptors that the cage inherits."""
        return {member.folder for member in self.members}

    def close(self) -> None:
        """Close the descriptors, once the cage has inherited them."""
        for member in self.members:
            os.close(member.folder)
        self.members = ()

    def release(self) -> None:
        """After the command. Processes left in it by a cage that was killed are killed."""
        surplus = [self]
        if self.parts and all(part.is_clean() for part in self.parts):
            self.pool.idle.append(self)
            surplus = self.pool.idle[:-IDLE]
            del self.pool.idle[:-IDLE]
        for group in surplus:
            group.remove()

    def remove(self) -> None:
        """Where processes have to be killed first, it may be postponed until the next command."""
        for part in self.parts:
            if not _remove(part.path):
                _postponed.add(part.path)


@dataclass(frozen=True, slots=True)
class Groups:
    """Creates the groups of commands and reuses a few."""

    branches: tuple[Branch, ...] = ()
    idle: list[Group] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    def acquire(self, processes: int, memory: int) -> Group:
        """A group with these limits (bytes of memory), as far as they are available."""
        for path in list(_postponed):
            if _remove(path, ()):
                _postponed.discard(path)
        limits = {"memory": memory, "pids": processes}
        while group := next((each for each in self.idle if each.limits == limits), None):
            self.idle.remove(group)
            if group.open():
                return group
            group.close()
            group.remove()
        name = str(next(self.numbers))
        created = (branch.create(name, limits) for branch in self.branches)
        group = Group(self, limits, tuple(part for part in created if part))
        group.open()
        return group


_postponed: set[Path] = set()  # groups that could not be removed yet


@cache
def detect_groups() -> Groups:
    """The control groups available to this process, detected once. Groups left by services that died are removed."""
    branches: list[Branch] = []
    for version, folder, offered in own_groups(Path("/proc/self")):
        missing = tuple(each for each in offered if not any(each in branch.controllers for branch in branches))
        if missing and (branch := open_branch(folder, version, missing)):
            branches.append(branch)
    return Groups(tuple(branches))


def own_groups(process: Path) -> list[tuple[int, Path, tuple[str, ...]]]:
    """The groups that a process is in: version, folder and the controllers of use in it; version 2 first."""
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
                continue  # not visible through this mount
            folder = Path(mount + "/" + path[len(root.rstrip("/")) :])
            offered = names.split(",") if version == 1 else _words(folder / "cgroup.controllers")
            found.append((version, folder, tuple(each for each in CONTROLLERS if each in offered)))
    return sorted(found, key=lambda each: -each[0])


def open_branch(own: Path, version: int, controllers: tuple[str, ...]) -> Branch | None:
    """A folder below our own group; None where groups cannot be created there. It stays locked until this process ends."""
    if version == 2 and SYSTEMD.exists() and not _delegated(own):
        return None
    sweep(own)
    folder = own / f"{PREFIX}{os.getpid()}"
    try:
        folder.mkdir()
        lock = _lock(folder)
    except OSError:
        return None
    working = _working_controllers(own, folder, version, controllers)
    if not working:
        _remove_tree(folder)
        os.close(lock)
        return None
    atexit.register(_remove_own, folder, os.getpid())
    return Branch(folder, version, working)


def _working_controllers(own: Path, folder: Path, version: int, controllers: tuple[str, ...]) -> tuple[str, ...]:
    """The controllers that accept limits in a group below `folder`."""
    try:
        if version == 2:
            _enable_below(own, folder, controllers)
    except OSError:
        return ()
    trial = Branch(folder, version, controllers).create("0", TRIAL_LIMITS)
    if trial is None:
        return ()
    _remove(trial.path)
    return tuple(trial.limits)


def _lock(folder: Path) -> int:
    """The descriptor that holds the lock; OSError where another process has it."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def sweep(own: Path) -> None:
    """Remove the groups of services that have ended; running ones hold a lock."""
    for folder in own.glob(f"{PREFIX}[0-9]*"):
        with suppress(OSError):
            lock = _lock(folder)
            _remove_tree(folder)
            os.close(lock)


def _enable_below(own: Path, folder: Path, controllers: tuple[str, ...]) -> None:
    """Enable the controllers in groups below `folder`, leaving our own group where the kernel requires it. Raises OSError."""
    enable = " ".join(f"+{each}" for each in controllers)
    try:
        _write(own / "cgroup.subtree_control", enable)
    except OSError:
        service = folder / SERVICE
        service.mkdir()
        _write(service / "cgroup.procs", "0")
        try:
            _write(own / "cgroup.subtree_control", enable)
        except OSError:  # other processes are in our group too
            _write(own / "cgroup.procs", "0")
            raise
    _write(folder / "cgroup.subtree_control", enable)


def _delegated(folder: Path) -> bool:
    """Whether systemd leaves the groups below to others."""
    for name in DELEGATED:
        with suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


def _remove(path: Path, delays: tuple[float, ...] = REMOVE_DELAYS) -> bool:
    """Remove a group and kill the processes in it. Whether it is gone."""
    for pause in (*delays, None):
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
    """Remove the group of a service and those below, as far as possible. Only processes of commands are killed."""
    with suppress(OSError):
        for path in folder.glob("[0-9]*"):
            _remove(path)
        with suppress(FileNotFoundError):
            (folder / SERVICE).rmdir()
        folder.rmdir()


def _remove_own(folder: Path, service: int) -> None:
    """At the end of the service, not of a fork. Under version 2 the service itself is in it: the next one removes it."""
    if os.getpid() == service:
        _remove_tree(folder)


def _kill(path: Path) -> None:
    """Kill all processes in the group."""
    with suppress(OSError):
        if (path / "cgroup.kill").exists():
            _write(path / "cgroup.kill", "1")
            return
        for pid in _words(path / "cgroup.procs"):
            with suppress(OSError):
                pidfd = os.pidfd_open(int(pid))
                try:
                    if pid in _words(path / "cgroup.procs"):  # the id is not that of another process by now
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                finally:
                    os.close(pidfd)


def _write(path: Path, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def _try_write(path: Path, value: int) -> bool:
    """Whether the kernel accepted the value."""
    try:
        _write(path, str(value))
    except OSError:
        return False
    return True


def _words(path: str | Path) -> list[str]:
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


def _figures(path: str) -> list[str]:
    """The words of a file of a few figures, which one read gets."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.read(file, 4096).decode().split()
    except OSError:
        return []
    finally:
        os.close(file)


def _unescaped(word: str) -> str:
    """A path of mountinfo, in which spaces are octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)
