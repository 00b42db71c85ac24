"""The roster of hosts in the data folder: `hosts.json`, and the master key `hosts.key` that their secrets follow from."""

import fcntl
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, field
from pathlib import Path

from backend.core.dataclasses import dataclass
from backend.core.errors import KeyFileError, StorageError
from backend.core.hosts.roster import Enrolled, Grant, Roster
from backend.storage.atomic_files import replace_file
from backend.storage.keys import load_or_make

SECRET_MODE = 0o600


@dataclass(slots=True)
class RosterFile:
    """The roster of a data folder. Several servers may read it while a command line changes it."""

    folder: Path
    path: Path = field(init=False)
    _stamp: tuple[int, int] = (0, 0)
    _roster: Roster = field(default_factory=Roster)
    _master: bytes = b""

    def __post_init__(self) -> None:
        self.path = self.folder / "hosts.json"

    def master(self) -> bytes:
        """The master key, made when it is first used, and read once. Raises StorageError."""
        if self._master:
            return self._master
        try:
            self._master = load_or_make(self.folder / "hosts.key", lambda: secrets.token_hex(32).encode())
            return self._master
        except KeyFileError as error:
            raise StorageError(str(error)) from error

    def read(self) -> Roster:
        """The roster as it is now; empty without a file. Raises StorageError."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return Roster()
        except OSError as error:
            raise StorageError(f"{self.path} cannot be read: {error.strerror}.") from error
        if self._stamp != (stamp := (found.st_mtime_ns, found.st_ino)):
            self._roster, self._stamp = self._load(), stamp
        return self._roster

    def _load(self) -> Roster:
        try:
            content = json.loads(self.path.read_bytes())
            hosts = [Enrolled(**each) for each in content["hosts"]]
            grants = tuple(Grant(**each) for each in content["grants"])
        except OSError as error:
            raise StorageError(f"{self.path} cannot be read: {error.strerror}.") from error
        except (ValueError, TypeError, KeyError) as error:
            raise StorageError(f"{self.path} is not a roster of hosts.") from error
        return Roster({host.id: host for host in hosts}, grants)

    def change(self, how: Callable[[Roster], Roster]) -> Roster:
        """Change the roster; only one process at a time gets here. Raises StorageError, and what `how` raises."""
        with self._alone():
            changed = how(self.read())
            content = {"hosts": list(map(asdict, changed.hosts.values())), "grants": list(map(asdict, changed.grants))}
            try:
                replace_file(self.path, json.dumps(content, indent=1).encode(), SECRET_MODE)
            except OSError as error:
                raise StorageError(f"{self.path} cannot be written: {error.strerror}.") from error
            return changed

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "hosts.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
