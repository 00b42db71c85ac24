"""Files that are complete or absent, even with concurrent readers and writers and after a crash of the machine."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def replace_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace a file, or create it. Raises OSError."""
    with whole_file(path, content, mode) as temporary:
        os.replace(temporary, path)


@contextmanager
def whole_file(path: Path, content: bytes, mode: int) -> Iterator[str]:
    """A temporary file next to `path`, with the content on the disk; it is deleted at the end unless it was renamed."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
