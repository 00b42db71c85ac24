"""Which servers of a data folder are alive: each holds the lock of a file there until its process ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


class OwnerLocks:
    """The files `owners/<owner>.lock`. The kernel releases the lock of a process that dies, for whatever reason.

    Locks say something only about processes of this machine: servers elsewhere are judged by their leases.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        self._folder = folder
        self._path = folder / f"{owner}.lock"
        self._fd = -1

    def hold(self) -> None:
        """Lock the file of this server. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._folder / f".{self._path.name}"
        self._fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        os.rename(temporary, self._path)  # only now, because an unlocked file belongs to a dead server

    @contextmanager
    def dead(self) -> Iterator[frozenset[str]]:
        """The owners of this folder whose processes have ended.

        Each is returned to one server at a time; its file is deleted unless the block raises. Raises OSError.
        """
        with ExitStack() as locks:
            # Without those that begin with a dot: their servers are about to lock them.
            others = (path for path in self._folder.glob("[!.]*.lock") if path != self._path)
            found = [path for path in others if _locked(path, locks)]
            yield frozenset(path.stem for path in found)
            for path in found:
                path.unlink(missing_ok=True)

    def alive(self, owner: str) -> bool:
        """Whether a server of this folder still holds its lock, or another one is recovering what it left."""
        path = self._folder / f"{owner}.lock"
        with ExitStack() as locks:
            return path.exists() and not _locked(path, locks)

    def release(self) -> None:
        """Release the lock. The file remains, so that another server of the folder closes what this one left."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _locked(path: Path, locks: ExitStack) -> bool:
    """Lock a file until the end of `locks`; False if its server is alive, or another one is recovering it."""
    with suppress(FileNotFoundError):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        locks.callback(os.close, fd)
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False
