"""A user for each workspace where the service is root, so that no command can change the modes of another workspace.

The owner of the folder of a workspace is the only record of its user. What cannot be had (the service is not root, or the
range is not mapped in its user namespace) leaves one user for all workspaces.
"""

import fcntl
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from errno import EUSERS
from itertools import chain
from pathlib import Path, PurePath

from backend.core.dataclasses import dataclass
from backend.executors.local.process_spec import Owner

PASS = 0o711  # the users of commands may pass through, but not list
PRIVATE = 0o700
ID_MAP = Path("/proc/self/uid_map")


@dataclass(frozen=True, slots=True)
class WorkspaceUsers:
    """The users of the workspaces `folder / kind / name`. They get `uids`, each its own, or all that of `shared`.

    Without `shared` the service is not root, and everything belongs to its own user.
    """

    folder: Path
    kinds: tuple[str, ...]
    shared: Owner | None
    uids: range = range(0)

    def settle(self, workspaces: Iterable[Path]) -> None:
        """Give each of these workspaces its user, with what is in it, unless it has one. Raises OSError."""
        if self.shared is None:
            return
        with _locked(self.folder / self.kinds[0]):
            taken = self._taken() if self.uids else set()
            for workspace in workspaces:
                uid = workspace.lstat().st_uid
                if uid not in (self.uids or {self.shared[0]}):
                    uid = self._free(workspace, taken) if self.uids else self.shared[0]
                    taken.add(uid)
                    hand_over(workspace, (uid, self.shared[1]))

    def settle_all(self) -> None:
        """The same for those that an earlier server made."""
        self.settle([workspace for kind in self.kinds for workspace in _folders(self.folder / kind)])

    def _taken(self) -> set[int]:
        return {each.lstat().st_uid for kind in self.kinds for each in _folders(self.folder / kind)}

    def _free(self, workspace: Path, taken: set[int]) -> int:
        """The first that is free, from a place on that the path gives: several services hardly meet in one range."""
        first = zlib.crc32(os.fsencode(workspace)) % len(self.uids)
        free = (uid for uid in chain(self.uids[first:], self.uids[:first]) if uid not in taken)
        uid = next(free, None)
        if uid is None:
            raise OSError(EUSERS, "every user of GATEPOST_WORKSPACE_UIDS has a workspace")
        return uid


def are_mapped(uids: range) -> bool:
    """Whether the user namespace of this process knows all of them."""
    try:
        lines = [list(map(int, line.split())) for line in ID_MAP.read_text().splitlines()]
    except (OSError, ValueError):
        return False
    return any(first <= uids[0] and uids[-1] < first + count for first, _, count in lines)


def folder_owner(folder: str, shared: Owner | None) -> Owner | None:
    """Who commands run as in a workspace: its owner, where the service is root. Raises OSError."""
    return (os.stat(folder).st_uid, shared[1]) if shared else None


def reopen(folder: str) -> None:
    """Undo what a command did to the mode of a workspace, or of a folder above it that belongs to the same user.

    Landlock does not cover modes, so a command can close its workspace to others that share its user, and where that is
    the service's own user, every workspace.
    """
    user = os.geteuid()
    try:
        if user != 0:
            for parent in reversed(PurePath(folder).parents):
                _open(str(parent), 0o100, user)
        _open(folder, PRIVATE, user)
    except OSError:
        pass  # what else is wrong is found where the folder is used


def _open(folder: str, needed: int, user: int) -> None:
    """Give the owner these rights, where this process, of that user, may."""
    info = os.stat(folder)
    if info.st_mode & needed != needed and user in {0, info.st_uid}:
        os.chmod(folder, info.st_mode & 0o7777 | needed)


def _folders(parent: Path) -> list[Path]:
    with suppress(OSError), os.scandir(parent) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []


def hand_over(workspace: Path, owner: Owner) -> None:
    """Change the owner of a workspace and of what commands made in it; what root put there stays root's.

    The workspace itself is the last, so that a service that ends meanwhile begins again.
    """
    for _, folders, files, place in os.fwalk(workspace):
        for name in (*folders, *files):
            with suppress(OSError):
                if os.lstat(name, dir_fd=place).st_uid:
                    os.chown(name, *owner, dir_fd=place, follow_symlinks=False)
    workspace.chmod(PRIVATE)
    os.chown(workspace, *owner)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among the servers that share the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(PASS)  # whatever the umask
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
