"""Files and folders of the service that a command of the same user closed: where the service owns them, it opens them."""

import os
import stat
from contextlib import suppress
from pathlib import Path

FOLDER, FILE = 0o700, 0o600  # what their owner needs


def open_own(path: str, flags: int, mode: int = FILE) -> int:
    """`os.open`, also for what lost the modes that its owner needs, or is in a folder that did. Raises OSError."""
    try:
        return os.open(path, flags | os.O_CLOEXEC, mode)
    except PermissionError:
        file = Path(path)
        restore(file.parent.parent, file.parent, file)
        return os.open(path, flags | os.O_CLOEXEC, mode)


def restore(*paths: Path) -> None:
    """Give the owner the modes that it needs, from the outer folder to what is in it. What others may do stays."""
    for path in paths:
        with suppress(OSError):  # its next use reports the error
            _restore(path)


def _restore(path: Path) -> None:
    found = path.lstat()
    needed = FOLDER if stat.S_ISDIR(found.st_mode) else FILE if stat.S_ISREG(found.st_mode) else 0
    if found.st_uid == os.geteuid() and found.st_mode & needed != needed:
        path.chmod(stat.S_IMODE(found.st_mode) | needed)
