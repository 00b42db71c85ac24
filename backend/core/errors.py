"""The errors of Gatepost. Expected outcomes (denied, timed out, cancelled) are values, not errors.

GatepostError
├── KeyFileError        a key file cannot be used
├── RecordingError      the recording cannot be written
│   └── ShareUsedUpError    the owner has recorded as much as it may
└── StorageError        the database cannot be reached or rejects a statement
"""

from collections.abc import Iterator
from contextlib import contextmanager


def reason_of(error: Exception) -> str:
    """What went wrong: the message of the operating system where it comes from there."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class GatepostError(Exception):
    """An error in Gatepost; the docstring of each class is its default message."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class KeyFileError(GatepostError):
    """The key file cannot be read or created, or other users may read it."""


class RecordingError(GatepostError):
    """The recording cannot be written, so nothing may run."""


class ShareUsedUpError(RecordingError):
    """The account has recorded as much as it may within a day."""


class StorageError(GatepostError):
    """The database cannot be reached, so nothing may run."""


@contextmanager
def needed(what: str) -> Iterator[None]:
    """For imports that wait until they are needed. Raises StorageError where their files cannot be opened then.

    So it is while no descriptor is left.
    """
    try:
        yield
    except (OSError, ImportError) as error:
        raise StorageError(f"{what} cannot be used at the moment: {reason_of(error)}.") from error
