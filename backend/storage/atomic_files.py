"""Files that are whole or not there, whoever reads or writes them at the same time, and whenever the machine stops."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def replace_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Put a file in the place of the older one. Raises OSError."""
    with whole_file(path, content, mode) as beside:
        os.replace(beside, path)


@contextmanager
def whole_file(path: Path, content: bytes, mode: int) -> Iterator[str]:
    """A file of its own beside `path`, with the content on the disk; it goes at the end unless it was given another name."""
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        yield beside
    finally:
        with suppress(FileNotFoundError):
            os.unlink(beside)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
