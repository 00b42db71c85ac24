"""The checks before anything runs: the cage, tested at startup, and the free space of the disk."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import field
from functools import partial
from pathlib import Path

import structlog

from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.errors import reason_of
from backend.core.figures import size_text
from backend.executors.local.launcher import CageLauncher, CageLimits
from backend.executors.local.rooms import Rooms, make_room
from backend.executors.local.run_as import find_owner
from backend.executors.local.self_test import Protection, can_enter, probe
from backend.runtime.command_line import verb
from backend.runtime.outage import Outage
from backend.runtime.settings import Settings

PROBES = 3  # attempts of the self-test before its result is final
FRESH = 1.0  # seconds that an attempt to enter a workspace counts


@dataclass(frozen=True, slots=True)
class Guard:
    """The cage that commands run in, and the protection that its self-test found."""

    launcher: CageLauncher
    protection: Protection
    owner: tuple[int, int] | None
    data_dir: Path
    disk_margin: int
    rooms: Rooms
    outage: Outage = field(default_factory=lambda: Outage("data folder not reached"))

    def refusal(self) -> Decision | None:
        """Refuse every command if the kernel cannot confine it as required, or the disk is nearly full."""
        try:
            disk = os.statvfs(self.data_dir)
        except OSError as error:
            self.outage.report(error)
            reason = f"The data folder of the server cannot be reached: {reason_of(error)}."
            hint = "The operator must restore the folder, or restart the server with another one."
            return Decision.deny("storage.unavailable", reason, hint, retry_after=60.0)
        self.outage.over()
        if disk.f_bavail * disk.f_frsize < self.disk_margin:
            reason = f"The disk of the server has less than {size_text(self.disk_margin)} left."
            return Decision.deny("storage.full", reason, "The operator must free disk space.", retry_after=60.0)
        return self.unprotected()

    def unprotected(self) -> Decision | None:
        """Refuse if the kernel cannot confine commands as required."""
        if self.protection.meets(self.launcher.minimum):
            return None
        failed = ", ".join(test.name for test in self.protection.tests if not test.passed)
        reason = f"The protection here is {self.protection.level}, but {self.launcher.minimum} is required."
        hint = f"The operator finds the reason in the protection report, `{verb('protection')}`{f' (failed: {failed})' if failed else ''}."
        return Decision.deny("protection.unavailable", reason, hint, retry_after=60.0)


class EntryCheck:
    """Whether commands can enter a workspace: one tries, at most once in FRESH seconds, however often that is asked."""

    def __init__(self, launcher: CageLauncher, root: str) -> None:
        self._root, self._enter = root, partial(can_enter, launcher, root)
        self._begun = 0.0
        self._latest: asyncio.Task[bool] | None = None

    async def __call__(self) -> bool:
        """What the latest attempt found, as long as the workspace is there."""
        if not os.path.isdir(self._root):
            return False
        if self._latest is None or time.monotonic() - self._begun > FRESH:
            self._begun = time.monotonic()
            self._latest = asyncio.create_task(asyncio.to_thread(self._enter))
        return await asyncio.shield(self._latest)


def build_guard(settings: Settings, *, rooms: bool = True) -> Guard:
    """Set up the cage and run its self-test; without `rooms` no command will use namespaces. Raises OwnerError."""
    owner = find_owner(settings.run_as)
    minimum = "L3" if settings.namespaces == "true" else settings.protection_minimum
    launcher = CageLauncher(settings.data_dir.absolute() / "cage", owner, _limits(settings), minimum)
    use = _protected if rooms and settings.namespaces != "false" else _without_rooms
    kept, protection = use(launcher)
    return Guard(launcher, protection, owner, settings.data_dir.absolute(), settings.disk_margin, kept)


def _limits(settings: Settings) -> CageLimits:
    return CageLimits(
        cpu_seconds=settings.cpu_limit,
        memory=settings.memory_limit,
        file_size=settings.file_size_limit,
        processes=settings.process_limit,
        memory_total=settings.memory_limit,
    )


def _protected(launcher: CageLauncher) -> tuple[Rooms, Protection]:
    """Rooms for commands and the protection found in one; where that is not L3, the protection without them."""
    try:
        found = _tried(partial(probe, launcher, in_room=True), "L3")
        if found.meets("L3"):
            make = partial(make_room, launcher.usable_cage(), memory=launcher.limits.memory_total)
            return Rooms(make), found
        reason = found.failures().strip() or f"only {found.level} is reached in them"
    except OSError as error:
        reason = error.strerror or str(error)
    structlog.get_logger().info("commands run without namespaces", reason=reason)
    rooms, protection = _without_rooms(launcher)
    return rooms, protection.without_namespaces(reason) if protection.meets("L2") else protection


def _without_rooms(launcher: CageLauncher) -> tuple[Rooms, Protection]:
    return Rooms(), _tried(partial(probe, launcher), min(launcher.minimum, "L2"))


def _tried(attempt: Callable[[], Protection], minimum: str) -> Protection:
    """The protection that is found; tried again where it falls short, since on a busy machine an attempt may time out."""
    found = attempt()
    for _ in range(PROBES - 1):
        if found.meets(minimum):
            break
        found = attempt()
    return found
