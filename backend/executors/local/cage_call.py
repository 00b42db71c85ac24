"""What a call of the cage is made of: a spec of fields in a file in memory, pipes, a process that inherits them."""

import fcntl
import os
import struct
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

VERSION = "cage 8"  # of the spec
ENCODING, ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()  # of os.fsencode


def fields(values: Iterable[str | int | bytes]) -> bytes:
    """Of each its length, its bytes, a NUL. A spec has a hundred of them, so they are packed and joined once."""
    datas = [value if isinstance(value, bytes) else _bytes(value) for value in values]
    lengths = struct.pack(f"<{len(datas)}I", *map(len, datas))
    parts = [b"\0"] * (3 * len(datas))
    parts[0::3] = [lengths[at : at + 4] for at in range(0, len(lengths), 4)]
    parts[1::3] = datas
    return b"".join(parts)


def _bytes(value: str | int) -> bytes:
    return value.encode(ENCODING, ERRORS) if isinstance(value, str) else b"%d" % value


def spec_file(data: bytes, close: ExitStack) -> int:
    """The descriptor of a file in memory."""
    descriptor = os.memfd_create("cage")
    close.callback(os.close, descriptor)
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
    return descriptor


def pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    """A pipe whose ends are closed by these."""
    reading, writing = os.pipe()
    reader.callback(os.close, reading)
    writer.callback(os.close, writing)
    return reading, writing


def above_stdio(descriptor: int, close: ExitStack) -> int:
    """The descriptor, or a copy of one below 3, which are the cage's own streams."""
    if descriptor > 2:
        return descriptor
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    close.callback(os.close, copy)
    return copy


def spawn(cage: Path, arguments: Iterable[str], inherited: set[int]) -> int:
    """The pid of a new process that has these descriptors under the same numbers. Half the time of `subprocess`.

    Standard streams that the service lacks are open in it all the same, so that what it opens is not taken for one.
    """
    keep = [(os.POSIX_SPAWN_DUP2, descriptor, descriptor) for descriptor in inherited]
    streams = [
        (os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3) if not _is_passed_on(number)
    ]
    return os.posix_spawn(str(cage), [str(cage), *arguments], {}, file_actions=[*streams, *keep])


def _is_passed_on(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False
