"""Files that hold keys: made once with mode 0600, refused when anybody else may read them."""

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from backend.core.errors import KeyFileError


def load_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    """The key in the file, which is made where it is missing; processes that start at once get the same.

    Raises KeyFileError when it cannot be read or made, is empty, or is open to group or others.
    """
    try:
        try:
            return _read(path)
        except FileNotFoundError:
            _place(path, make())
            return _read(path)
    except OSError as error:
        raise KeyFileError(f"The key file {path} cannot be used: {error.strerror or error}.") from error


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise KeyFileError(
                f"The key file {path} is open to other users; say chmod 600, or delete it for a new key."
            )
        key = file.read()
    if not key:
        raise KeyFileError(f"The key file {path} is empty; delete it for a new key.")
    return key


def _place(path: Path, key: bytes) -> None:
    """Write the key beside `path`, then give it that name, unless another process was first."""
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(descriptor)
        _link(beside, path)
    finally:
        os.unlink(beside)


def _link(beside: str, path: Path) -> None:
    try:
        os.link(beside, path)
    except FileExistsError:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
