"""What a call of the cage is made of: a spec of fields in a file in memory, pipes, a process that inherits them."""

import fcntl
import os
import struct
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Self

VERSION = "cage 8"  # of the spec
ENCODING, ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()  # of os.fsencode


class Descriptors:
    """Descriptors that are closed together. A command has a dozen, and an ExitStack takes eight calls for each."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, descriptor: int) -> int:
        """Close it with the others."""
        self._open.append(descriptor)
        return descriptor

    def keep(self) -> None:
        """Leave them open, for the caller to close."""
        self._open.clear()

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())


def fields(values: Iterable[str | int]) -> bytes:
    """Of each its length, its bytes, a NUL. A spec has a hundred of them, so they are encoded, packed and joined at once."""
    texts = list(map(str, values))
    datas = "\0".join(texts).encode(ENCODING, ERRORS).split(b"\0") if texts else []
    if len(datas) != len(texts):  # one has a NUL inside, and the cage is to refuse it
        datas = [text.encode(ENCODING, ERRORS) for text in texts]
    lengths = struct.pack(f"<{len(datas)}I", *map(len, datas))
    parts = [b"\0"] * (3 * len(datas))
    parts[0::3] = list(chain.from_iterable(struct.iter_unpack("4s", lengths)))
    parts[1::3] = datas
    return b"".join(parts)


def field(data: bytes) -> bytes:
    """One of any bytes."""
    return b"%b%b\0" % (struct.pack("<I", len(data)), data)


def spec_file(data: bytes, close: Descriptors) -> int:
    """The descriptor of a file in memory."""
    descriptor = close.add(os.memfd_create("cage"))
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
    return descriptor


def pipe(reader: Descriptors, writer: Descriptors) -> tuple[int, int]:
    """A pipe whose ends are closed with these."""
    reading, writing = os.pipe()
    return reader.add(reading), writer.add(writing)


def above_stdio(descriptor: int, close: Descriptors) -> int:
    """The descriptor, or a copy of one below 3, which are the cage's own streams."""
    if descriptor > 2:
        return descriptor
    return close.add(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3))


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
