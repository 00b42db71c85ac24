"""Files that contain keys: created once with mode 0600, refused if other users may read them.

The key that signs the audit can be rotated, by one process at a time, while servers sign with it.
"""

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, Self

from backend.core.dataclasses import dataclass
from backend.core.errors import KeyFileError
from backend.storage.atomic_files import replace_file, sync_folder, whole_file


class SigningKey(Protocol):
    """A private key. Its signatures are deterministic; `public` is the public key, `public_pem` the same in PEM.

    A MAC needs the key to be verified, and is quickly made.
    """

    @property
    def public(self) -> bytes: ...

    @property
    def public_pem(self) -> bytes: ...

    def sign(self, data: bytes) -> bytes: ...

    def mac(self, data: bytes) -> bytes: ...


@dataclass(slots=True)
class AuditKeys:
    """The key that signs the audit, from the file `path`; `read` parses its content, or raises ValueError.

    A rotation takes two steps, so that no crash leaves an audit without its key: the new key is stored next to the old
    one, as `audit.key.next`, before the audit records it, and is moved into place afterwards.
    """

    path: Path
    read: Callable[[bytes], SigningKey]
    current: SigningKey

    @classmethod
    def open(cls, path: Path, read: Callable[[bytes], SigningKey], make: Callable[[], bytes]) -> Self:
        """The key in the file, which is created if it is missing. Raises KeyFileError."""
        return cls(path, read, _parse(path, load_or_make(path, make), read))

    @property
    def beside(self) -> Path:
        """The path of the next key."""
        return self.path.with_name(f"{self.path.name}.next")

    def follow(self, authenticated: Callable[[SigningKey], bool]) -> bool:
        """Sign with another key of this data folder from here on, if it authenticated the head; returns whether one did."""
        for path in (self.path, self.beside):
            key = self._find(path)
            if key and authenticated(key):
                self.current = key
                with (
                    suppress(KeyFileError, OSError),
                    self.changing(),
                ):  # a process that is rotating the key does this too
                    self.end_change()
                return True
        return False

    def _find(self, path: Path) -> SigningKey | None:
        try:
            return _parse(path, _read(path), self.read)
        except (OSError, KeyFileError):
            return None

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Let only one process at a time rotate the key. Raises KeyFileError if another one does."""
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(folder)
            raise KeyFileError(f"Another process is rotating the key {self.path}.") from None
        try:
            yield
        finally:
            os.close(folder)

    def successor(self, make: Callable[[], bytes]) -> SigningKey:
        """The next key, which is created if there is none. Raises KeyFileError."""
        key = _parse(self.beside, load_or_make(self.beside, make), self.read)
        if key.public == self.current.public:
            raise KeyFileError(f"{self.beside} is the key that is in use; delete it.")
        return key

    def end_change(self) -> None:
        """Move the key that signs now into place, if it is still stored as the next key. Only within `changing`."""
        upcoming = self._find(self.beside)
        if upcoming and upcoming.public == self.current.public:
            self.beside.replace(self.path)
            sync_folder(self.path.parent)
        self.publish()

    def publish(self) -> None:
        """Write the public key next to the private one, for verifiers. Raises KeyFileError."""
        path = self.path.with_suffix(".pub")
        try:
            if not path.exists() or path.read_bytes() != self.current.public_pem:
                replace_file(path, self.current.public_pem)
        except OSError as error:
            raise KeyFileError(f"The public key {path} cannot be written: {error.strerror or error}.") from error


def _parse(path: Path, text: bytes, read: Callable[[bytes], SigningKey]) -> SigningKey:
    try:
        return read(text)
    except ValueError as error:
        raise KeyFileError(f"The key file {path} cannot be used: {error}.") from error


def load_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    """The key in the file, which is created if it is missing; processes that start at the same time get the same one.

    Raises KeyFileError if it cannot be read or created, is empty, or is accessible to group or others.
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
                f"The key file {path} is accessible to other users; run chmod 600, or delete it to get a new key."
            )
        key = file.read()
    if not key:
        raise KeyFileError(f"The key file {path} is empty; delete it to get a new key.")
    return key


def _place(path: Path, key: bytes) -> None:
    """Write the key to a file next to `path`, then give it that name, unless another process was first."""
    with whole_file(path, key, 0o600) as temporary, suppress(FileExistsError):
        os.link(temporary, path)
        sync_folder(path.parent)
