"""Standard inputs that the programs of a group share: a pipe that holds bytes, or a file of the workspace."""

import errno
import fcntl
import os
import select

from backend.core.dataclasses import dataclass
from backend.executors.local.openat2 import open_inside

PIPE_CAPACITY = 1 << 20  # bytes that a pipe can be made to hold
READ_SIZE = 4096  # bytes of a file that are looked at for a line break


@dataclass(frozen=True, slots=True)
class SharedInput:
    """A descriptor from which programs and the builtin read take in turn. Nothing in it is waited for."""

    descriptor: int
    seekable: bool

    def fileno(self) -> int:
        return self.descriptor

    def read_line(self, limit: int) -> bytes:
        """Up to and with the next line break, or `limit` bytes, and no byte of what follows. Raises OSError."""
        found = bytearray()
        while len(found) < limit and not found.endswith(b"\n"):
            data = os.read(self.descriptor, min(READ_SIZE, limit - len(found)) if self.seekable else 1)
            if not data:
                break
            line, separator, rest = data.partition(b"\n")
            found += line + separator
            if rest:
                os.lseek(self.descriptor, -len(rest), os.SEEK_CUR)
        return bytes(found)

    def close(self) -> None:
        os.close(self.descriptor)


def open_input(source: bytes | str, root: str, cwd: str) -> SharedInput:
    """These bytes, or a file named from `cwd`. Raises OSError."""
    if isinstance(source, bytes):
        return SharedInput(held(source), seekable=False)
    return SharedInput(open_inside(root, os.path.realpath(cwd), source, "<", None), seekable=source != os.devnull)


def held(data: bytes) -> int:
    """The reading end of a pipe that holds the data, whether it is read or not. Raises OSError."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        if len(data) > select.PIPE_BUF:
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, min(len(data), PIPE_CAPACITY))
        if os.write(writing, data) < len(data):
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), "input")
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return reading
