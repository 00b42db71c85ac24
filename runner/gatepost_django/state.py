"""The private folder of a runner: its lock, its log, what it reports of itself, and what waits to be sent."""

import fcntl
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
LOCKING = 1.0  # seconds in which a lock that is only looked at is free again


class StateError(Exception):
    """The folder cannot be used; the text says why, and what to do."""


@dataclass(frozen=True)
class Folder:
    """The folder of one runner of a project."""

    path: Path

    @property
    def log(self) -> Path:
        """Its log."""
        return self.path / "runner.log"

    @property
    def errors(self) -> Path:
        """What a runner in the background has printed outside of its log."""
        return self.path / "errors.log"

    @property
    def spool(self) -> Path:
        """What waits to be sent."""
        return self.path / "spool"

    def prepare(self) -> None:
        """Create it, for this user alone. Raises StateError."""
        try:
            self.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            for each in (self.path, self.spool):
                _make_private(each)
        except OSError as error:
            hint = "Set GATEPOST_STATE_DIR to a folder that this user may write to."
            raise StateError(f"{self.path} cannot be used: {error.strerror}. {hint}") from None

    def lock(self) -> int | None:
        """The open lock, until it is closed by all processes that have it; None while another runner has it."""
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + LOCKING
        while not _try(fd, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                os.close(fd)
                return None
            time.sleep(0.05)
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps({"pid": os.getpid(), "started": time.time()}).encode(), 0)
        return fd

    def holder(self) -> Mapping[str, Any] | None:
        """The process that has the lock, and when it began; None if there is none.

        The lock of a runner that was killed is free when the last process of its commands has ended.
        """
        try:
            fd = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return None if _try(fd, fcntl.LOCK_SH) else _read(os.pread(fd, 4096, 0))
        finally:
            os.close(fd)

    def report(self, values: Mapping[str, Any]) -> None:
        """Store what the runner reports of itself."""
        new = self.path / "report.new"
        new.write_text(json.dumps({"pid": os.getpid(), **values}))
        new.replace(self.path / "report.json")

    def reported(self, pid: object) -> Mapping[str, Any]:
        """What the runner with this pid has reported last."""
        try:
            found = _read((self.path / "report.json").read_bytes())
        except OSError:
            return {}
        return found if found.get("pid") == pid else {}


def _try(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _read(data: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _make_private(folder: Path) -> None:
    """Refuse a folder of another user, and close it for others."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise StateError(f"{folder} is not a folder of this user. Remove it, or set GATEPOST_STATE_DIR.")
    folder.chmod(0o700)


def folder_of(project: Path, name: str, root: str | os.PathLike[str] | None) -> Folder:
    """The folder of the runner with this name. Raises StateError."""
    if not NAME.fullmatch(name):
        raise StateError(f"{name!r} cannot be the name of a runner: use up to 32 of a-z, 0-9 and -.")
    digest = hashlib.sha256(str(project).encode()).hexdigest()[:16]
    return Folder(_root(root) / f"{project.name[:32]}-{digest}" / name)


def _root(root: str | os.PathLike[str] | None) -> Path:
    if root:
        return Path(root)
    try:
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    except RuntimeError:
        raise StateError("This user has no home folder. Set GATEPOST_STATE_DIR.") from None
    return Path(home) / "gatepost-django"
