"""How full workspaces are: measured while commands run in them, and stored so that the next command need not wait.

A walk over a workspace runs in a thread and takes longer the more files there are, so the next one starts after ten times
that time; after twice that time where the disk has meanwhile lost as much as the workspace had left. Reading the free
bytes of the disk costs nothing and happens four times a second. What cannot be measured counts as full.
"""

import asyncio
import errno
import os
import stat
import time
from contextlib import suppress
from dataclasses import field
from queue import SimpleQueue
from threading import Thread

from backend.core.dataclasses import dataclass
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import StopReason
from backend.core.quota import Quota, WorkspaceUsage
from backend.executors.local.openat2 import open_folder

TICK = 0.25  # seconds between two checks of the disk
REST, SHORT_REST = 10, 2  # pause before the next walk, as a multiple of the time that the last one took
DEEPEST = 100  # levels of folders; opening one costs more with each level
FIRST_WALK = 2.0  # seconds that a command waits for the first walk, or for one that may find free space again
BLOCK = 512  # bytes, in which the kernel counts
WALKERS = 4  # threads that walk; a workspace keeps one busy for a tenth of the time, or a third
UNKNOWN = WorkspaceUsage(0, 0, hidden=True)  # of a walk that failed
# Errors of what was moved or deleted during the walk. After any other, such as used-up descriptors, it is not measured.
GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.EAGAIN, errno.ESTALE}


def measure(root: str, most: int) -> WorkspaceUsage:
    """Walk through a workspace, following no link. Stops when more than `most` files are found."""
    walk = _Walk()
    while walk.folders and walk.files <= most:
        folder = walk.folders.pop()
        try:
            descriptor = open_folder(root, folder)
        except OSError as error:
            walk.hidden |= error.errno not in GONE
            continue
        try:
            walk.scan(descriptor, folder, most)
        finally:
            os.close(descriptor)
    return WorkspaceUsage(walk.bytes, walk.files, walk.hidden)


def sum_of(usages: list[WorkspaceUsage]) -> WorkspaceUsage:
    """What several folders hold together."""
    return WorkspaceUsage(
        sum(each.bytes for each in usages), sum(each.files for each in usages), any(each.hidden for each in usages)
    )


@dataclass(slots=True)
class _Walk:
    """A walk so far. `folders` are still to be scanned; `linked` are files with several names that were counted."""

    bytes: int = 0
    files: int = 0
    hidden: bool = False
    folders: list[str] = field(default_factory=lambda: ["."])
    linked: set[tuple[int, int]] = field(default_factory=set)

    def scan(self, descriptor: int, folder: str, most: int) -> None:
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    self.count(entry, folder)
                    if self.files > most:
                        break
        except OSError as error:
            self.hidden |= error.errno not in GONE

    def count(self, entry: "os.DirEntry[str]", folder: str) -> None:
        try:
            info = entry.stat(follow_symlinks=False)
        except OSError as error:
            self.hidden |= error.errno not in GONE
            return
        self.files += 1
        if stat.S_ISDIR(info.st_mode):
            self.add_folder(f"{folder}/{entry.name}")
        elif info.st_nlink > 1:
            if (info.st_dev, info.st_ino) in self.linked:
                return
            self.linked.add((info.st_dev, info.st_ino))
        self.bytes += info.st_blocks * BLOCK

    def add_folder(self, folder: str) -> None:
        if folder.count("/") > DEEPEST:
            self.hidden = True
        else:
            self.folders.append(folder)


class Walkers:
    """The threads that walk. They are started once, since commands may later use up the processes that we may start."""

    def __init__(self, threads: int) -> None:
        self._walks: SimpleQueue[tuple[asyncio.AbstractEventLoop, _Measurement, tuple[str, ...], int]] = SimpleQueue()
        for _ in range(threads):
            # Daemon threads, which do not delay the end of the service.
            Thread(target=self._work, name="walker", daemon=True).start()

    def walk(self, roots: tuple[str, ...], most: int) -> "_Measurement":
        """What `measure` finds in all of them, and how many seconds it took."""
        loop = asyncio.get_running_loop()
        found = loop.create_future()
        self._walks.put((loop, found, roots, most))
        return found

    def _work(self) -> None:
        while True:
            loop, found, roots, most = self._walks.get()
            begun = time.monotonic()
            try:
                usage = sum_of([measure(root, most) for root in roots])
            except Exception:  # whatever breaks, the limit holds
                usage = UNKNOWN
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(found.set_result, (usage, time.monotonic() - begun))


_Measurement = asyncio.Future[tuple[WorkspaceUsage, float]]


class UsageMonitors:
    """The monitors of all workspaces in which commands ran."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.walkers = Walkers(WALKERS if quota.is_limited else 0)
        self._monitors: dict[tuple[str, str], UsageMonitor] = {}

    def single(self, root: str) -> "UsageMonitor":
        """The monitor of a folder in which one command runs."""
        return UsageMonitor(root, self.quota, self.walkers)

    async def lease(self, root: str, instructions: Instructions, home: str = "") -> "WriteLease":
        """Monitor a command until it releases the lease. The home counts as a part of the workspace."""
        monitor = self._monitors.get((root, home))
        if monitor is None:
            monitor = self._monitors[root, home] = UsageMonitor(root, self.quota, self.walkers, home)
        return await monitor.lease(instructions)


@dataclass(frozen=True, slots=True)
class WriteLease:
    """A command in a workspace. With a `notice` the workspace was full when it started, and it may not write."""

    monitor: "UsageMonitor"
    instructions: Instructions
    notice: str = ""

    def release(self) -> None:
        """The command has ended."""
        self.monitor.release(self.instructions)


class UsageMonitor:
    """Measures one workspace while commands run in it, and once more after the last one.

    All commands that started while there was space are stopped when none is left; which of them used it is unknown.
    """

    def __init__(self, root: str, quota: Quota, walkers: Walkers, home: str = "") -> None:
        self.root, self.quota, self._walkers = root, quota, walkers
        self._folders = (root, home) if home else (root,)
        self.usage: WorkspaceUsage | None = None
        self._writers: set[Instructions] = set()
        self._stale = True
        self._timer: asyncio.TimerHandle | None = None
        self._walk: _Measurement | None = None
        self._walked, self._took, self._free = 0.0, 0.0, 0

    async def lease(self, instructions: Instructions) -> WriteLease:
        """Waits only where the usage is unknown, or where the last measurement would keep the command from writing."""
        breach = self._breach()
        if self.quota.is_limited and (self.usage is None or breach):
            await asyncio.wait({self._walk or self._begin_walk()}, timeout=FIRST_WALK)
            breach = self._breach()
        unknown = self.quota.is_limited and self.usage is None
        if breach or unknown:
            return WriteLease(self, instructions, self.quota.notice(self.usage, _free(self.root)))
        self._writers.add(instructions)
        self._arm()
        return WriteLease(self, instructions)

    def release(self, instructions: Instructions) -> None:
        """What the command left behind is measured soon, for the next command."""
        self._writers.discard(instructions)
        self._stale = True
        self._arm()

    def _breach(self) -> StopReason | None:
        return self.quota.breach(self.usage, _free(self.root))

    def _arm(self) -> None:
        due = self._writers or (self._stale and self.quota.is_limited)
        if due and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._stop_on_breach()
        if self.quota.is_limited and not self._walk and self._is_due():
            self._begin_walk()
        self._arm()

    def _is_due(self) -> bool:
        room = self.quota.bytes - self.usage.bytes if self.usage else 0
        rest = SHORT_REST if self._free - _free(self.root) > room else REST
        return time.monotonic() >= self._walked + rest * self._took

    def _stop_on_breach(self) -> None:
        if self._writers and (reason := self._breach()):
            for instructions in tuple(self._writers):
                instructions.stop(reason)

    def _begin_walk(self) -> _Measurement:
        self._stale, self._free = False, _free(self.root)
        walk = self._walk = self._walkers.walk(self._folders, self.quota.files)
        walk.add_done_callback(self._measured)
        return walk

    def _measured(self, walk: _Measurement) -> None:
        self._walk = None
        self.usage, self._took = walk.result()
        self._walked = time.monotonic()
        self._stop_on_breach()


def _free(root: str) -> int:
    """Bytes left on the disk; none where that cannot be measured."""
    try:
        disk = os.statvfs(root)
    except OSError:
        return 0
    return disk.f_bavail * disk.f_frsize
