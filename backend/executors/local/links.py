"""Where paths lead, as the kernel resolves them, within the time that the links of one line may take.

The kernel follows 40 links at most. Each of them may be 4 KiB of folders, so a path can still take it milliseconds.
"""

import errno
import math
import os
from collections.abc import Callable
from stat import S_ISLNK
from typing import TypeVar

T = TypeVar("T")

LINK_TIME = (
    0.1  # seconds of processor time that the lookups of one line may take, so that a busy machine refuses no more
)
MISSING_LIMIT = 64  # folders at the end of a path that do not exist
MISSING = (FileNotFoundError, NotADirectoryError, PermissionError)


class TooLong(Exception):
    """The lookups of a line take too long."""


class LinkReader:
    """Looks up paths for at most so many seconds of `clock`."""

    def __init__(self, clock: Callable[[], float], seconds: float = math.inf) -> None:
        self._clock = clock
        self._left = seconds

    def resolve(self, path: str, depth: int = 0) -> str:
        """The absolute path without links. What does not exist keeps its name, and has a `..`, since a command may make it.

        Raises OSError (ELOOP and others) where the kernel does not follow it, TooLong when the time is over.
        """
        missing: list[str] = []
        while len(missing) + depth <= MISSING_LIMIT:
            try:
                return os.path.normpath(os.path.join(self._timed(_real, path), *reversed(missing)))
            except MISSING:
                path, link, name = self._timed(_last_part, path)
            if link:
                path = os.path.join(path, link)  # to nothing
            elif name == "..":  # of nothing
                path = os.path.join(os.path.dirname(self.resolve(path, depth + 1)), *reversed(missing))
                missing.clear()
            else:
                missing.append(name)
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))

    def exists(self, path: str) -> bool:
        """Whether there is something with this name, be it a link to nothing. Raises TooLong."""
        return self._timed(os.path.lexists, path)

    def _timed(self, look: Callable[[str], T], path: str) -> T:
        begun = self._clock()
        try:
            return look(path)
        finally:
            self._left -= self._clock() - begun
            if self._left < 0:
                raise TooLong


def _real(path: str) -> str:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _last_part(path: str) -> tuple[str, str, str]:
    """The folder of a path, where its last part leads if that is a link, and the last part."""
    folder, name = os.path.split(path.rstrip("/"))
    try:
        link = os.readlink(path.rstrip("/")) if S_ISLNK(os.lstat(path.rstrip("/")).st_mode) else ""
    except OSError:
        link = ""
    return folder or "/", link, name
