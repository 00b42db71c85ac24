"""How full workspaces are: measured while commands run in them, and kept so that a command need not wait for it.

A walk over a workspace runs in a thread and costs as much as there are files, so the next one waits for ten times as
long; for twice as long where the disk has lost as much meanwhile as the workspace had left. The free bytes of the disk
cost nothing and are looked at four times a second.
"""

import asyncio
import errno
import os
import stat
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread

from backend.core.execution.instructions import Instructions
from backend.core.execution.model import StopReason
from backend.core.quota import Fill, Quota
from backend.executors.local.openat2 import open_folder

TICK = 0.25  # seconds between two looks at the disk
REST, SHORT_REST = 10, 2  # times that a walk took, until the next
DEEPEST = 100  # folders within each other; opening one below costs more with each
FIRST_WALK = 2.0  # seconds that a command waits for the first walk, or for one that may find room again
BLOCK = 512  # bytes, in which the kernel counts
# What keeps a folder from us. Any other error means that it was moved or deleted while we looked.
HIDES = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}


def measure(root: str, most: int) -> Fill:
    """Walk through a workspace; no link is followed. Given up when more than `most` files are found."""
    walk = _Walk()
    while walk.folders and walk.files <= most:
        folder = walk.folders.pop()
        try:
            descriptor = open_folder(root, folder)
        except OSError as error:
            walk.hidden |= error.errno in HIDES
            continue
        try:
            walk.look_into(descriptor, folder, most)
        finally:
            os.close(descriptor)
    return Fill(walk.bytes, walk.files, walk.hidden)


@dataclass(slots=True)
class _Walk:
    """A walk so far. `folders` are still to be looked into; `linked` are files of several names that were counted."""

    bytes: int = 0
    files: int = 0
    hidden: bool = False
    folders: list[str] = field(default_factory=lambda: ["."])
    linked: set[tuple[int, int]] = field(default_factory=set)

    def look_into(self, descriptor: int, folder: str, most: int) -> None:
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    self.count(entry, folder)
                    if self.files > most:
                        break
        except OSError as error:
            self.hidden |= error.errno in HIDES

    def count(self, entry: "os.DirEntry[str]", folder: str) -> None:
        try:
            info = entry.stat(follow_symlinks=False)
        except OSError as error:
            self.hidden |= error.errno in HIDES
            return
        self.files += 1
        if stat.S_ISDIR(info.st_mode):
            self.enter(f"{folder}/{entry.name}")
        elif info.st_nlink > 1:
            if (info.st_dev, info.st_ino) in self.linked:
                return
            self.linked.add((info.st_dev, info.st_ino))
        self.bytes += info.st_blocks * BLOCK

    def enter(self, folder: str) -> None:
        if folder.count("/") > DEEPEST:
            self.hidden = True
        else:
            self.folders.append(folder)


class Meters:
    """The fill of each workspace in which commands ran."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self._meters: dict[str, Meter] = {}

    async def enter(self, root: str, control: Instructions) -> "Stay":
        """Watch over a command until it leaves."""
        meter = self._meters.get(root)
        if meter is None:
            meter = self._meters[root] = Meter(root, self.quota)
        return await meter.enter(control)


@dataclass(frozen=True, slots=True)
class Stay:
    """A command in a workspace. With a `notice` it began when that was full, and may write nothing."""

    meter: "Meter"
    control: Instructions
    notice: str = ""

    def leave(self) -> None:
        """The command has ended."""
        self.meter.leave(self.control)


class Meter:
    """Measures one workspace while commands run in it, and once more after the last.

    Commands that began with room are stopped when there is none left; which of them took it cannot be told.
    """

    def __init__(self, root: str, quota: Quota) -> None:
        self.root, self.quota = root, quota
        self.fill: Fill | None = None
        self._writers: set[Instructions] = set()
        self._stale = True
        self._timer: asyncio.TimerHandle | None = None
        self._walk: asyncio.Future[tuple[Fill, float]] | None = None
        self._walked, self._took, self._free = 0.0, 0.0, 0

    async def enter(self, control: Instructions) -> Stay:
        """Waits only where nothing is known yet, or where what is known would keep the command from writing."""
        breach = self._breach()
        if self.quota.counts and (self.fill is None or breach):
            await asyncio.wait({self._walk or self._begin_walk()}, timeout=FIRST_WALK)
            breach = self._breach()
        if breach:
            return Stay(self, control, self.quota.notice(self.fill, _free(self.root)))
        self._writers.add(control)
        self._arm()
        return Stay(self, control)

    def leave(self, control: Instructions) -> None:
        """What the command left behind is measured soon, for the next."""
        self._writers.discard(control)
        self._stale = True
        self._arm()

    def _breach(self) -> StopReason | None:
        return self.quota.breach(self.fill, _free(self.root))

    def _arm(self) -> None:
        due = self._writers or (self._stale and self.quota.counts)
        if due and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._judge()
        if self.quota.counts and not self._walk and self._is_due():
            self._begin_walk()
        self._arm()

    def _is_due(self) -> bool:
        room = self.quota.bytes - self.fill.bytes if self.fill else 0
        rest = SHORT_REST if self._free - _free(self.root) > room else REST
        return time.monotonic() >= self._walked + rest * self._took

    def _judge(self) -> None:
        if self._writers and (reason := self._breach()):
            for control in tuple(self._writers):
                control.stop(reason)

    def _begin_walk(self) -> "asyncio.Future[tuple[Fill, float]]":
        loop = asyncio.get_running_loop()
        self._stale, self._free = False, _free(self.root)
        walk = self._walk = loop.create_future()
        walk.add_done_callback(self._measured)
        # Not a thread that the end of the service would wait for.
        Thread(target=_tell, args=(loop, walk, self.root, self.quota.files), daemon=True).start()
        return walk

    def _measured(self, walk: "asyncio.Future[tuple[Fill, float]]") -> None:
        self._walk = None
        self.fill, self._took = walk.result()
        self._walked = time.monotonic()
        self._judge()


def _tell(loop: asyncio.AbstractEventLoop, walk: "asyncio.Future[tuple[Fill, float]]", root: str, most: int) -> None:
    begun = time.monotonic()
    found = measure(root, most)
    with suppress(RuntimeError):  # the loop has been closed
        loop.call_soon_threadsafe(walk.set_result, (found, time.monotonic() - begun))


def _free(root: str) -> int:
    """Bytes left on the disk; any number where it cannot be asked."""
    try:
        disk = os.statvfs(root)
    except OSError:
        return sys.maxsize
    return disk.f_bavail * disk.f_frsize
