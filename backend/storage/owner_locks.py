"""Which servers of a data folder live: each locks a file there as long as its process does."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


class OwnerLocks:
    """The files `owners/<owner>.lock`. The kernel ends the lock of a process that dies, however it dies.

    Locks tell something only about processes of this machine: servers elsewhere are judged by their leases.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        self._folder = folder
        self._path = folder / f"{owner}.lock"
        self._fd = -1

    def hold(self) -> None:
        """Show that this server lives. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = self._folder / f".{self._path.name}"
        self._fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        os.rename(beside, self._path)  # only now, since one that is not locked belongs to a dead server

    @contextmanager
    def dead(self) -> Iterator[frozenset[str]]:
        """The owners of this folder whose processes have ended.

        Each is returned to one server at a time, and forgotten unless the block raises. Raises OSError.
        """
        with ExitStack() as locks:
            found = [path for path in self._folder.glob("*.lock") if path != self._path and _locked(path, locks)]
            yield frozenset(path.stem for path in found)
            for path in found:
                path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let go of the lock. The file stays, so that another server of the folder looks after what was left."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _locked(path: Path, locks: ExitStack) -> bool:
    """Lock the file of a dead server until the end of `locks`; False when its server lives, or another looks after it."""
    with suppress(FileNotFoundError):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        locks.callback(os.close, fd)
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False
